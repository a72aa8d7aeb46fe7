"""The kernel side's records (bpf/dmatrace.h) as rows of a recording's tables.

Every function gives the rows of one record, in bytes and CLOCK_MONOTONIC ns, for the load
that was under way when it was read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dmatrace.bpf import layout
from dmatrace.bpf.hooks import HOOKS
from dmatrace.phases import PHASES
from dmatrace.session.ways import call_row

Row = dict[str, Any]

_OPS = {0: "read", 1: "write"}  # include/linux/blk_types.h, enum req_op


def snapshot(thread: Any, kind: str, at: int, load_id: int) -> tuple[list[Row], list[Row]]:
    """Rows of snapshots, one per phase that was seen and always one of the first; of counters."""
    # A worker has the mark of the thread it works for, or none if that has none.
    marked = kind in ("begin", "end")
    marked |= kind in ("work-begin", "work-end") and thread.load_id > 0
    head: Row = {
        "t_ns": at,
        "load_id": thread.load_id if marked else load_id,
        "window": thread.window if marked else -1,
        "kind": kind,
        "tid": thread.tid,
        "tgid": thread.tgid,
    }
    owner = thread.owner
    comm = thread.comm.decode(errors="replace")
    phases = []
    for number, phase in enumerate(PHASES):
        cell = thread.cells[number]
        if number == 0 or cell.count or any(cell.ns):
            phases.append(
                {
                    **head,
                    "comm": comm,
                    "owner": owner,
                    "phase": phase,
                    "cpu_ns": cell.ns[layout.MODE_CPU],
                    "blocked_ns": cell.ns[layout.MODE_BLOCKED],
                    "runnable_ns": cell.ns[layout.MODE_RUNNABLE],
                    "count": cell.count,
                }
            )
    values = [(name, thread.counters[i]) for i, name in enumerate(layout.COUNTERS)]
    values += [(f"hits:{hook.name}", thread.hits[i]) for i, hook in enumerate(HOOKS, start=1)]
    return phases, [{**head, "counter": name, "value": value} for name, value in values if value]


def run(data: bytes, load_id: int) -> Row:
    """A row of table ``runs``: what a thread read in one go."""
    read = layout.Run.from_buffer_copy(data)
    return {
        "load_id": load_id,
        "tid": read.tid,
        "tgid": read.tgid,
        "kind": layout.RUN_KINDS[read.kind],
        "dev": read.dev,
        "ino": read.ino,
        "start": read.start,
        "end": read.end,
        "since_ns": read.since,
        "until_ns": read.until,
    }


def _request(data: bytes, load_id: int) -> Row:
    request = layout.Request.from_buffer_copy(data)
    return {
        "load_id": load_id,
        "tid": request.tid,
        "tgid": request.tgid,
        "dev": request.dev,
        "sector": request.sector,
        "bytes": request.bytes,
        "op": _OPS.get(request.op, "other"),
        "queue_ns": request.queue_ns,
        "issue_ns": request.issue_ns,
        "complete_ns": request.complete_ns,
        "kind": layout.REQUEST_KINDS[request.kind],
        "phase": PHASES[request.phase],
        "file_dev": request.file_dev,
        "ino": request.ino,
    }


def _wait(data: bytes, load_id: int) -> Row:
    wait = layout.Wait.from_buffer_copy(data)
    return {
        "load_id": load_id,
        "tid": wait.tid,
        "tgid": wait.tgid,
        "phase": PHASES[wait.phase],
        "start_ns": wait.start,
        "woken_ns": wait.woken,
        "end_ns": wait.end,
    }


def _buffer(data: bytes, load_id: int) -> Row:
    buffer = layout.Buffer.from_buffer_copy(data)
    return {
        "t_ns": buffer.at,
        "load_id": load_id,
        "event": layout.BUFFER_KINDS[buffer.kind],
        "ino": buffer.ino,
        "size": buffer.size,
        "exporter": buffer.exporter.decode(errors="replace"),
        "tid": buffer.tid,
        "tgid": buffer.tgid,
        "heap": buffer.heap.decode(errors="replace"),
    }


def _interval(data: bytes, load_id: int) -> Row:
    interval = layout.Interval.from_buffer_copy(data)
    return {
        "load_id": load_id,
        "tid": interval.tid,
        "tgid": interval.tgid,
        "phase": PHASES[interval.phase],
        "hook": HOOKS[interval.hook - 1].name if interval.hook else "",
        "start_ns": interval.start,
        "end_ns": interval.end,
    }


#: {kind of record: (table, its row)}; a snapshot has rows in two, a sample is understood later.
ROWS: dict[int, tuple[str, Callable[[bytes, int], Row]]] = {
    layout.EV_REQUEST: ("requests", _request),
    layout.EV_WAIT: ("waits", _wait),
    layout.EV_BUFFER: ("buffers", _buffer),
    layout.EV_CALL: ("calls", call_row),
    layout.EV_RUN: ("runs", run),
    layout.EV_INTERVAL: ("intervals", _interval),
}
