"""Time on a CPU divided by sampled kernel stacks, and how far off that can be.

With ``--detail sampled`` the tracer's cells have exact bounds, but some of what
happens inside them has no hook.  A cell's cpu time stays as it was measured;
its samples only say whose it is, so a thread's phases sum to what they did.

The interval is Wilson's for a binomial share, at 95 %: of a cell's n samples, k
belong to a phase.  It is given as one number, the greater of the two distances
from the estimate; parts of a phase from several cells and threads add up as
independent errors (root of the sum of squares).

Samples are taken at equal distances in time, not independently of each other.
For time that comes in long stretches (a buffer created, then read) that makes
the estimate better than the interval says; it is worse where the work repeats
with the clock's own period, which is why that is a prime rate.  A phase with no
sample is not listed: at 95 % it had less than 3.84 / (n + 3.84) of its cell.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dmatrace.analysis.time import Span, in_phase_order

if TYPE_CHECKING:
    import pandas as pd

Z = 1.959964  # two-sided 95 %

# Phases in which a hook that is left out may run: page faults of user space, of copying and
# of GUP, and shmem folios that are added by whoever needs them.  The others are exact,
# unless a sample says otherwise.
HOLDS_LEFT_OUT = frozenset(
    ("user", "syscall", "udmabuf", "shmem", "map", "fault", "gup", "copy", "splice", "module")
)

#: {cell: {phase: samples}}
Tally = dict[str, Counter[str]]
_FUNCTIONS = 20


def reach(k: int, n: int, z: float = Z) -> float:
    """How far the share k/n can be off, 0 to 1: the longer side of Wilson's interval."""
    if n == 0:
        return 1.0
    share, spread = k / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(centre + half - share, share - (centre - half))


def tallies(spans: Iterable[Span], samples: pd.DataFrame) -> dict[Span, Tally]:
    """The samples of each span, by its thread and its bounds in time."""
    columns = (samples[name].tolist() for name in COLUMNS)
    return tallied(spans, zip(*columns, strict=True))


COLUMNS = ("tid", "t_ns", "cell", "phase", "count")


def tallied(spans: Iterable[Span], rows: Iterable[tuple[Any, ...]]) -> dict[Span, Tally]:
    """``tallies`` of rows with the values of COLUMNS."""
    by_tid: dict[int, list[tuple[int, str, str, int]]] = {}
    for tid, *rest in rows:
        by_tid.setdefault(tid, []).append((rest[0], rest[1], rest[2], rest[3]))
    times: dict[int, list[int]] = {}
    for tid, taken in by_tid.items():
        taken.sort()
        times[tid] = [each[0] for each in taken]
    found: dict[Span, Tally] = {}
    for span in spans:
        tid = span.first.tid
        tally: Tally = {}
        if tid in times:
            first = bisect_left(times[tid], span.first.t_ns)
            last = bisect_right(times[tid], span.last.t_ns)
            for _, cell, phase, count in by_tid[tid][first:last]:
                tally.setdefault(cell, Counter())[phase] += count
        found[span] = tally
    return found


def together(tallied: Iterable[Tally]) -> Tally:
    """The sum of several."""
    found: Tally = {}
    for tally in tallied:
        for cell, phases in tally.items():
            found.setdefault(cell, Counter()).update(phases)
    return found


def divide(rows: Sequence[Mapping[str, Any]], tally: Tally) -> list[dict[str, Any]]:
    """A thread's ``phases`` list, its cpu time divided by its samples.

    What was divided has "ci_ns" and the count None.  The sum of cpu_ns stays.
    """
    kinds = ("cpu_ns", "blocked_ns", "runnable_ns")
    found = {row["phase"]: {kind: row[kind] for kind in kinds} for row in rows}
    counts = {row["phase"]: row["count"] for row in rows}
    squares: dict[str, float] = {}
    for row in rows:
        cell, cpu = row["phase"], row["cpu_ns"]
        seen = tally.get(cell, Counter())
        if cpu <= 0 or (cell not in HOLDS_LEFT_OUT and seen.keys() <= {cell}):
            continue
        n = seen.total()
        parts = {phase: cpu * k // n for phase, k in seen.items() if k}
        # What rounding leaves goes to the largest part, or all of it to a cell without samples.
        most = max(parts, key=lambda phase: parts[phase], default=cell)
        parts[most] = parts.get(most, 0) + cpu - sum(parts.values())
        found[cell]["cpu_ns"] -= cpu
        for phase, part in parts.items():
            found.setdefault(phase, dict.fromkeys(kinds, 0))["cpu_ns"] += part
        for phase in {cell, *parts}:
            squares[phase] = squares.get(phase, 0.0) + (cpu * reach(seen[phase], n)) ** 2
    result = []
    for phase in in_phase_order(found):
        row = {"phase": phase, **found[phase]}
        if phase in squares:
            row |= {"count": None, "ci_ns": round(math.sqrt(squares[phase]))}
        else:
            row["count"] = counts[phase]
        if any(found[phase].values()) or row["count"]:
            result.append(row)
    return result


def functions(spans: Sequence[Span], samples: pd.DataFrame) -> dict[str, Any]:
    """A load's ``samples`` object: how many, and the functions that most of them were in.

    The innermost function, so also what no probe can reach; "" is user space.
    """
    counted: Counter[tuple[str, str]] = Counter()
    by_tid: dict[int, list[tuple[int, int]]] = {}
    for span in spans:
        by_tid.setdefault(span.first.tid, []).append((span.first.t_ns, span.last.t_ns))
    columns = ("tid", "t_ns", "phase", "functions", "count")
    for tid, at, phase, stack, count in zip(
        *(samples[name].tolist() for name in columns), strict=True
    ):
        if any(first <= at <= last for first, last in by_tid.get(tid, ())):
            counted[stack.rpartition(";")[2], phase] += count
    return {
        "count": counted.total(),
        "functions": [
            {"function": function, "phase": phase, "count": count}
            for (function, phase), count in counted.most_common(_FUNCTIONS)
        ],
    }
