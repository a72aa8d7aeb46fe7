"""Loads of files by processes that dmatrace did not start: which file, how much, how, and when.

From the tables ``ways`` (sums per process, file and way) and ``calls`` (opens,
mappings, advice), with ``runs`` for what faults brought in.  A file counts from
1 MiB of bytes on; one that is mapped to be executed is code, not a load.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dmatrace.analysis import classify
from dmatrace.analysis.classify import Part, Taker
from dmatrace.analysis.overlap import length, union

Row = Mapping[str, Any]
File = tuple[int, int]  # dev, ino

SCALE = 1 << 20  # bytes
_EXEC = 4  # PROT_EXEC
_WAY = (
    "load_id", "tgid", "dev", "ino", "way", "call", "target", "to_dev", "to_ino", "o_direct",
    "dontcache", "fixed", "worker", "late",
)  # fmt: skip


def way(row: Row) -> tuple[Any, ...]:
    """Which way a row is of: the last row of each holds."""
    return tuple(row[name] for name in _WAY)


def last_ways(found: Iterable[Row]) -> list[Row]:
    """The last row of each way."""
    return list({way(row): row for row in found}.values())


class Facts:
    """What a recording says beside the ways: mappings, advice, dma-bufs and their memfds."""

    def __init__(
        self, calls: Sequence[Row], buffers: Sequence[Row], ways: Sequence[Row] = ()
    ) -> None:
        self._of: dict[File, list[Row]] = {}
        self._advice: dict[int, list[Row]] = {}
        self._buffers: dict[int, list[Row]] = {}
        for row in calls:
            if row["what"] == "madvise":
                self._advice.setdefault(int(row["tgid"]), []).append(row)
                continue
            self._of.setdefault((int(row["dev"]), int(row["ino"])), []).append(row)
            if row["target"] == "dmabuf":
                self._buffers.setdefault(int(row["ino"]), []).append(row)
        self._drained: dict[File, set[tuple[str, File]]] = {}
        for row in ways:
            if row["way"] == "written" and row["ino"]:
                taken = str(row["target"]), (int(row["to_dev"]), int(row["to_ino"]))
                self._drained.setdefault((int(row["dev"]), int(row["ino"])), set()).add(taken)
        self._takers: dict[int, Taker] = {}
        self._behind: dict[File, list[int]] = {}
        for row in calls:
            if row["target"] == "dmabuf" and row["exporter"]:
                self._takers[int(row["ino"])] = Taker(exporter=str(row["exporter"]))
            if row["what"] == "udmabuf":
                memfd = int(row["other_dev"]), int(row["other"])
                made = self._behind.setdefault(memfd, [])
                if int(row["ino"]) not in made:
                    made.append(int(row["ino"]))
        for row in buffers:
            if row["event"] == "export":
                exporter, heap = str(row["exporter"]), str(row["heap"])
                self._takers[int(row["ino"])] = Taker(exporter=exporter, heap=heap)

    def of(self, file: File) -> Sequence[Row]:
        """Calls that are about a file, in their order."""
        return self._of.get(file, ())

    @property
    def buffers(self) -> Mapping[int, Sequence[Row]]:
        """{inode of a dma-buf: the calls about it}."""
        return self._buffers

    def path(self, file: File) -> str:
        """What a process called the file when it opened it, or /proc when it was followed."""
        named = (str(row["path"]) for row in self.of(file))
        return next((path for path in named if path), "")

    def taker(self, kind: str, to: File) -> Taker:
        """What is known of what took bytes."""
        if kind == "dmabuf":
            return self._takers.get(to[1], Taker())
        if kind == "shmem":
            return Taker(behind=tuple(self._behind.get(to, ())))
        return Taker()

    def behind_pipe(self, kind: str, to: File) -> tuple[str, File]:
        """What took bytes at last: of a pipe that all went on into one file in memory, that."""
        drained = self._drained.get(to, set()) if kind == "pipe" else set()
        return next(iter(drained)) if len(drained) == 1 else (kind, to)

    def mappings(self, file: File) -> list[Row]:
        """Where a file was mapped, by any process: a child has its parent's."""
        return [row for row in self.of(file) if row["what"] in ("mmap", "mapped")]

    def is_code(self, file: File) -> bool:
        """Whether a file is mapped to be executed, or by execve(2), which no call shows."""
        found = self.mappings(file)
        return not found or any(int(row["prot"]) & _EXEC for row in found)

    def advised(self, file: File, before_ns: int) -> frozenset[str]:
        """What was asked for the file or mappings of it, before a moment."""
        said = set()
        mappings = self.mappings(file)
        for row in mappings:
            flags = int(row["flags"])
            said |= {"MAP_POPULATE"} if flags & classify.MAP_POPULATE else set()
            said |= {"MAP_LOCKED"} if flags & classify.MAP_LOCKED else set()
        for row in self.of(file):
            if row["what"] == "fadvise" and row["t_ns"] <= before_ns:
                said.add(f"fadvise {classify.FADVICE.get(int(row['flags']), row['flags'])}")
            elif row["what"] == "readahead" and row["t_ns"] <= before_ns:
                said.add("readahead(2)")
        for mapping in mappings:
            for row in self._advice.get(int(mapping["tgid"]), ()):
                if row["t_ns"] <= before_ns and _within(row, mapping):
                    said.add(str(classify.MADVICE.get(int(row["flags"]), row["flags"])))
        return frozenset(said - {"NORMAL", "fadvise NORMAL"})


