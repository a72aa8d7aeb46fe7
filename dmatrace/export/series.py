"""What the charts of the HTML export show over time, from a recording's frames.

A strategy's first whole load stands for its rounds in what goes by time; moments are
milliseconds since that load began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dmatrace.analysis.block import reads
from dmatrace.analysis.overlap import ALLOCATING, Interval, union
from dmatrace.analysis.summary import Summary
from dmatrace.export.perfetto import buffers_live

if TYPE_CHECKING:
    import pandas as pd

    from dmatrace.analysis.frames import Frames

Points = list[tuple[float, float]]


def begins(frames: Frames) -> dict[int, int]:
    """{load_id: its begin in ns}: of the loader's clock, else of the recorder's."""
    threads = frames.recording.table("threads")
    loads = frames.recording.table("loads")
    found = {
        int(load_id): int(start)
        for load_id, start in zip(loads["load_id"], loads["start_ns"], strict=True)
        if start
    }
    clocked = threads[(threads["start_ns"] > 0) & (threads["window"] == 0)]
    first = clocked.groupby("load_id")["start_ns"].min()
    return found | {int(str(load_id)): int(start) for load_id, start in first.items()}


def memory(frames: Frames, loads: Sequence[Summary]) -> dict[str, dict[str, Points]]:
    """{strategy: {"page cache" or "dma-buf": [(ms, MiB)]}}."""
    start = begins(frames)
    ledger, buffers = frames["page_cache"], frames["buffers"]
    result: dict[str, dict[str, Points]] = {}
    for load in loads:
        first = load.loads[0]
        load_id = first["load_id"]
        if load_id not in start:
            continue
        cached: Points = []
        before = first["memory"]["cachestat_before"].get("cached")
        if before is not None:
            cached.append((0.0, before / 2**20))
        mine = ledger[ledger["load_id"] == load_id]
        for at, value in zip(mine["t_ns"].tolist(), mine["current"].tolist(), strict=True):
            cached.append((_ms(at, start[load_id]), value / 2**20))
        held = [
            (_ms(at, start[load_id]), value / 2**20)
            for at, value in buffers_live(buffers[buffers["load_id"] == load_id])
        ]
        lines = {"page cache": cached}
        if held:
            lines["dma-buf"] = [(0.0, 0.0), *held]
        result[load.label] = {what: points for what, points in lines.items() if points}
    return {label: lines for label, lines in result.items() if lines}


def requests(
    frames: Frames, loads: Sequence[Summary]
) -> dict[str, tuple[pd.DataFrame, dict[int, int]]]:
    """{strategy: (the completed reads of all its loads, {load_id: begin in ns})}."""
    start = begins(frames)
    result = {}
    done = frames["requests"]
    done = done[(done["op"] == "read") & done["latency_ns"].notna()]
    for load in loads:
        mine = {
            one["load_id"]: start[one["load_id"]] for one in load.loads if one["load_id"] in start
        }
        found = done[done["load_id"].isin(mine)]
        if len(found):
            result[load.label] = (found, mine)
    return result


def waterfall(
    frames: Frames, loads: Sequence[Summary]
) -> list[tuple[str, str, Sequence[tuple[float, float]]]]:
    """Per strategy the loader's steps, allocating, reading, and where both went on."""
    start = begins(frames)
    all_reads = reads(frames.recording.table("requests"))
    calls = frames.recording.table("intervals")
    calls = calls[calls["phase"].isin(ALLOCATING)]
    rows: list[tuple[str, str, Sequence[tuple[float, float]]]] = []
    for load in loads:
        first = load.loads[0]
        begin = start.get(first["load_id"])
        if begin is None:
            continue
        for step, pieces in _steps(frames, first, begin).items():
            rows.append((f"{load.label}: steps", step, pieces))
        allocating = _pieces(calls, first["load_id"], "start_ns", "end_ns")
        reading = _pieces(all_reads, first["load_id"], "issue_ns", "complete_ns")
        parts = {"allocating": allocating, "reading": reading, "both": _both(allocating, reading)}
        for name, found in parts.items():
            if found:
                pieces = [(_ms(a, begin), _ms(b, begin)) for a, b in found]
                rows.append((f"{load.label}: {name}", name, pieces))
    return rows


def _steps(frames: Frames, load: Mapping[str, Any], begin: int) -> dict[str, Points]:
    threads = frames.recording.table("threads")
    mine = threads[(threads["load_id"] == load["load_id"]) & (threads["window"] == 1)]
    steps = {}
    if load["create_ns"]:
        steps["create"] = [(0.0, load["create_ns"] / 1e6)]
    if load["io_ns"]:
        steps["io"] = [(load["create_ns"] / 1e6, (load["create_ns"] + load["io_ns"]) / 1e6)]
    if len(mine) and load["close_ns"]:
        at = _ms(int(mine["start_ns"].min()), begin)
        steps["close"] = [(at, at + load["close_ns"] / 1e6)]
    return steps


def _pieces(frame: pd.DataFrame, load_id: int, start: str, end: str) -> list[Interval]:
    mine = frame[frame["load_id"] == load_id]
    return union(zip(mine[start].tolist(), mine[end].tolist(), strict=True))


def _both(one: Sequence[Interval], other: Sequence[Interval]) -> list[Interval]:
    """Where two lists of disjoint ascending intervals overlap."""
    found: list[Interval] = []
    i = j = 0
    while i < len(one) and j < len(other):
        start, end = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if start < end:
            found.append((start, end))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return found


def _ms(at: int, begin: int) -> float:
    return round((at - begin) / 1e6, 6)
