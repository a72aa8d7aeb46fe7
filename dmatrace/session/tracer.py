"""The tracer: follows processes and turns kernel records into table rows.

Usage: ``start()``, ``follow(pid)``, ``poll()`` now and then, ``close()``.
Rows accumulate in ``rows[table]`` until ``take()``; all times are
CLOCK_MONOTONIC ns, all amounts bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Collection, Iterator
from typing import Any

from dmatrace.bpf import layout
from dmatrace.bpf.hooks import HOOKS
from dmatrace.bpf.program import Program
from dmatrace.phases import PHASES
from dmatrace.session.changes import BpfStats
from dmatrace.session.follow import first_sight

Row = dict[str, Any]

_OPS = {0: "read", 1: "write"}  # include/linux/blk_types.h, enum req_op


def current_dev_ino(path: str) -> tuple[int, int]:
    """The (dev, ino) that tracepoints print for a file."""
    status = os.stat(path)
    return layout.kernel_dev(os.major(status.st_dev), os.minor(status.st_dev)), status.st_ino


class Tracer:
    """One attached program and what it has reported."""

    def __init__(
        self,
        mode: str = "auto",
        without: Collection[str] = (),
        *,
        follow_fork: bool = True,
        per_thread_cache: bool = False,
        stats: bool = True,
    ) -> None:
        self.rows: dict[str, list[Row]] = {}
        self.load_id = -1
        self.program = Program(
            mode, without, follow_fork=follow_fork, per_thread_cache=per_thread_cache
        )
        try:
            self.program.check_layout()
            self._bpf = self.program.bpf
            self._bpf["events"].open_ring_buffer(self._record)
            self._stats = BpfStats() if stats else None
        except BaseException:
            self.program.close()
            raise

    @property
    def hooks(self) -> list[dict[str, object]]:
        """The recording's ``hooks`` list."""
        return self.program.hooks

    def follow(self, pid: int, *, show: bool = False) -> list[int]:
        """Trace every thread that process ``pid`` has now, and those it starts: their tids.

        Workers of its io_uring are left to the hook that knows what they work on.
        ``show`` reports each as it is now, a snapshot of zeros, for whoever sets no marks.
        """
        found: set[int] = set()
        # Once more: a thread that was not followed yet may have started another meanwhile.
        while new := {int(name) for name in os.listdir(f"/proc/{pid}/task")} - found:
            found |= new
            for tid in sorted(new):
                self._follow_thread(pid, tid, show)
        return sorted(found)

    def _follow_thread(self, pid: int, tid: int, show: bool) -> None:
        table = self._bpf["threads"]

        def put(thread: layout.Thread) -> None:
            table[ctypes.c_uint32(tid)] = table.Leaf.from_buffer_copy(thread)

        thread = first_sight(pid, tid, self.program.frames, put)
        if thread is not None and show:
            self._snapshot(thread, "poll", thread.last)

    def poll(self, timeout_ms: int = 0) -> None:
        """Take what the ring buffer holds."""
        self._bpf.ring_buffer_poll(timeout_ms)

    def drain(self) -> None:
        """Take everything that was written before this call."""
        self._bpf.ring_buffer_consume()

    def take(self) -> dict[str, list[Row]]:
        """The rows so far; the caller owns them now."""
        rows, self.rows = self.rows, {}
        return rows

    def _add(self, table: str, row: Row) -> None:
        self.rows.setdefault(table, []).append(row)

    def _record(self, _context: Any, data: int, size: int) -> None:
        kind = ctypes.cast(data, ctypes.POINTER(ctypes.c_uint32))[0]
        if kind == layout.EV_SNAPSHOT:
            snapshot = layout.Snapshot.from_address(data)
            self._snapshot(snapshot, layout.SNAP_KINDS.get(snapshot.kind, "poll"), snapshot.at)
        elif kind == layout.EV_REQUEST:
            self._request(layout.Request.from_address(data))
        elif kind == layout.EV_BUFFER:
            buffer = layout.Buffer.from_address(data)
            self._add(
                "buffers",
                {
                    "t_ns": buffer.at,
                    "load_id": self.load_id,
                    "event": layout.BUFFER_KINDS[buffer.kind],
                    "ino": buffer.ino,
                    "size": buffer.size,
                    "exporter": buffer.exporter.decode(errors="replace"),
                    "tid": buffer.tid,
                    "tgid": buffer.tgid,
                },
            )
        elif kind == layout.EV_INTERVAL:
            interval = layout.Interval.from_address(data)
            self._add(
                "intervals",
                {
                    "load_id": self.load_id,
                    "tid": interval.tid,
                    "tgid": interval.tgid,
                    "phase": PHASES[interval.phase],
                    "hook": HOOKS[interval.hook - 1].name if interval.hook else "",
                    "start_ns": interval.start,
                    "end_ns": interval.end,
                },
            )

    def _request(self, request: layout.Request) -> None:
        self._add(
            "requests",
            {
                "load_id": self.load_id,
                "tid": request.tid,
                "tgid": request.tgid,
                "dev": request.dev,
                "sector": request.sector,
                "bytes": request.bytes,
                "op": _OPS.get(request.op, "other"),
                "queue_ns": request.queue_ns,
                "issue_ns": request.issue_ns,
                "complete_ns": request.complete_ns,
            },
        )

    def _snapshot(self, thread: Any, kind: str, at: int) -> None:
        # A worker has the mark of the thread it works for, or none if that has none.
        marked = kind in ("begin", "end")
        marked |= kind in ("work-begin", "work-end") and thread.load_id > 0
        head: Row = {
            "t_ns": at,
            "load_id": thread.load_id if marked else self.load_id,
            "window": thread.window if marked else -1,
            "kind": kind,
            "tid": thread.tid,
            "tgid": thread.tgid,
        }
        owner = thread.owner
        comm = thread.comm.decode(errors="replace")
        for number, phase in enumerate(PHASES):
            cell = thread.cells[number]
            if number == 0 or cell.count or any(cell.ns):
                self._add(
                    "snapshots",
                    {
                        **head,
                        "comm": comm,
                        "owner": owner,
                        "phase": phase,
                        "cpu_ns": cell.ns[layout.MODE_CPU],
                        "blocked_ns": cell.ns[layout.MODE_BLOCKED],
                        "runnable_ns": cell.ns[layout.MODE_RUNNABLE],
                        "count": cell.count,
                    },
                )
        values = [(name, thread.counters[i]) for i, name in enumerate(layout.COUNTERS)]
        values += [(f"hits:{hook.name}", thread.hits[i]) for i, hook in enumerate(HOOKS, start=1)]
        for name, value in values:
            if value:
                self._add("counters", {**head, "counter": name, "value": value})

    def poll_threads(self) -> None:
        """A "poll" snapshot of every traced thread, its open interval included.

        Read while the thread may run, so single cells may lag each other by
        one transition; begin, end, fork and exit snapshots do not.
        """
        now = time.monotonic_ns()
        for _, leaf in self._bpf["threads"].items():
            thread = layout.Thread.from_buffer_copy(leaf)
            if now > thread.last:
                thread.cells[thread.phase & 31].ns[thread.mode % 3] += now - thread.last
            self._snapshot(thread, "poll", now)

    def reset_file(self, dev: int, ino: int) -> None:
        """Start the ledger of one file at zero, so that every change from now on counts."""
        table = self.program.table("files")
        if table is not None:
            key = table.Key.from_buffer_copy(layout.FileKey(ino=ino, dev=dev))
            table[key] = table.Leaf()

    def file_pages(self, dev: int, ino: int) -> layout.FilePages | None:
        """The ledger of one file, or None if it was never seen or is not traced."""
        table = self.program.table("files")
        if table is None:
            return None
        try:
            leaf = table[table.Key.from_buffer_copy(layout.FileKey(ino=ino, dev=dev))]
        except KeyError:
            return None
        return layout.FilePages.from_buffer_copy(leaf)

    def all_file_pages(self) -> Iterator[tuple[int, int, layout.FilePages]]:
        """(dev, ino, ledger) of every file that a traced thread has brought into the cache."""
        table = self.program.table("files")
        for key, leaf in table.items() if table is not None else ():
            yield int(key.dev), int(key.ino), layout.FilePages.from_buffer_copy(leaf)

    def pinned_peak(self, *, reset: bool = False) -> int:
        """Most bytes pinned at once since the last reset."""
        table = self._bpf["pinned"]
        peak = int(table[1].value)
        if reset:
            table[1] = ctypes.c_uint64(table[0].value)
        return max(0, ctypes.c_int64(peak).value)

    def lost_by(self) -> dict[str, int | None]:
        """What was lost: records ("ring"), threads and files without room ("threads"), and
        calls of hooked functions ("missed"), None where this kernel does not count those.
        """
        table = self._bpf["lost"]
        found = {name: int(table[index].value) for index, name in enumerate(layout.LOST)}
        return {**found, "missed": self.program.missed()}

    @property
    def lost(self) -> int:
        """All of them that are known."""
        return sum(number or 0 for number in self.lost_by().values())

    def self_cost(self) -> tuple[int, int]:
        """(BPF run time in ns, runs) since tracing began; zeros without BPF statistics."""
        return self.program.run_stats()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """No probe attached; threads that were followed are forgotten."""
        with self.program.paused():
            self._bpf["threads"].clear()
            yield

    def close(self) -> None:
        """Detach every probe."""
        if self._stats is not None:
            self._stats.close()
        self.program.close()
