"""A load's block requests as the I/O view draws them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dmatrace.analysis import block, overlap
from dmatrace.tui.model import Interval, Io

Row = Mapping[str, Any]

SLICES = 48  # of the queue depth over time


def reads(requests: Iterable[Row]) -> list[Row]:
    """The completed reads."""
    return [row for row in requests if row["op"] == "read" and row["complete_ns"] > 0]


def io(requests: Iterable[Row]) -> Io:
    """The figures of completed reads; zeros where there are none."""
    done = reads(requests)
    spans = [(row["issue_ns"], row["complete_ns"]) for row in done]
    latencies = [end - start for start, end in spans]
    figures = block.figures(latencies, [row["bytes"] for row in done])
    counts: dict[int, int] = {}
    for latency in latencies:
        bucket = 1 << (max(latency, 1).bit_length() - 1)
        counts[bucket] = counts.get(bucket, 0) + 1
    busy = overlap.length(overlap.union(spans))
    span = (min(s for s, _ in spans), max(e for _, e in spans)) if spans else (0, 0)
    return Io(
        requests=figures["requests"],
        read_bytes=figures["read_bytes"],
        **figures["latency_ns"],
        latency_hist=tuple(sorted(counts.items())),
        size_hist=tuple((int(size), n) for size, n in figures["size_hist"].items()),
        depth_mean=sum(latencies) / busy if busy else 0.0,
        depth_max=_deepest(spans),
        depth_series=_depths(spans, span),
        span=span,
    )


def _deepest(spans: Sequence[Interval]) -> int:
    """The most intervals that hold one moment; one that ends as another begins holds none."""
    edges = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    deepest = depth = 0
    for _, step in edges:
        depth += step
        deepest = max(deepest, depth)
    return deepest


def _depths(spans: Sequence[Interval], whole: Interval) -> tuple[float, ...]:
    """The mean number of requests in the device, in equal slices of ``whole``."""
    begin, end = whole
    if end <= begin:
        return ()
    width = (end - begin) / SLICES
    sums = [0.0] * SLICES
    for start, stop in spans:
        first = int((start - begin) / width)
        last = min(SLICES - 1, int((stop - begin) / width))
        for place in range(first, last + 1):
            left = max(start, begin + place * width)
            right = min(stop, begin + (place + 1) * width)
            sums[place] += max(0.0, right - left)
    return tuple(total / width for total in sums)


def thinned(disjoint: Sequence[Interval], most: int) -> tuple[Interval, ...]:
    """Ascending intervals with the shortest gaps between them closed, ``most`` at most."""
    if len(disjoint) <= most:
        return tuple(disjoint)
    gaps = sorted(
        (after[0] - before[1] for before, after in itertools.pairwise(disjoint)),
        reverse=True,
    )
    least = gaps[most - 2]  # what still separates two
    result: list[Interval] = [disjoint[0]]
    apart = most - 1
    for start, end in disjoint[1:]:
        if start - result[-1][1] >= least and apart > 0:
            result.append((start, end))
            apart -= 1
        else:
            result[-1] = (result[-1][0], end)
    return tuple(result)
