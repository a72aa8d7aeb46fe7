"""What is known of a process that is followed, and of its threads."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from dmatrace.session.rows import Row
from dmatrace.session.schedstat import SchedStat

#: Counters of bytes that a process got from files; spliced ones as they came to the pipe.
READ = (
    "dio_bytes",
    "copy_read_bytes",
    "copy_shmem_read_bytes",
    "splice_cache_bytes",
    "splice_shmem_bytes",
)

_BORN = SchedStat(0, 0, 0)


@dataclass
class Thread:
    """A thread's beginning, and its counters then and when it was last seen."""

    start_ns: int
    sched: SchedStat = _BORN
    base: dict[str, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    seen_ns: int = 0


@dataclass
class Process:
    """One followed process: its row of table ``loads``, and its threads."""

    row: Row
    living: set[int] = field(default_factory=set)
    totals: Counter[str] = field(default_factory=Counter)
    dmabuf: int = 0
    over: bool = False

    def sum(self, name: str, threads: Mapping[int, Thread]) -> int:
        """One counter over its threads, those that live and those that have ended."""
        running = (threads[tid] for tid in self.living if tid in threads)
        open_ = sum(thread.last.get(name, 0) - thread.base.get(name, 0) for thread in running)
        return self.totals[name] + open_


def how(status: int) -> str:
    """A wait(2) status in words."""
    code = os.waitstatus_to_exitcode(status)
    return f"signal {-code}" if code < 0 else f"exit code {code}"
