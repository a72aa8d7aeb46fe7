"""Memory of everything that is traced, over time: page cache, dma-bufs, shmem, pinned, pressure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any

from dmatrace.tui.model import Buffer, File, Heap, Holder, Point, Pressure

Row = Mapping[str, Any]
Key = tuple[int, int]  # (dev, inode)
Step = tuple[int, int]  # (ns, the value from then on)

_STEPS = 512  # of a time line; more are thinned to half
_RELEASED = 500  # buffers that are gone, and still listed
_EMPTY = 500  # files of which nothing is cached, and which are still listed
_LINE = {"file": "cached", "shmem": "files in memory"}  # of the time line, by kind
_WINDOW = 10 * 10**9  # ns, over which pressure is given, as avg10 of /proc/pressure is


class Ledger:
    """What is held now, and what was."""

    def __init__(self) -> None:
        self.paths: dict[Key, str] = {}
        self._pages: dict[Key, Row] = {}  # a file's last row, the latest last
        self._held = {"file": 0, "shmem": 0}  # bytes of all these
        self._empty = 0  # how many of them hold nothing
        self._buffers: dict[int, Buffer] = {}  # inode: held
        self._gone: list[Buffer] = []
        self._heaps: dict[str, list[int]] = {}  # exporter: buffers, bytes, peak
        self._lines: dict[str, list[Step]] = {}
        self._shmem: dict[tuple[int, int], int] = {}  # (load, tid): allocated by it
        self._shmem_base: dict[tuple[int, int], int] = {}
        self._counted: dict[int, int] = {}  # tid: what it has allocated in all
        self._looked = 0  # when the last inventory was taken
        self._inventory: dict[int, list[Row]] = {}  # inode: its rows of that one
        self._psi: dict[str, list[Step]] = {}
        self._sampled = 0

    def page_cache(self, row: Row) -> None:
        """A file's cumulative row; of a file in memory too, which is no page cache."""
        key, kind = (row["dev"], row["ino"]), _kind(row)
        self._forget(key)
        if kind == "file" or row["current"] > 0:
            self._pages[key] = row
            self._held[kind] += max(0, row["current"])
            self._empty += row["current"] <= 0
        if self._empty > _EMPTY:
            gone = [key for key, row in self._pages.items() if row["current"] <= 0]
            for each in gone[: _EMPTY // 2]:
                self._forget(each)
        self._line(_LINE[kind], row["t_ns"], self._held[kind])

    def _forget(self, key: Key) -> None:
        row = self._pages.pop(key, None)
        if row is not None:
            self._held[_kind(row)] -= max(0, row["current"])
            self._empty -= row["current"] <= 0

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
        held = sum(buffer.size for buffer in self._buffers.values())
        self._line("dmabuf", row["t_ns"], held)

    def _release(self, row: Row) -> None:
        if row["t_ns"] >= self._looked:
            self._inventory.pop(row["ino"], None)
        held = self._buffers.pop(row["ino"], None)
        if held is None:
            return  # older than the recording
        heap = self._heaps[held.exporter]
        heap[0] -= 1
        heap[1] -= held.size
        self._gone.append(Buffer(**{**held.__dict__, "end": row["t_ns"]}))
        del self._gone[:-_RELEASED]

    def other(self, table: str, rows: Iterable[Row]) -> None:
        """Samples, paths and inventories; other tables are not drawn."""
        take = {"ledger": self._sample, "files": self._path, "inventory": self._listed}.get(table)
        for row in rows if take else ():
            take(row)  # type: ignore[misc]

    def name(self, key: Key, path: str) -> None:
        """The path of a file, as its load says it."""
        if any(key) and path:
            self.paths[key] = path

    def _path(self, row: Row) -> None:
        self.paths[row["dev"], row["ino"]] = row["path"]

    def _sample(self, row: Row) -> None:
        what, name = row["what"], row["name"]
        self._sampled = max(self._sampled, row["t_ns"])
        if what == "psi":
            steps = self._psi.setdefault(name, [])
            steps.append((row["t_ns"], row["value"]))
            if len(steps) > _STEPS:
                del steps[1:-1:2]  # cumulative: the first and the last hold the rest
        elif (what, name) == ("pinned", "now"):
            self._line("pinned", row["t_ns"], row["value"])

    def _listed(self, row: Row) -> None:
        if row["t_ns"] > self._looked:
            self._looked = row["t_ns"]
            self._inventory.clear()
        if row["t_ns"] == self._looked:
            self._inventory.setdefault(row["ino"], []).append(row)

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
        self._line("shmem", row["t_ns"], sum(self._shmem.values()))

    def ended(self, load_id: int, t_ns: int) -> None:
        """A load is over: it has given its shmem back."""
        mine = [key for key in self._shmem if key[0] == load_id]
        for key in mine:
            del self._shmem[key]
            self._shmem_base.pop(key, None)
        if mine and t_ns:
            self._line("shmem", t_ns, sum(self._shmem.values()))
        files = [key for key, row in self._pages.items() if _kind(row) == "shmem"]
        for key in files:
            self._forget(key)  # what is still there is in the next sample again
        if files and t_ns:
            self._line("files in memory", t_ns, 0)

    def _line(self, name: str, t_ns: int, value: int) -> None:
        line = self._lines.setdefault(name, [])
        line.append((t_ns, value))
        if len(line) > _STEPS:
            # Of two the larger one, so that no peak is lost; the last one holds on.
            pairs = zip(line[:-1:2], line[1:-1:2], strict=False)
            self._lines[name] = [*(max(pair, key=lambda step: step[1]) for pair in pairs), line[-1]]

    def series(self, hidden: frozenset[str]) -> tuple[Point, ...]:
        """The time line."""
        # Files in memory are known as they are given back, threads only as they allocate.
        shmem = "files in memory" if "files in memory" in self._lines else "shmem"
        lines = {
            "cached": self._lines.get("cached", []),
            "dmabuf": self._lines.get("dmabuf", []),
            "shmem": self._lines.get(shmem, []),
            "pinned": self._lines.get("pinned", []),
        }
        lines = {name: sorted(line, key=lambda step: step[0]) for name, line in lines.items()}
        found = []
        for t in sorted({t for line in lines.values() for t, _ in line}):
            values = {
                name: None if name in hidden else _at(line, t, None if name == "pinned" else 0)
                for name, line in lines.items()
            }
            found.append(Point(t, **values))
        return tuple(found)

    def files(self) -> tuple[File, ...]:
        """The page cache of each file, the largest first."""
        found = [
            File(
                self.paths.get(key) or f"inode {key[1]}",
                max(0, row["current"]),
                row["peak"],
                row["added"],
                row["removed"],
            )
            for key, row in self._pages.items()
            if _kind(row) == "file"
        ]
        return tuple(sorted(found, key=lambda file: (-file.cached, file.name)))

    def held(self, files: Iterable[Key]) -> tuple[int, int]:
        """(now, at most) of these files, in bytes of page cache."""
        rows = [row for row in map(self._pages.get, files) if row]
        rows = [row for row in rows if _kind(row) == "file"]
        return sum(max(0, row["current"]) for row in rows), sum(row["peak"] for row in rows)

    def heaps(self) -> tuple[Heap, ...]:
        """What each exporter holds."""
        return tuple(
            Heap(name, count, size, peak)
            for name, (count, size, peak) in sorted(self._heaps.items())
        )

    def buffers(self) -> tuple[Buffer, ...]:
        """Held ones first, the newest first; then those that were there before us."""
        held = [
            Buffer(**{**buffer.__dict__, "holders": _holders(self._inventory.get(buffer.ino))})
            for buffer in sorted(self._buffers.values(), key=lambda buffer: -buffer.start)
        ]
        gone = {buffer.ino for buffer in self._gone if buffer.end >= self._looked}
        others = [
            _older(ino, rows)
            for ino, rows in self._inventory.items()
            if ino not in self._buffers and ino not in gone
        ]
        return (*held, *others, *reversed(self._gone))

    def pressure(self) -> tuple[Pressure, ...]:
        """Of the last ten seconds that were sampled, where the recording has it."""
        found = []
        for resource in dict.fromkeys(name.partition(".")[0] for name in self._psi):
            some, full = (self._psi.get(f"{resource}.{kind}", []) for kind in ("some", "full"))
            first = some[0][0] if some else 0
            span = min(_WINDOW, self._sampled - first)
            if span > 0:
                grown = tuple((t, ns - some[0][1]) for t, ns in some)
                now, most = self._share(some, span), self._share(full, span)
                found.append(Pressure(resource, now, most, grown[-1][1], grown))
        return tuple(found)

    def _share(self, steps: list[Step], span: int) -> float:
        """Per cent of ``span`` ns until now in which there was pressure."""
        if not steps:
            return 0.0
        before = _at(steps, self._sampled - span, steps[0][1]) or 0
        return min(100.0, 100 * (steps[-1][1] - before) / span)


def _kind(row: Row) -> str:
    return "shmem" if row.get("kind") == "shmem" else "file"


def _at(steps: list[Step], t: int, before: int | None) -> int | None:
    """A step function's value."""
    place = bisect_right(steps, t, key=lambda step: step[0])
    return steps[place - 1][1] if place else before


def _holders(rows: list[Row] | None) -> tuple[Holder, ...] | None:
    if rows is None:
        return None
    return tuple(
        Holder(row["pid"], row["comm"], row["fds"], row["mapped"]) for row in rows if row["pid"]
    )


def _older(ino: int, rows: list[Row]) -> Buffer:
    """One whose export was not seen."""
    row = rows[0]
    return Buffer(
        ino=ino,
        size=max(0, row["size"]),
        exporter=row["exporter"] or "unknown",
        tid=0,
        pid=0,
        comm="",
        load="",
        start=0,
        end=0,
        holders=_holders(rows),
    )
