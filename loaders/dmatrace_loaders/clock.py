"""The loader's own clock, and the marks that show the tracer the same window.

A window's order is: getrusage, schedstat, clock, BEGIN mark, work, clock, END
mark, schedstat, getrusage.  The mark is a prctl(2) with an option that does not
exist: the kernel answers EINVAL, and a tracer that watches sys_enter takes a
snapshot of the calling thread.  The clock is read right before each mark, and
the tracer stamps a mark before it takes its snapshot, so both windows are
equally long but for the difference of two calls.  A CPU that is taken away
between clock and mark makes that difference large; the clock is read behind
them as well, so that a record says how large it can be (``mark_ns``).  Times
are CLOCK_MONOTONIC ns.
"""

from __future__ import annotations

import ctypes
import os
import resource
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

MARKER = 0x444D5452  # "DMTR"
BEGIN, END = 1, 2

Record = dict[str, Any]

_libc = ctypes.CDLL(None)
# Arguments are converted once, here, not at each mark.
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


class Window:
    """One timed stretch of the calling thread; appends its Record to ``into``."""

    def __init__(self, load_id: int, window: int, into: list[Record]) -> None:
        self._mark = (load_id, window)
        self._into = into
        self._tid = threading.get_native_id()
        self._schedstat = os.open(
            f"/proc/self/task/{self._tid}/schedstat", os.O_RDONLY | os.O_CLOEXEC
        )

    def _ran(self) -> tuple[int, int]:
        """(run, wait) in ns; the scheduler brings the run time up to date when it runs."""
        os.sched_yield()
        run, wait, _ = os.pread(self._schedstat, 64, 0).split()
        return int(run), int(wait)

    @staticmethod
    def now() -> int:
        """CLOCK_MONOTONIC in ns."""
        return time.monotonic_ns()

    def __enter__(self) -> Window:
        self._usage = resource.getrusage(resource.RUSAGE_THREAD)
        self._before = self._ran()
        self.start = time.monotonic_ns()
        _prctl(MARKER, BEGIN, *self._mark, 0)
        self._begun = time.monotonic_ns()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end = time.monotonic_ns()
        _prctl(MARKER, END, *self._mark, 0)
        ended = time.monotonic_ns()
        run, wait = self._ran()
        usage, before = resource.getrusage(resource.RUSAGE_THREAD), self._usage
        os.close(self._schedstat)
        with open(f"/proc/self/task/{self._tid}/comm") as comm:
            name = comm.read().strip()
        self._into.append(
            {
                "tid": self._tid,
                "comm": name,
                "window": self._mark[1],
                "start_ns": self.start,
                "end_ns": self.end,
                "mark_ns": self._begun - self.start + ended - self.end,
                "sched_run_ns": run - self._before[0],
                "sched_wait_ns": wait - self._before[1],
                # As in /proc/PID/task/TID/io: what it asked of block devices, in 512 bytes.
                "read_bytes": 512 * (usage.ru_inblock - before.ru_inblock),
                "faults": usage.ru_minflt + usage.ru_majflt - before.ru_minflt - before.ru_majflt,
            }
        )


class Worker(threading.Thread):
    """A loading thread with its own window; ``finish`` re-raises what went wrong in it."""

    def __init__(self, load_id: int, into: list[Record], work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._load_id = load_id
        self._records = into
        self._work = work
        self._error: BaseException | None = None

    def run(self) -> None:
        """The thread's body."""
        try:
            with Window(self._load_id, 0, self._records):
                self._work()
        except BaseException as error:
            self._error = error

    def finish(self) -> None:
        """Wait for the end."""
        self.join()
        if self._error is not None:
            raise self._error
