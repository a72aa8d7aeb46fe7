"""The tracer: follows processes and turns kernel records into table rows.

Usage: ``start()``, ``follow(pid)``, ``drain()`` now and then, ``close()``.
Rows accumulate in ``rows[table]`` until ``take()``; all times are
CLOCK_MONOTONIC ns, all amounts bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from collections import deque
from collections.abc import Collection, Iterator
from typing import Any

from dmatrace.bpf import layout, symbols
from dmatrace.bpf.constants import MEMORY_DEVS_MAX
from dmatrace.bpf.program import Program
from dmatrace.bpf.stacks import Decoder, owners
from dmatrace.detail import EXACT, Detail
from dmatrace.session import memorydevs, rows
from dmatrace.session.changes import BpfStats
from dmatrace.session.follow import first_sight
from dmatrace.session.pagecounts import PageCounts
from dmatrace.session.rows import Row
from dmatrace.session.schedstat import SchedStat, schedstat

_FETCH = 64  # records
#: Records, of 50 to 4000 bytes, that wait in our memory; more are left in the ring, where those
#: that find no room are counted.
_BACKLOG = 1 << 20


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
        newcomers: bool = False,
        stats: bool = True,
        detail: Detail = EXACT,
    ) -> None:
        self.rows: dict[str, list[Row]] = {}
        self.load_id = -1
        #: Block devices that requests went to, and file systems lie on; the kernel's dev_t.
        self.devices: set[int] = set()
        self.detail = detail
        self._samples: list[tuple[int, bytes]] = []
        self._pending: deque[bytes] = deque()
        self._fetched = 0  # records so far, those that are pending included
        self.program = Program(
            mode, without, follow_fork=follow_fork, newcomers=newcomers, detail=detail
        )
        try:
            self.program.check_layout()
            self._tables = self.program.tables
            #: Of each file's page cache.
            self.pages = PageCounts(self.program.table("files"))
            memory = self._tables.get("memory_devs")
            if memory is not None:
                found = sorted(memorydevs.devices().items(), key=lambda each: each[1])
                for dev, kind in found[:MEMORY_DEVS_MAX]:
                    memory[dev] = kind
            known = owners(self.hooks, without)
            exact = detail.level == "exact"
            self._decoder = Decoder(symbols.symbol, known, exact=exact)
            if detail.hz:
                symbols.forget()
                symbols.symbol(0)  # reads all of kallsyms, once: now, not in a load
            self._stats = BpfStats() if stats else None
        except BaseException:
            self.program.close()
            raise

    @property
    def hooks(self) -> list[dict[str, object]]:
        """The recording's ``hooks`` list."""
        return self.program.hooks

    def newcomers(self) -> list[int]:
        """Processes that asked for a dma-buf since the last call, and are not followed."""
        table = self._tables.get("newcomers")
        if table is None:
            return []
        found = list(table.keys())
        for key in found:
            with contextlib.suppress(KeyError):
                del table[key]
        return [int(key.value) for key in found]

    def follow(self, pid: int, *, show: bool = False) -> dict[int, SchedStat]:
        """Trace every thread that process ``pid`` has now, and those it starts.

        Returns what the scheduler said of each thread as it was first traced, by tid.

        Workers of its io_uring are left to the hook that knows what they work on.
        ``show`` reports each as it is now, a snapshot of zeros, for whoever sets no marks.
        """
        seen: set[int] = set()
        found = {}
        # Once more: a thread that was not followed yet may have started another meanwhile.
        while new := {int(name) for name in os.listdir(f"/proc/{pid}/task")} - seen:
            seen |= new
            for tid in sorted(new):
                stats = self._follow_thread(pid, tid, show)
                if stats is not None:
                    found[tid] = stats
        return found

    def _follow_thread(self, pid: int, tid: int, show: bool) -> SchedStat | None:
        table = self._tables["threads"]

        def put(thread: layout.Thread) -> None:
            table[ctypes.c_uint32(tid)] = table.Leaf.from_buffer_copy(thread)

        sight = first_sight(pid, tid, self.program.frames, put)
        if sight is None:
            return None
        thread, stats = sight
        if show:
            self._snapshot(thread, "poll", thread.last)
        return stats

    def drain(self, seconds: float | None = None) -> None:
        """Make rows of everything that was written before this call, or of the oldest of it.

        After ``seconds`` the rest is left to the next call: whoever follows a target that
        writes faster than we read has to look at other things too.  What is written meanwhile
        is fetched in between: to understand a record takes longer than to copy it, and the
        ring must not fill up.
        """
        self._fetch(everything=seconds is None)
        until = None if seconds is None else time.monotonic() + seconds
        for number in range(len(self._pending)):
            if number and not number % _FETCH:
                if until is not None and time.monotonic() > until:
                    break
                self._fetch()
            self._record(self._pending.popleft())

    def mark(self) -> int:
        """A place in the stream of records: behind everything that we have fetched by now.

        That is everything written by now, unless as much waits here as may.
        """
        self._fetch()
        return self._fetched

    def past(self, mark: int) -> bool:
        """Whether rows were made of everything before a mark."""
        return self._fetched - len(self._pending) >= mark

    def _fetch(self, *, everything: bool = False) -> None:
        if everything or len(self._pending) < _BACKLOG:
            found = self.program.events.consume()
            self._fetched += len(found)
            self._pending += found

    def take(self, *, samples: bool = True) -> dict[str, list[Row]]:
        """The rows so far; the caller owns them now.

        Without ``samples`` these wait for the next call: to name their functions takes
        time, which a load under way should not pay for.
        """
        taken, self.rows = self.rows, {}
        if samples and self._samples:
            taken["samples"] = [self._decoder.row(data, load) for load, data in self._samples]
            self._samples.clear()
        return taken

    def _add(self, table: str, row: Row) -> None:
        self.rows.setdefault(table, []).append(row)

    def _record(self, data: bytes) -> None:
        kind = int.from_bytes(data[:4], sys.byteorder)
        if kind == layout.EV_SNAPSHOT:
            snapshot = layout.Snapshot.from_buffer_copy(data)
            self._snapshot(snapshot, layout.SNAP_KINDS.get(snapshot.kind, "poll"), snapshot.at)
        elif kind == layout.EV_SAMPLE:
            self._samples.append((self.load_id, data))
        elif kind in rows.ROWS:
            table, made = rows.ROWS[kind]
            row = made(data, self.load_id)
            self._add(table, row)
            if kind == layout.EV_REQUEST:
                self.devices.update(dev for dev in (row["dev"], row["file_dev"]) if dev)

    def _snapshot(self, thread: Any, kind: str, at: int) -> None:
        phases, counters = rows.snapshot(thread, kind, at, self.load_id)
        self.rows.setdefault("snapshots", []).extend(phases)
        if counters:
            self.rows.setdefault("counters", []).extend(counters)

    def poll_threads(self, *, last: bool = False) -> dict[int, SchedStat]:
        """A "poll" snapshot of every traced thread, its open interval included.

        Read while the thread may run, so single cells may lag each other by
        one transition; begin, end, fork and exit snapshots do not.  The ``last``
        time none is traced any more afterwards: what it goes on to do counts nowhere.
        Then it returns what the scheduler says of each at that moment, by tid.
        """
        found = {}
        table = self._tables["threads"]
        keys = list(table.keys())
        while keys:
            for key in keys:
                try:
                    leaf = table.pop(key) if last else table[key]
                except KeyError:
                    continue
                now = time.monotonic_ns()
                thread = layout.Thread.from_buffer_copy(leaf)
                stats = schedstat(thread.tgid, thread.tid, now) if last else None
                if stats is not None:
                    found[int(thread.tid)] = stats
                if now > thread.last:
                    thread.cells[thread.phase & 31].ns[thread.mode % 3] += now - thread.last
                self._snapshot(thread, "poll", now)
            # Of one that was still there another may have been born meanwhile.
            keys = list(table.keys()) if last else []
        return found

    def forget_reads(self) -> None:
        """Start what ``file_reads`` says at nothing."""
        self._tables["file_ios"].clear()

    def file_reads(self) -> list[Row]:
        """What traced threads read of each file since, by path: rows of that table.

        Without load_id and what the kernel does not know (path, alignment).
        """
        found = []
        for key, leaf in self._tables["file_ios"].items():
            file = layout.FileKey.from_buffer_copy(key)
            io = layout.FileIo.from_buffer_copy(leaf)
            row: Row = {"dev": file.dev, "ino": file.ino}
            found.append(row | {name: getattr(io, name) for name in layout.FILE_IO})
        return found

    def elsewhere(self) -> dict[str, int]:
        """Bytes that files outside the ledger lost so far, by what removed them."""
        table = self.program.table("elsewhere")
        if table is None:
            return {}
        values = table.values()
        return {name: int(values[n].value) for n, name in enumerate(layout.REMOVALS)}

    def pinned(self) -> dict[str, int]:
        """Bytes pinned now; until now, pages x us, and the ns in which any were."""
        slots = [int(slot.value) for slot in self._tables["pinned"].values()]
        now = max(0, ctypes.c_int64(slots[layout.PINNED_NOW]).value)
        at = time.monotonic_ns()
        since = slots[layout.PINNED_SINCE]
        moment = slots[layout.PINNED_MOMENT] + (now >> 12) * (at // 1000)
        return {
            "now": now,
            "page_us": max(0, ctypes.c_int64(moment & ((1 << 64) - 1)).value),
            "held_ns": slots[layout.PINNED_NS] + (max(0, at - since) if since else 0),
        }

    def open_runs(self) -> None:
        """Add the runs that are still open, of threads that are traced, to ``rows``.

        Once, at the end: they go on where a thread does, and are then reported again.
        """
        for _, leaf in self._tables["threads"].items():
            thread = layout.Thread.from_buffer_copy(leaf)
            for run in thread.runs:
                if run.end:
                    self._add("runs", rows.run(bytes(run), self.load_id))

    def pinned_peak(self, *, reset: bool = False) -> int:
        """Most bytes pinned at once since the last reset."""
        table = self._tables["pinned"]
        peak = int(table[1].value)
        if reset:
            table[1] = ctypes.c_uint64(table[0].value)
        return max(0, ctypes.c_int64(peak).value)

    def lost_by(self) -> dict[str, int | None]:
        """What was lost: records ("ring"), threads and files without room ("threads"), and
        calls of hooked functions ("missed"), None where this kernel does not count those.
        """
        table = self._tables["lost"]
        values = table.values()
        found = {name: int(values[index].value) for index, name in enumerate(layout.LOST)}
        return {**found, "missed": self.program.missed()}

    @property
    def lost(self) -> int:
        """Of traced threads: what found no room.  Whose the missed calls were nobody knows."""
        return sum(number or 0 for name, number in self.lost_by().items() if name != "missed")

    def self_cost(self) -> list[Row]:
        """{name, run_time_ns, run_cnt, missed} of each BPF program since tracing began.

        The costliest first; zeros without BPF statistics.
        """
        return self.program.run_stats()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """No probe attached; threads that were followed are forgotten."""
        with self.program.paused():
            self._tables["threads"].clear()
            yield

    def close(self) -> None:
        """Detach every probe."""
        if self._stats is not None:
            self._stats.close()
        self.program.close()
