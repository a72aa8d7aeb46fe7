"""Values sampled over time, as step functions: a row says what changed, and when."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


class Samples:
    """Table ``ledger`` of one load: step functions of time."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self._steps: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
        times = []
        columns = (rows[name].tolist() for name in ("t_ns", "what", "name", "value"))
        for t_ns, what, name, value in sorted(zip(*columns, strict=True), key=lambda row: row[0]):
            if what == "sample":
                times.append(t_ns)
            steps = self._steps.setdefault((what, name), ([], []))
            steps[0].append(t_ns)
            steps[1].append(value)
        self.times = sorted(set(times))

    def at(self, what: str, name: str, t_ns: int) -> int | None:
        """The value at a moment, or None before its first sample."""
        times, values = self._steps.get((what, name), ([], []))
        place = bisect_right(times, t_ns)
        return values[place - 1] if place else None

    def series(self, what: str, name: str) -> list[int] | None:
        """The value at every sample, or None if it was never sampled."""
        found = [self.at(what, name, t_ns) for t_ns in self.times]
        return None if None in found else [value for value in found if value is not None]

    def between(self, what: str, name: str) -> int | None:
        """How much a cumulative value grew from the first sample to the last."""
        found = self.series(what, name)
        return None if found is None else found[-1] - found[0]

    def change(self, what: str, names: Mapping[str, str]) -> dict[str, int] | None:
        """Growth by other names; None if none of them was sampled (an old kernel lacks some)."""
        found = {key: self.between(what, name) for key, name in names.items()}
        return {k: v for k, v in found.items() if v is not None} or None

    def changes(self, what: str) -> dict[str, int]:
        """Growth of every name."""
        return self.change(what, {n: n for w, n in self._steps if w == what}) or {}
