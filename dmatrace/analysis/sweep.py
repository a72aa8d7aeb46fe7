"""How many intervals are open at each moment: of millions of them, block by block.

To count them, starts and ends may each be sorted by itself: whose end it is that
closes one does not matter.  So ten million need two sorted columns (160 MB) and the
temporary arrays of one block, not a Python object for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from dmatrace.analysis.arrays import Column

    #: Lengths in ns; as they are disjoint, their sums do not overflow.
    Lengths = np.ndarray[Any, np.dtype[np.uint64]]

BLOCK = 1 << 18  # values of a column that are worked on at once


class Intervals(NamedTuple):
    """Intervals, none empty: their starts ascending, and their ends ascending; ns."""

    starts: Column
    ends: Column

    def __bool__(self) -> bool:
        return len(self.starts) > 0


def intervals(starts: Column, ends: Column) -> Intervals:
    """From the start and the end of each; empty ones are dropped."""
    import numpy as np

    kept = starts < ends
    if not kept.all():
        starts, ends = starts[kept], ends[kept]
    return Intervals(np.sort(starts), np.sort(ends))


def of(pairs: Iterable[tuple[int, int]]) -> Intervals:
    """From (start, end) pairs; empty ones are dropped."""
    import numpy as np

    rows = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
    return intervals(rows[:, 0], rows[:, 1])


def sweep(sources: Mapping[str, Intervals]) -> Iterator[tuple[Lengths, dict[str, Column]]]:
    """(length, {source: how many of it are open}) of each stretch in which nothing changes.

    Stretches are ascending, without gaps, from the first start to the last end; they come
    as arrays, a block of them at a time.
    """
    import numpy as np

    columns = [column for each in sources.values() for column in each if len(column)]
    if not columns:
        return
    # Between two cuts no column has more than BLOCK values, but for equal ones.
    cuts = np.unique(np.concatenate([column[::BLOCK] for column in columns])).tolist()
    last = max(int(column[-1]) for column in columns)
    past = dict.fromkeys(sources, (0, 0))
    for number in range(len(cuts)):
        final = number + 1 == len(cuts)
        parts: dict[str, tuple[Column, Column]] = {}
        seen = dict(past)
        for name, each in sources.items():
            ends = tuple(
                len(column) if final else int(np.searchsorted(column, cuts[number + 1]))
                for column in each
            )
            first = past[name]
            parts[name] = each.starts[first[0] : ends[0]], each.ends[first[1] : ends[1]]
            seen[name] = ends[0], ends[1]
        edges = _distinct(np.concatenate([column for pair in parts.values() for column in pair]))
        after = np.append(edges[1:], last if final else cuts[number + 1])
        levels = {
            name: past[name][0] - past[name][1]
            + np.searchsorted(starts, edges, "right") - np.searchsorted(ends, edges, "right")
            for name, (starts, ends) in parts.items()
        }  # fmt: skip
        yield distance(edges, after), levels
        past = seen


def _distinct(values: Column) -> Column:
    """``values`` ascending, each once; it sorts them in place.

    As unique() does, which of numbers that mostly differ is slower: it hashes them first.
    """
    import numpy as np

    values.sort()
    first: np.ndarray[Any, np.dtype[np.bool_]] = np.append(True, values[1:] != values[:-1])
    found: Column = values[first]
    return found


def distance(low: Any, high: Any) -> Lengths:
    """``high - low`` where it is not negative, exact over all of int64."""
    import numpy as np

    return np.asarray(high, dtype=np.int64).view(np.uint64) - np.asarray(low, dtype=np.int64).view(
        np.uint64
    )


def tally(which: Column, lengths: Lengths) -> dict[int, int]:
    """{number: sum of the lengths that have it in ``which``}; what sums to 0 is left out."""
    import numpy as np

    if not len(which):
        return {}
    low = int(which.min())
    sums = np.zeros(int(which.max()) - low + 1, dtype=np.uint64)
    np.add.at(sums, which - low, lengths)
    return {low + at: int(sums[at]) for at in np.flatnonzero(sums).tolist()}


def total(values: Lengths) -> int:
    """The exact sum of any numbers of 64 bits."""
    import numpy as np

    found = 0
    for at in range(0, len(values), BLOCK):
        part = values[at : at + BLOCK]
        found += int((part >> np.uint64(32)).sum()) << 32
        found += int((part & np.uint64(0xFFFFFFFF)).sum())
    return found
