"""The memory counters of a Perfetto trace, in bytes, below a track ``memory``.

Of the file loaded: what is cached, and what the load added and removed so far.  Of all
files of the load, of a recording with samples: page cache, shmem, and pinned memory over
time, and stalls (PSI) in ns since the load's first sample.  dma-bufs change where they
were exported and released.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dmatrace.analysis.memory import cached_bytes
from dmatrace.export import series
from dmatrace.export.buffers import buffers_live
from dmatrace.export.tracks import Trace

if TYPE_CHECKING:
    from dmatrace.analysis.frames import Frames

#: Of the timeline: the track's name and unit.
_SAMPLED = {
    "page_cache": ("page cache of all files of the load", "bytes"),
    "shmem": ("shmem of the load", "bytes"),
    "pinned": ("pinned", "bytes"),
    "psi_memory_some_ns": ("some task stalled for memory", "ns"),
    "psi_io_some_ns": ("some task stalled for I/O", "ns"),
}
_PEAK = "pinned at most in the load"

Points = list[tuple[int, int]]


def write(trace: Trace, frames: Frames, rows: Mapping[int, Mapping[str, Any]]) -> None:
    """All of them; ``rows`` are the recording's own of the loads."""
    parent = trace.track("memory", rank=5)
    cached: Points = []
    sampled: dict[str, Points] = {}
    peaks: Points = []
    began = series.sampled(frames)
    for load in frames.document["loads"]:
        row = rows.get(load["load_id"], {})
        bill = load["memory"]
        before = cached_bytes(bill["cachestat_before"], frames.document["page_size"])
        if row.get("start_ns") and before is not None:
            cached.append((row["start_ns"], before))
        cached += series.own_cache(frames, load["load_id"])
        for name, values in (bill.get("timeline") or {}).items():
            if name in _SAMPLED and values:
                at = [began[load["load_id"]] + t_ns for t_ns in bill["timeline"]["t_ns"]]
                sampled.setdefault(name, []).extend(zip(at, values, strict=True))
        if row.get("start_ns") and row.get("end_ns"):
            peaks += [(row["start_ns"], bill["pinned_peak"]), (row["end_ns"], 0)]
    _counter(trace, "page cache of the file", parent, 1, cached)
    for rank, name in enumerate(("added", "removed"), start=2):
        points = [
            point
            for load in frames.document["loads"]
            for point in series.own_cache(frames, load["load_id"], name)
        ]
        _counter(trace, f"page cache {name} by the load", parent, rank, points)
    _counter(trace, "dma-bufs", parent, 4, buffers_live(frames["buffers"]))
    _counter(trace, _PEAK, parent, 5, peaks)
    for rank, (name, points) in enumerate(sampled.items(), start=6):
        _counter(trace, _SAMPLED[name][0], parent, rank, points, _SAMPLED[name][1])


def _counter(
    trace: Trace,
    name: str,
    parent: int,
    rank: int,
    points: Iterable[tuple[int, int]],
    unit: str = "bytes",
) -> None:
    track = trace.counter(name, unit, parent, rank)
    for at, value in sorted(points):
        trace.value(track, at, value)