def _within(advice: Row, mapping: Row) -> bool:
    start, end = int(mapping["address"]), int(mapping["address"]) + int(mapping["length"])
    return start < int(advice["address"]) + int(advice["length"]) and int(advice["address"]) < end


def file_loads(
    ways: Sequence[Row],
    facts: Facts,
    runs: Sequence[Row],
    cached: Mapping[File, int],
    processes: Mapping[int, Row],
) -> list[dict[str, Any]]:
    """The document's ``file_loads``, in the order in which they began.

    ``ways`` and ``runs``: rows of those tables; ``cached``: bytes of files in the page cache at
    the end; ``processes``: {load_id: its row of loads}.
    """
    found: dict[tuple[int, File], list[Row]] = {}
    for row in last_ways(ways):
        file = int(row["dev"]), int(row["ino"])
        if row["way"] != "written" and row["load_id"] > 0:
            found.setdefault((int(row["load_id"]), file), []).append(row)
    mapped = _mapped(runs, {key for key, mine in found.items() if faults(mine)})
    result = []
    for (load_id, file), mine in found.items():
        if facts.is_code(file):
            mine = [row for row in mine if row["way"] != "fault"]
        parts = _parts(file, mine, facts, mapped.get((load_id, file), (0, 0))) if mine else []
        if sum(part.bytes for part in parts) < SCALE:
            continue
        load = _load(load_id, file, mine, parts, processes.get(load_id, {}), cached)
        result.append(load | {"path": load["path"] or facts.path(file)})
    return sorted(result, key=lambda load: (load["start_ns"], load["load_id"]))


def faults(ways: Sequence[Row]) -> bool:
    return any(row["way"] == "fault" for row in ways)


def _mapped(
    runs: Sequence[Row], wanted: set[tuple[int, File]]
) -> dict[tuple[int, File], tuple[int, int]]:
    """Bytes of each file that were mapped around faults, and the same with what was read."""
    around: dict[tuple[int, File], list[tuple[int, int]]] = {}
    every: dict[tuple[int, File], list[tuple[int, int]]] = {}
    for row in runs:
        key = int(row["load_id"]), (int(row["dev"]), int(row["ino"]))
        if key not in wanted or row["kind"] == "readahead":
            continue
        span = int(row["start"]), int(row["end"])
        every.setdefault(key, []).append(span)
        if row["kind"] == "mapped":
            around.setdefault(key, []).append(span)
    return {
        key: (length(union(around.get(key, []))), length(union(spans)))
        for key, spans in every.items()
    }


