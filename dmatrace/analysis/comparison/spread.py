"""How far a difference of medians can be trusted: the percentile bootstrap.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: rounds
of each side are drawn anew with replacement, and the interval is what 95 % of
the differences of medians fall in.  The generator's seed is fixed, so the same
recordings give the same answer.

The method is blunt with few rounds.  Simulated on equal normal rounds, 3 a side
differ "beyond their spread" in about 10 of 100 rows, 5 or more in about 4: a
single row just beyond its spread proves little among thirty.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

SEED = 20_241_122
RESAMPLES = 2000
CONFIDENCE = 0.95
# Of two rounds, the resamples are their extremes, and equal pairs are apart one time in three.
LEAST = 3


def interval(base: Sequence[float], new: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of median(new) - median(base); None with under 3 rounds on a side."""
    import numpy as np

    if min(len(base), len(new)) < LEAST:
        return None
    draws = [
        np.median(np.asarray(values, dtype=float)[_indices(len(values), side)], axis=1)
        for side, values in enumerate((base, new))
    ]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(draws[1] - draws[0], [tail, 100 - tail])
    return float(low), float(high)


def method() -> dict[str, Any]:
    """The method as the JSON documents state it."""
    return {
        "name": "percentile bootstrap of the difference of medians",
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "seed": SEED,
        "least_rounds": LEAST,
    }


@cache
def _indices(count: int, side: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    import numpy as np

    return np.random.default_rng([SEED, side, count]).integers(0, count, (RESAMPLES, count))
