"""Files that processes loaded and dma-bufs that they filled, from a recording's tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dmatrace.analysis.bufferflow import buffer_flows
from dmatrace.analysis.fileloads import Facts, file_loads

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
    pages = recording.table("page_cache").drop_duplicates(["dev", "ino"], keep="last")
    cached = {
        (int(dev), int(ino)): max(0, int(current))
        for dev, ino, current in zip(
            *(pages[name].tolist() for name in ("dev", "ino", "current")), strict=True
        )
    }
    loads = file_loads(ways, facts, _runs(recording, ways), cached, processes)
    intervals = rows(recording, "intervals") if buffers else []
    return loads, buffer_flows(ways, facts, buffers, intervals, loads)


def rows(recording: Recording, table: str) -> list[dict[str, Any]]:
    """A table's rows as plain dicts."""
    frame = recording.table(table)
    columns = {name: frame[name].tolist() for name in frame.columns}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _runs(recording: Recording, ways: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was read or mapped of files that had faults: there may be millions of other runs."""
    wanted = {
        (int(row["load_id"]), int(row["dev"]), int(row["ino"]))
        for row in ways
        if row["way"] == "fault" and not row["worker"]
    }
    found: list[dict[str, Any]] = []
    for load_id in sorted({each[0] for each in wanted}):
        part = recording.part("runs", load_id, ("load_id", "kind", "dev", "ino", "start", "end"))
        part = part[part["ino"].isin([ino for load, _, ino in wanted if load == load_id])]
        found += [{str(k): v for k, v in row.items()} for row in part.to_dict("records")]
    return found
