"""What the scheduler says of a thread: /proc/PID/task/TID/schedstat.

Source: proc_pid_schedstat() in fs/proc/base.c, task->se.sum_exec_runtime and
task->sched_info.run_delay.
"""

from __future__ import annotations

import time
from typing import NamedTuple


class SchedStat(NamedTuple):
    """Run and wait time of a thread until now, in ns.

    ``mark_ns`` is how much later than the tracer's own look at the thread that can have been.
    """

    run_ns: int
    wait_ns: int
    mark_ns: int


def schedstat(pid: int, tid: int, since_ns: int) -> SchedStat | None:
    """Right after the tracer looked, at ``since_ns`` (CLOCK_MONOTONIC); None if it has ended."""
    try:
        with open(f"/proc/{pid}/task/{tid}/schedstat") as text:
            run, wait, _ = text.read().split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return SchedStat(int(run), int(wait), time.monotonic_ns() - since_ns)
