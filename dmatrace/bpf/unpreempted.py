"""Calls of bpf(2) on maps that no other task interrupts.

While the kernel copies, writes or deletes a map's entry it runs no program of a kprobe
and no classic tracepoint on that CPU, whoever's they are (bpf_disable_instrumentation()
in include/linux/bpf.h: a program that waited for the lock of the same bucket would wait
for ever).  That lasts for less than a microsecond, unless the caller is preempted there:
then for as long as the others run, and what they do is missed.  So where the kernel
preempts itself, the call is made under SCHED_FIFO, which no task of a load takes the CPU
from (sched(7)).
"""

from __future__ import annotations

import os
from types import TracebackType

from dmatrace.bpf.preemption import preempts

_REAL_TIME = (os.SCHED_FIFO, os.SCHED_RR, 6)  # 6: SCHED_DEADLINE


class Unpreempted:
    """A context for the thread that made it, not to be entered inside of itself.

    ``needed``: whether the kernel preempts, found out if None.  Who has a real-time policy
    already keeps it; where it is refused nothing changes, and what is missed is counted.
    """

    def __init__(self, needed: bool | None = None) -> None:
        self._usual = os.sched_getscheduler(0)
        self._usually = os.sched_getparam(0)
        needed = preempts() if needed is None else needed
        self._active = needed and self._usual & ~os.SCHED_RESET_ON_FORK not in _REAL_TIME
        self._lowest = os.sched_param(os.sched_get_priority_min(os.SCHED_FIFO))

    def __enter__(self) -> None:
        if not self._active:
            return
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, self._lowest)
        except OSError:
            # Without CAP_SYS_NICE, or in a cgroup that has no share of real time.
            self._active = False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._active:
            os.sched_setscheduler(0, self._usual, self._usually)
