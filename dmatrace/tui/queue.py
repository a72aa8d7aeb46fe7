"""A load's block requests as the I/O view draws them."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dmatrace.analysis import arrays, block, overlap
from dmatrace.analysis.sweep import Intervals, intervals
from dmatrace.recording.tail import Rows
from dmatrace.tui.model import Interval, Io

if TYPE_CHECKING:
    from dmatrace.analysis.arrays import Column

Columns = Mapping[str, Sequence[Any]]  # of the requests table, as many values in each

#: Those that are looked at.
COLUMNS = ("load_id", "op", "issue_ns", "complete_ns", "bytes", "file_dev", "ino")

SLICES = 48  # of the queue depth over time


def columns(rows: Iterable[Mapping[str, Any]]) -> Columns:
    """Rows of the requests table, column by column."""
    if isinstance(rows, Rows):
        return rows.columns
    whole = list(rows)
    return {name: [row.get(name, 0) for row in whole] for name in COLUMNS}


class Requests:
    """The completed reads of one load, 24 bytes each: a load of 70 GB has half a million."""

    def __init__(self) -> None:
        self._issue, self._complete, self._bytes = (array("q") for _ in range(3))
        self._busy: tuple[int, list[Interval]] = (0, [])  # of so many requests
        #: {(dev, inode): bytes} of the files that they were for, as far as their bios told.
        self.by_file: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self._issue)

    def add(self, rows: Columns) -> None:
        """Rows of the requests table; what is no completed read is left out."""
        done = [
            op == "read" and complete > 0
            for op, complete in zip(rows["op"], rows["complete_ns"], strict=True)
        ]
        self._issue.extend(itertools.compress(rows["issue_ns"], done))
        self._complete.extend(itertools.compress(rows["complete_ns"], done))
        sizes = list(itertools.compress(rows["bytes"], done))
        self._bytes.extend(sizes)
        files = itertools.compress(zip(rows["file_dev"], rows["ino"], strict=True), done)
        for file, size in zip(files, sizes, strict=True):
            self.by_file[file] = self.by_file.get(file, 0) + size

    def busy(self) -> list[Interval]:
        """When at least one was between issue and completion: disjoint, ascending."""
        if self._busy[0] != len(self):
            self._busy = len(self), _union(*self._intervals())
        return self._busy[1]

    def _intervals(self) -> Intervals:
        """Starts and ends, row by row; empty ones are dropped."""
        import numpy as np

        start, end = (np.array(each, dtype=np.int64) for each in (self._issue, self._complete))
        kept = start < end
        return Intervals(start[kept], end[kept])

    def io(self) -> Io:
        """The figures; zeros where there are none."""
        import numpy as np

        start, end, sizes = (
            np.array(each, dtype=np.int64) for each in (self._issue, self._complete, self._bytes)
        )
        latencies = end - start
        span = (int(start.min()), int(end.max())) if len(self) else (0, 0)
        moments = intervals(start, end)
        busy = overlap.length(self.busy())
        return Io(
            requests=len(self),
            read_bytes=int(sizes.sum()),
            **arrays.percentiles(latencies, block.PERCENTILES),
            latency_hist=_by_power(latencies),
            size_hist=tuple((int(size), n) for size, n in arrays.size_hist(sizes).items()),
            depth_mean=float(latencies.sum()) / busy if busy else 0.0,
            depth_max=_deepest(moments),
            depth_series=_depths(moments, span),
            span=span,
        )


def _union(start: Column, end: Column) -> list[Interval]:
    """As overlap.union(): intervals that touch are one."""
    import numpy as np

    if not len(start):
        return []
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.maximum.accumulate(end[order])
    first = np.flatnonzero(np.append(True, start[1:] > end[:-1]))
    last = np.append(first[1:], len(start)) - 1
    return list(zip(start[first].tolist(), end[last].tolist(), strict=True))


def _by_power(values: Column) -> tuple[tuple[int, int], ...]:
    """(a power of two, how many values there are from it on), of values of 1 or more."""
    import numpy as np

    # Below 2 ** 53 ns, which are 104 days, the exponent is exact.
    _, exponents = np.frexp(np.maximum(values, 1).astype(np.float64))
    found = zip(*(x.tolist() for x in np.unique(exponents, return_counts=True)), strict=True)
    return tuple((1 << (exponent - 1), count) for exponent, count in found)


def _deepest(moments: Intervals) -> int:
    """The most intervals that hold one moment; one that ends as another begins holds none."""
    import numpy as np

    if not moments:
        return 0
    begun = np.arange(1, len(moments.starts) + 1)
    return int((begun - np.searchsorted(moments.ends, moments.starts, "right")).max())


def _depths(moments: Intervals, whole: Interval) -> tuple[float, ...]:
    """The mean number of requests in the device, in equal slices of ``whole``."""
    import numpy as np

    begin, end = whole
    if end <= begin:
        return ()
    edges = np.arange(SLICES + 1) * ((end - begin) / SLICES)
    # Time spent in the device until each edge: by all that had begun, less by those that ended.
    spent = np.zeros(SLICES + 1)
    for times, sign in ((moments.starts, 1), (moments.ends, -1)):
        since = times - begin
        before = np.searchsorted(since, edges)
        sums = np.append(0, np.cumsum(since))
        spent += sign * (before * edges - sums[before])
    return tuple(float(each) for each in np.diff(spent) / (edges[1] - edges[0]))


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
