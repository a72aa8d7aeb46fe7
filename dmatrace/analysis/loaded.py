"""Files that processes loaded and dma-bufs that they filled, from a recording's tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dmatrace.analysis.bufferflow import buffer_flows
from dmatrace.analysis.fileloads import Facts, faults, file_loads

if TYPE_CHECKING:
    from dmatrace.recording.reader import Recording


def of_recording(
    recording: Recording,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """``file_loads`` and ``buffer_flows`` of the document; empty where no way was recorded."""
    ways, calls, buffers = (rows(recording, name) for name in ("ways", "calls", "buffers"))
    if not ways and not calls:
        return [], []
    facts = Facts(calls, buffers, ways)
    processes = {int(row["load_id"]): row for row in rows(recording, "loads")}
    # Of a file whose count began after some of it was cached: at least.
    cached = {
        (int(row["dev"]), int(row["ino"])): max(0, int(row["current"]))
        for row in rows(recording, "page_cache")
    }
    runs = rows(recording, "runs") if faults(ways) else []
    loads = file_loads(ways, facts, runs, cached, processes)
    intervals = rows(recording, "intervals") if buffers else []
    return loads, buffer_flows(ways, facts, buffers, intervals, loads)


def rows(recording: Recording, table: str) -> list[dict[str, Any]]:
    """A table's rows as plain dicts."""
    frame = recording.table(table)
    columns = {name: frame[name].tolist() for name in frame.columns}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
