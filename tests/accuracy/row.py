"""One line of the table: our figure, somebody else's, and how far apart they may be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """``ours`` and ``theirs`` are in the figure's ``unit``; they may differ by ``within``.

    ``within`` is a share of ``theirs`` (0: equal), ``floor`` what they may differ by all
    the same, in the unit.
    """

    figure: str
    workload: str
    oracle: str
    unit: str
    ours: float
    theirs: float
    within: float = 0.0
    floor: float = 0.0

    @property
    def difference(self) -> float:
        """Ours less theirs, as a share of theirs; of nothing, 0 if we say nothing too."""
        if self.theirs:
            return (self.ours - self.theirs) / self.theirs
        return 0.0 if not self.ours else float("inf")

    @property
    def good(self) -> bool:
        """Whether they are no further apart than they may be."""
        allowed = max(self.within * abs(self.theirs), self.floor)
        return abs(self.ours - self.theirs) <= allowed

    @property
    def tolerance(self) -> str:
        """In words."""
        parts = [f"{100 * self.within:g} %"] if self.within else []
        if self.floor:
            parts.append(f"{self.floor:g} {self.unit}")
        return " or ".join(parts) or "equal"
