"""Queue depth over time with a Python object for each request: what the columns must agree with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from dmatrace.analysis.depth import slice_ns

Interval = tuple[int, int]


def steps(intervals: Iterable[Interval]) -> Iterator[tuple[int, int, int]]:
    """(start, end, how many) stretches of constant depth, ascending, from first start to last end.

    Depth 0 between requests is among them; a request that ends as another starts
    does not count twice.
    """
    changes: dict[int, int] = {}
    for start, end in intervals:
        if start < end:
            changes[start] = changes.get(start, 0) + 1
            changes[end] = changes.get(end, 0) - 1
    depth = 0
    before: int | None = None
    for at in sorted(changes):
        if before is not None:
            yield before, at, depth
        depth += changes[at]
        before = at


def depth(intervals: Iterable[Interval]) -> dict[str, Any]:
    """Mean and most at once, and ns at each depth; over the time from first start to last end.

    ``mean`` counts the time with nothing under way, ``busy_ns`` leaves it out.
    """
    held: dict[int, int] = {}
    for start, end, number in steps(intervals):
        held[number] = held.get(number, 0) + end - start
    span = sum(held.values())
    return {
        "mean": round(sum(n * ns for n, ns in held.items()) / span, 3) if span else 0.0,
        "max": max(held, default=0),
        "busy_ns": span - held.get(0, 0),
        "hist_ns": {str(number): held[number] for number in sorted(held)},
    }


def timeline(requests: Sequence[tuple[int, int, int]], interval_ns: int = 0) -> dict[str, Any]:
    """Depth and bytes over time, of (issue, complete, bytes) requests.

    Slices of ``interval_ns`` (0: so that there are about SLICES) from the first issue on;
    ``depth_mean`` weighs by time, ``read_bytes`` counts a request where it completed.
    """
    intervals = [(issue, complete) for issue, complete, _ in requests if issue < complete]
    if not intervals:
        return {
            "start_ns": 0, "interval_ns": 0, "depth_mean": [], "depth_max": [], "read_bytes": [],
        }  # fmt: skip
    start = min(issue for issue, _ in intervals)
    end = max(complete for _, complete in intervals)
    width = interval_ns or slice_ns(end - start)
    count = -(-(end - start) // width)
    area, most, done = [0] * count, [0] * count, [0] * count
    for low, high, number in steps(intervals):
        for index in range((low - start) // width, -(-(high - start) // width)):
            left, right = start + index * width, start + (index + 1) * width
            area[index] += number * (min(high, right) - max(low, left))
            most[index] = max(most[index], number)
    for issue, complete, size in requests:
        if issue < complete:
            done[min((complete - start) // width, count - 1)] += size
    # The last slice ends where the last request does.
    lengths = [min(width, end - start - index * width) for index in range(count)]
    return {
        "start_ns": start,
        "interval_ns": width,
        "depth_mean": [round(a / ns, 3) for a, ns in zip(area, lengths, strict=True)],
        "depth_max": most,
        "read_bytes": done,
    }