def _parts(file: File, ways: Sequence[Row], facts: Facts, mapped: tuple[int, int]) -> list[Part]:
    """The parts of one load, the largest first."""
    begun = min(int(row["first_ns"]) for row in ways)
    faults = [row for row in ways if row["way"] == "fault"]
    # Runs say which pages, but not whether a read or a fault used them: with both, only
    # what was mapped around faults is surely theirs.
    pages = mapped[1] if len(faults) == len(ways) else mapped[0]
    size = max(int(row["size"]) for row in ways)
    pages = min(pages, size) if size else pages
    most = sum(int(row["bytes"]) for row in faults)
    parts = []
    for row in ways:
        amount = int(row["bytes"])
        if row["way"] == "fault":
            amount = pages * amount // most if most else 0
        to = int(row["to_dev"]), int(row["to_ino"])
        kind, to = facts.behind_pipe(str(row["target"]), to)
        depth = int(row["depth"]) / int(row["begun"]) if row["begun"] else None
        before = int(row["first_ns"]) if row["way"] == "fault" else begun
        parts.append(
            Part(
                way=str(row["way"]),
                call=str(row["call"]),
                target=kind,
                bytes=amount,
                calls=int(row["calls"]),
                to=to,
                taker=facts.taker(kind, to),
                o_direct=bool(row["o_direct"]),
                dontcache=bool(row["dontcache"]),
                fixed=bool(row["fixed"]),
                late=bool(row["late"]),
                largest=int(row["largest"]),
                sizes=_sizes(row["sizes"]),
                depth=None if row["way"] == "fault" else depth,
                deepest=int(row["deepest"]),
                advised=facts.advised(file, before),
                first_ns=int(row["first_ns"]),
                last_ns=int(row["last_ns"]),
            )
        )
    return sorted((part for part in parts if part.bytes), key=lambda part: -part.bytes)


def _sizes(text: Any) -> tuple[int, ...]:
    try:
        found = json.loads(str(text) or "[]")
    except ValueError:
        return ()
    return tuple(int(each) for each in found) if isinstance(found, list) else ()


def _load(
    load_id: int,
    file: File,
    ways: Sequence[Row],
    parts: Sequence[Part],
    process: Row,
    cached: Mapping[File, int],
) -> dict[str, Any]:
    verdict = classify.classify(parts)
    start = min(part.first_ns for part in parts)
    end = max(part.last_ns for part in parts)
    total = sum(part.bytes for part in parts)
    size = max(int(row["size"]) for row in ways)
    return {
        "load_id": load_id,
        "pid": int(ways[0]["tgid"]),
        "strategy": str(process.get("strategy", "")),
        "comm": str(process.get("comm", "")),
        "path": next((str(row["path"]) for row in ways if row["path"]), ""),
        "format": next((str(row["format"]) for row in ways if row["format"]), ""),
        "dev": f"{file[0] >> 20}:{file[0] & 0xFFFFF}",
        "ino": file[1],
        "size": size,
        "start_ns": start,
        "end_ns": end,
        "bytes": total,
        "progress": round(total / size, 4) if size else None,
        "bytes_per_s": _rate([part for part in parts if not part.late]),
        "cached": cached.get(file),
        "verdict": verdict.name,
        "method": verdict.method,
        "target": verdict.target,
        "parts": [part_row(part, total) for part in parts],
    }


def _rate(parts: Sequence[Part]) -> int | None:
    """Bytes a second; of a read that was under way before it was followed nobody can say it."""
    if not parts:
        return None
    ns = max(part.last_ns for part in parts) - min(part.first_ns for part in parts)
    return sum(part.bytes for part in parts) * 1_000_000_000 // ns if ns > 0 else None


def part_row(part: Part, total: int) -> dict[str, Any]:
    """A part of a load in the document."""
    usual = classify.usual_size(part)
    return {
        "name": classify.name(part),
        "method": classify.method(part),
        "target": classify.target(part),
        "into": part.target,
        "call": part.call,
        "bytes": part.bytes,
        "share": round(part.bytes / total, 4) if total else 0.0,
        "calls": part.calls,
        "block": classify.block_size(part),
        "largest": part.largest,
        "usual": list(usual) if usual else None,
        "depth_mean": None if part.depth is None else round(part.depth, 3),
        "depth_max": part.deepest,
        "fell_back": part.o_direct and part.way == "buffered",
        "to": {"dev": f"{part.to[0] >> 20}:{part.to[0] & 0xFFFFF}", "ino": part.to[1]}
        if part.to[1]
        else None,
        "first_ns": part.first_ns,
        "last_ns": part.last_ns,
        "evidence": list(classify.evidence(part)),
    }
