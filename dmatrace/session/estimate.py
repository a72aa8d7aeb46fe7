"""How long the rest of a bench will take, from what its loads have taken so far.

Pure.  A load is known by (row, bytes, bytes eaten).  What it took is all of
it, in seconds: dropping caches, loading, comparing; and of that the loading
alone, which is what grows with the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

Load = tuple[int, int, int]


@dataclass(frozen=True)
class Took:
    """One load that is done."""

    load: Load
    seconds: float
    loading: float


def seconds_left(done: Sequence[Took], todo: Iterable[Load]) -> float | None:
    """Seconds that ``todo`` will take; None as long as nothing is done.

    A load takes what the same one took; else what others took at its size (in
    the same memory, if there are any); else what others took at the nearest
    size, with their loading stretched to its own.
    """
    if not done:
        return None
    same: dict[object, list[float]] = {}
    for took in done:
        _, size, eaten = took.load
        for key in (took.load, (size, eaten), size):
            same.setdefault(key, []).append(took.seconds)
    # Each distinct load once: there may be thousands to come.
    known: dict[Load, float] = {}

    def one(load: Load) -> float:
        _, size, eaten = load
        for key in (load, (size, eaten), size):
            if key in same:
                return fmean(same[key])
        nearest = min((took.load[1] for took in done), key=lambda other: abs(other - size))
        like = [took for took in done if took.load[1] == nearest]
        fixed = fmean(took.seconds - took.loading for took in like)
        return fixed + fmean(took.loading for took in like) * size / nearest

    total = 0.0
    for load in todo:
        if load not in known:
            known[load] = one(load)
        total += known[load]
    return total


def in_words(seconds: float) -> str:
    """``240`` -> ``4 min``: as much as an estimate can say."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
