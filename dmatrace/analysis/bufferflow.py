"""For each dma-buf of the traced processes: which file's bytes filled it, by which path, and when.

A read into a mapping of the dma-buf, or of the memfd that it was made of, is
known by its address; what goes through a pipe by the pipe.  What a CPU copies into
a mapping by its own instructions, or a device by DMA of its own, no system call
shows: such a buffer is said to be filled by nothing that was seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dmatrace.analysis.fileloads import Facts, File, Row, last_ways
from dmatrace.sizes import format_size

_ALLOCATES = {"heap-alloc": "alloc", "udmabuf": "alloc+pin"}
#: Calls about a dma-buf, and the steps that they are.
_CALLS = {
    "mmap": "map", "munmap": "unmap", "attach": "attach", "detach": "detach", "close": "close",
}  # fmt: skip


def buffer_flows(
    ways: Sequence[Row],
    facts: Facts,
    buffers: Sequence[Row],
    intervals: Sequence[Row],
    loads: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The document's ``buffer_flows``: dma-bufs in the order in which they were made or seen.

    ``loads`` are the document's ``file_loads``.
    """
    found: dict[int, dict[str, Any]] = {}
    calls = [row for mine in facts.buffers.values() for row in mine]
    for row in [*buffers, *calls]:
        ino = int(row["ino"])
        buffer = found.setdefault(
            ino,
            {
                "ino": ino, "size": int(row["size"]), "exporter": "", "heap": "",
                "pid": int(row["tgid"]), "load_id": int(row["load_id"]), "at": int(row["t_ns"]),
            },
        )  # fmt: skip
        buffer["size"] = max(buffer["size"], int(row["size"]))
        buffer["at"] = min(buffer["at"], int(row["t_ns"]))
        for name in ("exporter", "heap"):
            buffer[name] = buffer[name] or str(row.get(name, ""))
    memfds = _memfds(facts)
    written = [row for row in last_ways(ways) if row["way"] == "written"]
    result = []
    for ino, buffer in sorted(found.items(), key=lambda item: item[1]["at"]):
        memfd = memfds.get(ino)
        fills = _fills(ino, memfd, loads, written)
        steps = _steps(ino, memfd, buffer, fills, facts, buffers, intervals)
        result.append(
            {
                **{name: value for name, value in buffer.items() if name != "at"},
                "memfd": memfd[1] if memfd else None,
                "shared": sum(other == memfd for other in memfds.values()) if memfd else 0,
                "filled": sum(fill["bytes"] for fill in fills),
                "fills": fills,
                "steps": steps,
            }
        )
    return result


def _memfds(facts: Facts) -> dict[int, File]:
    """{inode of a udmabuf: the memfd it was made of}."""
    return {
        int(row["ino"]): (int(row["other_dev"]), int(row["other"]))
        for rows in facts.buffers.values()
        for row in rows
        if row["what"] == "udmabuf"
    }


def _named(file: File) -> str:
    return f"{file[0] >> 20}:{file[0] & 0xFFFFF}"


def _fills(
    ino: int, memfd: File | None, loads: Sequence[Mapping[str, Any]], written: Sequence[Row]
) -> list[dict[str, Any]]:
    into_memfd = {"dev": _named(memfd), "ino": memfd[1]} if memfd else None
    fills = []
    for load in loads:
        for part in load["parts"]:
            to = part["to"]
            if to is not None and to == into_memfd:
                fills.append(_fill(load, part, "memfd"))
            elif to is not None and to["ino"] == ino and part["into"] == "dmabuf":
                fills.append(_fill(load, part, ""))
    for row in written:
        to_file = int(row["to_dev"]), int(row["to_ino"])
        if memfd and to_file == memfd and not row["ino"]:
            fills.append(
                {
                    "path": "", "ino": None, "dev": None, "method": "write",
                    "call": str(row["call"]), "through": "memfd", "bytes": int(row["bytes"]),
                    "first_ns": int(row["first_ns"]), "last_ns": int(row["last_ns"]),
                }
            )  # fmt: skip
    return sorted(fills, key=lambda fill: fill["first_ns"])


