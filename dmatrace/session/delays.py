"""Delay accounting of what is recorded: rows of the ``delays`` table.

Differences between two accounts of a thread, or what it had when it ended.
"""

from __future__ import annotations

import os
from typing import Any

from dmatrace.session.taskstats import DELAYS, Stats, Taskstats

Row = dict[str, Any]

_STARTTIME = 19  # of proc_pid_stat(5), behind the name: clock ticks since boot


class Delays:
    """Accounts of processes from ``begin(pid)`` on."""

    def __init__(self, taskstats: Taskstats) -> None:
        self._taskstats = taskstats
        self._begun: dict[int, dict[int, tuple[Stats, bool]]] = {}
        self._ended: dict[int, list[Stats]] = {}

    def begin(self, pid: int, *, born: bool = False) -> None:
        """From now on; ``born`` for a process that was forked since we look."""
        accounts = {} if born else self._taskstats.process(pid)
        self._begun[pid] = {tid: (one, self._full(pid, tid)) for tid, one in accounts.items()}
        if not born:
            self.poll()  # a process before it had that number, too
        self._ended[pid] = []

    def poll(self) -> None:
        """Take the last accounts of threads that have ended."""
        for stats in self._taskstats.ended():
            pid = stats.tgid or self._process_of(stats.tid)
            if pid in self._ended:
                self._ended[pid].append(stats)

    def rows(self, pid: int, load_id: int) -> list[Row]:
        """What its threads were delayed since ``begin(pid)``."""
        living = self._taskstats.process(pid)
        self.poll()
        begun = self._begun.pop(pid, {})
        found = []
        for stats in [*self._ended.pop(pid, []), *living.values()]:
            before, full = begun.pop(stats.tid, (None, True))
            row: Row = {
                "load_id": load_id,
                "tid": stats.tid,
                "tgid": pid,
                "comm": stats.comm,
                "full": int(full),
            }
            for name, (count, ns) in stats.since(before).items():
                if full or name == "cpu":
                    row[f"{name}_count"], row[f"{name}_ns"] = count, ns
            found.append(row)
        return found

    def kinds(self) -> list[str]:
        """What this kernel accounts for."""
        found = self._taskstats.of(os.getpid())
        return [name for name in DELAYS if found and name in found.delays]

    def _process_of(self, tid: int) -> int:
        """Before version 12 an account does not say whose thread it is of."""
        return next((pid for pid, known in self._begun.items() if tid in known), tid)

    def _full(self, pid: int, tid: int) -> bool:
        since = self._taskstats.full_since
        try:
            with open(f"/proc/{pid}/task/{tid}/stat", errors="replace") as text:
                ticks = int(text.read().rpartition(")")[2].split()[_STARTTIME])
        except (FileNotFoundError, ProcessLookupError):
            return not since
        return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK") >= since
