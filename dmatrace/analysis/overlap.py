"""How long allocation and I/O ran at the same time, from intervals.

Sums cannot show it: a loader that gathers is worth T(first batch) +
max(T(remaining allocation), T(I/O)), and that shows only where both ran.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dmatrace.analysis.sweep import Intervals, sweep, tally

Interval = tuple[int, int]

ALLOCATING = frozenset({"heap-alloc", "udmabuf", "shmem"})


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Disjoint ascending intervals that cover the same time; empty ones are dropped."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            if end > merged[-1][1]:
                merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def length(disjoint: Sequence[Interval]) -> int:
    """The time disjoint intervals cover."""
    return sum(end - start for start, end in disjoint)


def overlap(alloc: Iterable[Interval], io: Iterable[Interval]) -> dict[str, int]:
    """The contract's ``overlap`` object, in ns."""
    allocating, reading = union(alloc), union(io)
    alloc_ns, io_ns = length(allocating), length(reading)
    either = length(union([*allocating, *reading]))
    return {"alloc_ns": alloc_ns, "io_ns": io_ns, "both_ns": alloc_ns + io_ns - either}


def both(one: Sequence[Interval], other: Sequence[Interval]) -> list[Interval]:
    """Where both are; each is disjoint and ascending, and so is the result."""
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


def overlapping(alloc: Intervals, io: Intervals) -> dict[str, int]:
    """The same from columns, for a load of millions of requests."""
    spent = {1: 0, 2: 0, 3: 0}  # allocating, reading, the two at once
    for lengths, levels in sweep({"alloc": alloc, "io": io}):
        now = (levels["alloc"] > 0) + 2 * (levels["io"] > 0)
        for number, ns in tally(now, lengths).items():
            spent[number] = spent.get(number, 0) + ns
    return {"alloc_ns": spent[1] + spent[3], "io_ns": spent[2] + spent[3], "both_ns": spent[3]}