def _fill(load: Mapping[str, Any], part: Mapping[str, Any], through: str) -> dict[str, Any]:
    return {
        "path": load["path"], "ino": load["ino"], "dev": load["dev"], "method": part["method"],
        "call": part["call"], "through": through, "bytes": part["bytes"],
        "first_ns": part["first_ns"], "last_ns": part["last_ns"],
    }  # fmt: skip


def _around(
    fill: Mapping[str, Any], buffer: Mapping[str, Any], facts: Facts
) -> Iterator[tuple[str, int]]:
    """The last open of a fill's file before it, and the first close after it.

    "held" in the place of an open that was before the process was followed.
    """
    if not fill["ino"]:
        return
    said: dict[str, list[int]] = {"open": [], "held": [], "close": []}
    major, minor = (int(number) for number in fill["dev"].split(":"))
    for row in facts.of((major << 20 | minor, fill["ino"])):
        if row["load_id"] == buffer["load_id"] and row["what"] in said:
            said[str(row["what"])].append(int(row["t_ns"]))
    opened = [at for at in said["open"] if at <= fill["first_ns"]]
    closed = [at for at in said["close"] if at >= fill["last_ns"]]
    if opened:
        yield "open", max(opened)
    elif said["held"]:
        yield "held", min(said["held"])
    if closed:
        yield "close", min(closed)


def _steps(
    ino: int,
    memfd: File | None,
    buffer: Mapping[str, Any],
    fills: Sequence[Mapping[str, Any]],
    facts: Facts,
    buffers: Sequence[Row],
    intervals: Sequence[Row],
) -> list[dict[str, Any]]:
    """The waterfall: open, alloc (and pin), export, read, map, attach, close; by begin, in ns."""
    steps: list[dict[str, Any]] = []

    def add(step: str, start: int, end: int, what: str) -> None:
        steps.append({"step": step, "start_ns": start, "end_ns": end, "what": what})

    for fill in fills:
        for what, at in _around(fill, buffer, facts):
            add(what, at, at, "file")
    for row in facts.buffers.get(ino, ()):
        at, what = int(row["t_ns"]), str(row["what"])
        if row["load_id"] == buffer["load_id"] and what in _CALLS:
            device = what in ("attach", "detach")
            add(_CALLS[what], at, at, str(row["path"]) or "a device" if device else "dma-buf")
    for row in facts.of(memfd) if memfd else ():
        if row["load_id"] == buffer["load_id"] and row["what"] == "mmap":
            add("map", int(row["t_ns"]), int(row["t_ns"]), "memfd")
    for row in (row for row in buffers if int(row["ino"]) == ino):
        at = int(row["t_ns"])
        if row["event"] == "release":
            add("release", at, at, "dma-buf")
            continue
        made = [
            each
            for each in intervals
            if each["phase"] in _ALLOCATES
            and each["tid"] == row["tid"]
            and each["start_ns"] <= at <= each["end_ns"]
        ]
        for each in made:
            start, end = int(each["start_ns"]), int(each["end_ns"])
            add(_ALLOCATES[str(each["phase"])], start, end, str(row["heap"] or row["exporter"]))
        add("export", at, at, str(row["exporter"]))
    for fill in fills:
        what = f"{fill['method']} of {fill['bytes']} bytes"
        add("read" if fill["ino"] else "write", fill["first_ns"], fill["last_ns"], what)
    return sorted(steps, key=lambda step: (step["start_ns"], step["end_ns"]))


def filled(fill: Mapping[str, Any]) -> str:
    """What filled a dma-buf, in words."""
    if not fill["ino"]:
        return f"{format_size(fill['bytes'])} of user memory by {fill['call'] or 'write'}(2)"
    name = fill["path"] or f"inode {fill['ino']} of {fill['dev']}"
    through = f" through its {fill['through']}" if fill["through"] else ""
    return f"{format_size(fill['bytes'])} of {name} by {fill['method']}{through}"
