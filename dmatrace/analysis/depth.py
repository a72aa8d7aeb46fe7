"""How many requests were under way at each moment, from their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dmatrace.analysis.sweep import BLOCK, Intervals, distance, sweep, tally, total

if TYPE_CHECKING:
    import numpy as np

    from dmatrace.analysis.arrays import Column

SLICES = 60  # of a time line that is given no interval, at most
_STEPS = (1, 2, 5)


def depth(requests: Intervals) -> dict[str, Any]:
    """Mean and most at once, and ns at each depth; over the time from first start to last end.

    ``mean`` counts the time with nothing under way, ``busy_ns`` leaves it out; a request that
    ends as another starts does not count twice.
    """
    held: dict[int, int] = {}
    for lengths, levels in sweep({"": requests}):
        for number, ns in tally(levels[""], lengths).items():
            held[number] = held.get(number, 0) + ns
    span = sum(held.values())
    return {
        "mean": round(sum(n * ns for n, ns in held.items()) / span, 3) if span else 0.0,
        "max": max(held, default=0),
        "busy_ns": span - held.get(0, 0),
        "hist_ns": {str(number): held[number] for number in sorted(held)},
    }


def slice_ns(span: int, slices: int = SLICES) -> int:
    """The shortest of 1, 2 or 5 times a power of ten ns that cuts ``span`` into at most that many.

    At least 1 us.
    """
    unit = 1000
    while True:
        for step in _STEPS:
            if step * unit * slices >= span:
                return step * unit
        unit *= 10


def timeline(
    requests: Intervals, issue: Column, complete: Column, sizes: Column, interval_ns: int = 0
) -> dict[str, Any]:
    """Depth and bytes over time, of requests: their intervals, and each one's times and bytes.

    Slices of ``interval_ns`` (0: so that there are about SLICES) from the first issue on;
    ``depth_mean`` weighs by time, ``read_bytes`` counts a request where it completed.
    """
    import numpy as np

    if not requests:
        return {
            "start_ns": 0, "interval_ns": 0, "depth_mean": [], "depth_max": [], "read_bytes": [],
        }  # fmt: skip
    start, end = int(requests.starts[0]), int(requests.ends[-1])
    width = interval_ns or slice_ns(end - start)
    count = -(-(end - start) // width)
    # The last slice ends where the last request does.
    edges = np.array([*(start + n * width for n in range(count)), end], dtype=np.int64)
    begun = np.searchsorted(requests.starts, edges).tolist()
    ended = np.searchsorted(requests.ends, edges).tolist()
    mean, most = [], []
    for n in range(count):
        left, right = int(edges[n]), int(edges[n + 1])
        starts = requests.starts[begun[n] : begun[n + 1]]
        ends = requests.ends[ended[n] : ended[n + 1]]
        area = (
            (begun[n] - ended[n]) * (right - left)
            + total(distance(starts, right))
            - total(distance(ends, right))
        )
        mean.append(round(area / (right - left), 3))
        most.append(_most(requests, left, begun[n], begun[n + 1]))
    return {
        "start_ns": start,
        "interval_ns": width,
        "depth_mean": mean,
        "depth_max": most,
        "read_bytes": _completed(issue, complete, sizes, edges),
    }


def _most(requests: Intervals, left: int, first: int, last: int) -> int:
    """The greatest depth from ``left`` on; starts ``first`` to ``last`` are in the slice."""
    import numpy as np

    # It can only grow where one starts.
    found = int(
        np.searchsorted(requests.starts, left, "right")
        - np.searchsorted(requests.ends, left, "right")
    )
    for at in range(first, last, BLOCK):
        part = requests.starts[at : min(at + BLOCK, last)]
        begun = np.arange(at + 1, at + 1 + len(part))
        found = max(found, int((begun - np.searchsorted(requests.ends, part, "right")).max()))
    return found


def _completed(issue: Column, complete: Column, sizes: Column, edges: Column) -> list[int]:
    """Bytes per slice, of the requests that took any time."""
    import numpy as np

    found: np.ndarray[Any, np.dtype[np.int64]] = np.zeros(len(edges) - 1, dtype=np.int64)
    for at in range(0, len(issue), BLOCK):
        part = slice(at, at + BLOCK)
        kept = issue[part] < complete[part]
        where = np.searchsorted(edges, complete[part][kept], "right") - 1
        np.add.at(found, np.minimum(where, len(found) - 1), sizes[part][kept])
    return [int(size) for size in found]
