"""What the charts of the HTML export show over time, from a recording's frames.

A strategy's first whole load stands for its rounds in what goes by time; moments are
milliseconds since that load began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dmatrace.analysis.block import reads
from dmatrace.analysis.memory import cached_bytes
from dmatrace.analysis.overlap import ALLOCATING, Interval, both, union
from dmatrace.analysis.summary import Summary, told
from dmatrace.export.buffers import buffers_live

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


def bounds(load: Summary) -> dict[str, int]:
    """{"NAME_ns": ns} of what bounded it: medians of the rounds; {} if none can tell."""
    each = [one.get("critical") or {} for one in load.loads]
    return told([{name: ns for name, ns in one.items() if name.endswith("_ns")} for one in each])


def memory(frames: Frames, loads: Sequence[Summary]) -> dict[str, dict[str, Points]]:
    """{strategy: {"page cache", "shmem", "dma-buf" or "pinned": [(ms, MiB)]}}."""
    start = begins(frames)
    result: dict[str, dict[str, Points]] = {}
    for load in loads:
        first = load.loads[0]
        if first["load_id"] not in start:
            continue
        begin = start[first["load_id"]]
        timeline = first["memory"].get("timeline")
        if timeline:
            lines = _sampled(timeline, sampled(frames)[first["load_id"]] - begin)
        else:
            lines = _unsampled(frames, first, begin)
        if lines:
            result[load.label] = lines
    return result


#: What a timeline calls it, and the chart.
_SAMPLED = {
    "page_cache": "page cache", "shmem": "shmem", "dmabuf": "dma-buf", "pinned": "pinned",
}  # fmt: skip


def _sampled(timeline: Mapping[str, Any], offset: int) -> dict[str, Points]:
    """The samples of what was ever there; of the page cache in any case, if it is known."""
    lines = {}
    for name, shown in _SAMPLED.items():
        values = timeline[name]
        if values and (any(values) or name == "page_cache"):
            at = (_ms(t_ns + offset, 0) for t_ns in timeline["t_ns"])
            lines[shown] = [(ms, value / 2**20) for ms, value in zip(at, values, strict=True)]
    return lines


def _unsampled(frames: Frames, load: Mapping[str, Any], begin: int) -> dict[str, Points]:
    """Of a recording without samples: the ledger of the file loaded, and the dma-bufs."""
    page_size = frames.document["page_size"]
    cached: Points = []
    before = cached_bytes(load["memory"]["cachestat_before"], page_size)
    if before is not None:
        cached.append((0.0, before / 2**20))
    for at, value in own_cache(frames, load["load_id"]):
        cached.append((_ms(at, begin), value / 2**20))
    buffers = frames["buffers"]
    held = [
        (_ms(at, begin), value / 2**20)
        for at, value in buffers_live(buffers[buffers["load_id"] == load["load_id"]])
    ]
    lines = {"page cache": cached, "dma-buf": [(0.0, 0.0), *held] if held else []}
    return {what: points for what, points in lines.items() if len(points) > 1}


def pressure(frames: Frames, loads: Sequence[Summary]) -> dict[str, dict[str, Points]]:
    """{strategy: {"memory" or "io": [(ms, % of the time up to the next sample)]}}, if any."""
    start = begins(frames)
    result: dict[str, dict[str, Points]] = {}
    for load in loads:
        first = load.loads[0]
        timeline = first["memory"].get("timeline")
        if not timeline or first["load_id"] not in start:
            continue
        offset = sampled(frames)[first["load_id"]] - start[first["load_id"]]
        lines = {}
        for name in ("memory", "io"):
            so_far = timeline[f"psi_{name}_some_ns"]
            if so_far and so_far[-1]:
                lines[name] = _rates(timeline["t_ns"], so_far, offset)
        if lines:
            result[load.label] = lines
    return result


def _rates(times: Sequence[int], so_far: Sequence[int], offset: int) -> Points:
    points = []
    for n in range(1, len(times)):
        length = times[n] - times[n - 1]
        if length > 0:
            # The kernel adds up a stall when it ends: more than all of a sample is possible.
            share = 100 * (so_far[n] - so_far[n - 1]) / length
            points.append((_ms(times[n - 1] + offset, 0), min(share, 100.0)))
    if points:
        points.append((_ms(times[-1] + offset, 0), 0.0))
    return points


def depths(frames: Frames, loads: Sequence[Summary]) -> dict[str, dict[str, Points]]:
    """{strategy: {"mean" or "most at once": [(ms, requests at the device)]}}."""
    start = begins(frames)
    result: dict[str, dict[str, Points]] = {}
    for load in loads:
        first = load.loads[0]
        found = first["block"]["timeline"]
        if not found["depth_max"] or first["load_id"] not in start:
            continue
        begin = start[first["load_id"]]
        width = found["interval_ns"]
        ends = len(found["depth_max"])
        at = [_ms(found["start_ns"] + n * width, begin) for n in range(ends + 1)]
        result[load.label] = {
            shown: [(0.0, 0.0), *zip(at, [*map(float, found[name]), 0.0], strict=True)]
            for name, shown in (("depth_max", "most at once"), ("depth_mean", "mean"))
        }
    return result


def sampled(frames: Frames) -> dict[int, int]:
    """{load_id: the time of its first sample, ns}: where its timeline begins."""
    ledger = frames.recording.table("ledger")
    first = ledger[ledger["what"] == "sample"].groupby("load_id")["t_ns"].min()
    return {int(str(load_id)): int(t_ns) for load_id, t_ns in first.items()}


def own_cache(frames: Frames, load_id: int, column: str = "current") -> list[tuple[int, int]]:
    """(moment, bytes) of the file that a load loaded, where the ledger was read."""
    loads = frames.recording.table("loads")
    own = loads[loads["load_id"] == load_id].tail(1)
    rows = frames.recording.table("page_cache")
    rows = rows[rows["load_id"] == load_id]
    if len(own) and own["ino"].iloc[0]:
        rows = rows[(rows["dev"] == own["dev"].iloc[0]) & (rows["ino"] == own["ino"].iloc[0])]
    return list(zip(rows["t_ns"].tolist(), rows[column].tolist(), strict=True))


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
        parts = {"allocating": allocating, "reading": reading, "both": both(allocating, reading)}
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


def _ms(at: int, begin: int) -> float:
    return round((at - begin) / 1e6, 6)
