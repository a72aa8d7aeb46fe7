"""The programs of the taps (hooks.py, TAPS): which tracepoints each C file has one for."""

from __future__ import annotations

from dmatrace.bpf.hook import Tap
from dmatrace.bpf.preemption import preempts

# C file of a tap -> the tracepoints its programs are for, raw or with tracefs's fields.
_RAW = {
    "tasks.c": (
        "sys_enter",
        "sys_exit",
        "sched_switch",
        "sched_wakeup",
        "sched_process_fork",
        "sched_process_exec",
        "sched_process_exit",
    ),
    "direct.c": ("iomap_dio_complete",),
    "dmabuf.c": ("dma_buf_export",),
    "block.c": ("block_bio_queue", "block_split", "block_rq_issue", "block_rq_complete"),
}
# Attached twice (twice() says where).  A program that runs is not entered again on its CPU:
# when a read that is waited for is told of, and an interrupt completes another meanwhile, the
# second copy hears of that one (or the first, while the second runs).  Whoever is first forgets
# the kiocb.
_TWICE = frozenset(("iomap_dio_complete",))
# The same where a task can be preempted in the program: what others queue and issue on that CPU
# is another copy's.  Completions come in interrupts, which nobody preempts.
_TWICE_PREEMPTED = frozenset(("block_bio_queue", "block_split", "block_rq_issue"))
AGAIN = " again"
# What stands for them where the kernel preempts itself.
_UNPREEMPTED = {
    "sys_enter": "raw_syscalls:sys_enter",
    "sys_exit": "raw_syscalls:sys_exit",
    "sched_process_exec": "sched:sched_process_exec",
    "sched_process_exit": "sched:sched_process_exit",
}
_CLASSIC = {
    "pagecache.c": (
        "filemap:mm_filemap_add_to_page_cache",
        "filemap:mm_filemap_delete_from_page_cache",
    ),
}


def twice(event: str) -> bool:
    """Whether a tracepoint has two programs, of which one is enough."""
    return event in _TWICE or (event in _TWICE_PREEMPTED and preempts())


def programs(tap: Tap) -> list[tuple[str, str]]:
    """(tracepoint, "" or AGAIN) of each program: raw, or "system:name" with tracefs's fields."""
    raw = _RAW.get(tap.source, ())
    if preempts():
        raw = tuple(_UNPREEMPTED.get(event, event) for event in raw)
    events = [*raw, *_CLASSIC.get(tap.source, ())]
    return [*((event, "") for event in events), *((e, AGAIN) for e in events if twice(e))]
