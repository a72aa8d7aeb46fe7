"""What a thread is doing when it is first followed: the phase stack begins inside a call.

A thread that waits says so in proc: in which system call, and behind which
functions (/proc/PID/task/TID/stack, the innermost first), so that the frames
of hooked functions are there when their ends come.  Of one that runs nothing
can be known from outside; the BPF program finds out at its first event.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence

from dmatrace.bpf import layout
from dmatrace.phases import PHASE_ID
from dmatrace.session.schedstat import SchedStat, schedstat

_PF_IO_WORKER = 0x10  # include/linux/sched.h
_FLAGS = 6  # of proc_pid_stat(5), behind the name: state is 0
_STACK_LINE = re.compile(r"\[<[0-9a-fx]+>\] ([A-Za-z0-9_.]+)")
_SYSCALL_HOOK = 0
_TRIES = 5

Frames = Mapping[str, tuple[int, int]]


def first_sight(
    pid: int, tid: int, frames: Frames, put: Callable[[layout.Thread], None]
) -> tuple[layout.Thread, SchedStat] | None:
    """``put`` the thread as it is now, and return it; None if it has ended or is not ours.

    With it what the scheduler says, asked as soon as it was put: on a busy host a second
    can go by before everything else is known.

    ``frames`` are the hooked functions: (number, phase).  A worker of io_uring is not
    ours: the hook that knows what it works for follows it.  io_uring's other kernel
    thread, for SQPOLL, works for its process all the time.
    """
    where = f"/proc/{pid}/task/{tid}"
    try:
        for _ in range(_TRIES):
            comm, state, flags = _stat(where)
            if flags & _PF_IO_WORKER and comm.startswith("iou-wrk-"):
                return None
            if state in ("Z", "X"):
                return None
            before = _switches(where)
            waiting = _lines(f"{where}/syscall")[0]
            stack = [] if waiting == "running" else functions(_stack(where))
            thread = _thread(pid, tid, comm)
            if waiting == "running":
                thread.late = layout.LATE_ALL
            else:
                number = int(waiting.split()[0])
                thread.call = number if number >= 0 else layout.NO_CALL
                open_frames(thread, not waiting.startswith("-1"), stack, frames)
            put(thread)
            stats = schedstat(pid, tid, thread.last)
            # What ran meanwhile is not where it was.
            if _switches(where) == before and (waiting == "running") == _runs(where):
                return (thread, stats) if stats else None
        thread = _thread(pid, tid, comm)
        thread.late = layout.LATE_ALL
        put(thread)
        stats = schedstat(pid, tid, thread.last)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return (thread, stats) if stats else None


def _thread(pid: int, tid: int, comm: str) -> layout.Thread:
    thread = layout.Thread()
    thread.type = layout.EV_SNAPSHOT
    thread.tid, thread.tgid = tid, pid
    thread.comm = comm.encode(errors="surrogateescape")[:15]
    thread.last = time.monotonic_ns()
    thread.mode = layout.MODE_CPU
    thread.phase = PHASE_ID["user"]
    thread.call = layout.NO_CALL
    return thread


def open_frames(
    thread: layout.Thread, in_syscall: bool, stack: Sequence[str], frames: Frames
) -> None:
    """Make ``thread`` one that is blocked behind ``stack``, the innermost function first."""
    thread.mode = layout.MODE_BLOCKED
    # Calls that began before we attached have no end for us: the system call's resets all.
    thread.late = layout.LATE_FRAMES
    opened = [(_SYSCALL_HOOK, PHASE_ID["syscall"])] if in_syscall else []
    opened += [frames[name] for name in reversed(stack) if name in frames]
    for hook, phase in opened[: layout.DEPTH_MAX]:
        frame = thread.stack[thread.depth]
        frame.hook = hook
        frame.phase = thread.phase if phase == layout.PHASE_OUTER else phase
        frame.start = thread.last
        thread.phase = frame.phase
        thread.depth += 1


def functions(lines: Sequence[str]) -> list[str]:
    """The functions of a stack in proc, the innermost first, without what compilers append."""
    found = (_STACK_LINE.match(line) for line in lines)
    return [match[1].partition(".")[0] for match in found if match]


def _stat(where: str) -> tuple[str, str, int]:
    """(name, state, flags) of proc_pid_stat(5)."""
    head, _, rest = "\n".join(_lines(f"{where}/stat")).rpartition(")")
    fields = rest.split()
    return head.partition("(")[2], fields[0], int(fields[_FLAGS])


def _stack(where: str) -> list[str]:
    """[] where the kernel was built without: time is then in the phase around."""
    try:
        return _lines(f"{where}/stack")
    except OSError:
        return []


def _runs(where: str) -> bool:
    return _lines(f"{where}/syscall")[0] == "running"


def _switches(where: str) -> str:
    lines = _lines(f"{where}/status")
    return next((line for line in lines if line.startswith("voluntary_ctxt")), "")


def _lines(path: str) -> list[str]:
    with open(path, errors="surrogateescape") as lines:
        return lines.read().splitlines() or [""]
