"""Memory of everything that is traced, over time: page cache, dma-bufs, shmem."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dmatrace.tui.model import Buffer, File, Heap, Point, Pressure

Row = Mapping[str, Any]

_POINTS = 512  # of the time line; more are thinned to half
_RELEASED = 500  # buffers that are gone, and still listed


class Ledger:
    """What is held now, and what was."""

    def __init__(self) -> None:
        self._pages: dict[tuple[int, int], Row] = {}  # (dev, inode): its last row
        self._load_of: dict[tuple[int, int], int] = {}
        self._buffers: dict[int, Buffer] = {}  # inode: held
        self._gone: list[Buffer] = []
        self._heaps: dict[str, list[int]] = {}  # exporter: buffers, bytes, peak
        self._points: list[tuple[int, int, int, int]] = []
        self._shmem: dict[tuple[int, int], int] = {}  # (load, tid): allocated by it
        self._shmem_base: dict[tuple[int, int], int] = {}
        self._counted: dict[int, int] = {}  # tid: what it has allocated in all

    def page_cache(self, row: Row) -> None:
        """A file's cumulative row."""
        key = (row["dev"], row["ino"])
        self._pages[key] = row
        self._load_of[key] = row["load_id"]
        self._point(row["t_ns"])

    def buffer(self, row: Row, comm: str) -> None:
        """An export or a release."""
        heap = self._heaps.setdefault(row["exporter"] or "unknown", [0, 0, 0])
        if row["event"] == "export":
            self._buffers[row["ino"]] = Buffer(
                ino=row["ino"],
                size=row["size"],
                exporter=row["exporter"] or "unknown",
                tid=row["tid"],
                pid=row["tgid"],
                comm=comm,
                load=str(row["load_id"]) if row["load_id"] > 0 else "",
                start=row["t_ns"],
                end=0,
            )
            heap[0] += 1
            heap[1] += row["size"]
            heap[2] = max(heap[2], heap[1])
        else:
            self._release(row)
        self._point(row["t_ns"])

    def _release(self, row: Row) -> None:
        held = self._buffers.pop(row["ino"], None)
        if held is None:
            return  # older than the recording
        heap = self._heaps[held.exporter]
        heap[0] -= 1
        heap[1] -= held.size
        self._gone.append(Buffer(**{**held.__dict__, "end": row["t_ns"]}))
        del self._gone[:-_RELEASED]

    def other(self, table: str, rows: Iterable[Row]) -> None:
        """Tables that a newer recorder writes and this view does not draw."""

    def shmem(self, row: Row) -> None:
        """A thread's count of allocated shmem; less what it had at the beginning."""
        tid, value = row["tid"], row["value"]
        key = (row["load_id"], tid)
        if key not in self._shmem:
            before = self._counted.get(tid, 0)
            # Less than before: counted from zero since the thread is followed anew.
            self._shmem_base[key] = before if value >= before else 0
        self._counted[tid] = value
        self._shmem[key] = value - self._shmem_base[key]
        self._point(row["t_ns"])

    def ended(self, load_id: int, t_ns: int) -> None:
        """A load is over: it has given its shmem back."""
        mine = [key for key in self._shmem if key[0] == load_id]
        for key in mine:
            del self._shmem[key]
            self._shmem_base.pop(key, None)
        if mine and t_ns:
            self._point(t_ns)

    def _point(self, t_ns: int) -> None:
        cached = sum(row["current"] for row in self._pages.values())
        held = sum(buffer.size for buffer in self._buffers.values())
        self._points.append((t_ns, cached, held, sum(self._shmem.values())))
        if len(self._points) > _POINTS:
            self._points = self._points[::2]

    def series(self, hidden: frozenset[str]) -> tuple[Point, ...]:
        """The time line."""
        return tuple(
            Point(
                t,
                None if "cached" in hidden else cached,
                None if "dmabuf" in hidden else held,
                None if "shmem" in hidden else shmem,
                None,
            )
            for t, cached, held, shmem in sorted(self._points)
        )

    def files(self, names: Mapping[int, str]) -> tuple[File, ...]:
        """The page cache of each file, the largest first; ``names``: of loads."""
        found = [
            File(
                names.get(self._load_of[key]) or f"inode {key[1]}",
                row["current"],
                row["peak"],
                row["added"],
                row["removed"],
            )
            for key, row in self._pages.items()
        ]
        return tuple(sorted(found, key=lambda file: (-file.cached, file.name)))

    def heaps(self) -> tuple[Heap, ...]:
        """What each exporter holds."""
        return tuple(
            Heap(name, count, size, peak)
            for name, (count, size, peak) in sorted(self._heaps.items())
        )

    def buffers(self) -> tuple[Buffer, ...]:
        """Held ones first, the newest first."""
        held = sorted(self._buffers.values(), key=lambda buffer: -buffer.start)
        return (*held, *reversed(self._gone))

    def pressure(self) -> tuple[Pressure, ...]:
        """Of the last moment, where the recording has it."""
        return ()
