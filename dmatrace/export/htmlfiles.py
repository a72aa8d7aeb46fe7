"""Tables of the HTML export about what loads met: files, copies, dma-bufs and processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dmatrace.analysis.recorded_columns import REMOVED_BY
from dmatrace.analysis.summary import Summary, told
from dmatrace.export import markup
from dmatrace.export.markup import Cell, paragraph, table
from dmatrace.sizes import format_size

MOST = 10  # files or dma-bufs of a load


def sections(loads: Sequence[Summary]) -> Iterator[str]:
    """All of them; nothing of a recording that knows none of it."""
    found = [
        part
        for part in (
            _processes(loads), _read(loads), _cached(loads), _copies(loads), _held(loads),
        )
        if part
    ]  # fmt: skip
    if found:
        yield paragraph(
            f"Files and dma-bufs are of the first round of each strategy, {MOST} of it at most.",
            "dim",
        )
        yield from found


def _processes(loads: Sequence[Summary]) -> str:
    rows: list[list[Cell | str]] = []
    for load in loads:
        for one in load.loads if load.observed else ():
            ended = str(one["ended"]) or "ran on"
            rows.append([str(one["comm"]), markup.number(one["pid"], str(one["pid"])),
                         str(one["command"]), ended, markup.ns(one["wall_ns"])])  # fmt: skip
    return table("Processes that were followed", ["name", "pid", "command", "ended", "wall"], rows)


def _read(loads: Sequence[Summary]) -> str:
    rows: list[list[Cell | str]] = [
        [
            load.label,
            _file(file),
            markup.size(file["direct_bytes"]),
            markup.size(file["buffered_bytes"]),
            f"{file['verdict']}: {file['why']}",
        ]
        for load in loads
        for file in load.loads[0].get("files", ())[:MOST]
    ]
    heads = ["strategy", "file", "direct", "by the page cache", "because"]
    return table("Did reads of a file bypass the page cache?", heads, rows)


def _cached(loads: Sequence[Summary]) -> str:
    rows: list[list[Cell | str]] = []
    for load in loads:
        for file in (load.loads[0]["memory"].get("files") or ())[:MOST]:
            by = {name: n for name, n in (file["removed_by"] or {}).items() if n}
            who = ", ".join(f"{format_size(n)} {REMOVED_BY.get(name, name)}"
                            for name, n in by.items())  # fmt: skip
            rows.append([load.label, _file(file), str(file["kind"]), markup.size(file["added"]),
                         markup.size(file["removed"]), markup.size(file["end"]),
                         who or "-"])  # fmt: skip
    heads = ["strategy", "file", "kind", "added", "removed", "at the end", "removed by"]
    return table("The page cache of each file", heads, rows)


def _file(file: Mapping[str, Any]) -> str:
    return str(file["path"]) or f"inode {file['ino']}"


def _copies(loads: Sequence[Summary]) -> str:
    found = {load.label: told([one["copies"].get("paths") for one in load.loads]) for load in loads}
    rows: list[list[Cell | str]] = [
        [label, path, markup.size(copied)]
        for label, paths in found.items()
        for path, copied in paths.items()
    ]
    return table("Copies by the CPU", ["strategy", "from and to", "bytes"], rows, key="copies")


def _held(loads: Sequence[Summary]) -> str:
    rows: list[list[Cell | str]] = []
    for load in loads:
        for buffer in (load.loads[0].get("inventory") or {}).get("buffers", ())[:MOST]:
            holders = ", ".join(f"{one['comm']} {one['pid']}" for one in buffer["holders"])
            name = f"{buffer['exporter']} {buffer['name']}".strip()
            rows.append([load.label, name, markup.size(buffer["size"]), holders or "-"])
    heads = ["strategy", "exporter and name", "size", "held by"]
    return table("The machine's dma-bufs at the end of a load, while it was held", heads, rows)
