"""One line of the table: our figure, somebody else's, and how far apart they may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.guest.lab import Lab


@dataclass(frozen=True)
class Row:
    """``ours`` and ``theirs`` are in the figure's ``unit``; they may differ by ``within``.

    ``figure`` is its place in ``report -f json``, from the load on.  ``within`` is a share of
    ``theirs`` (0: equal), ``floor`` what they may differ by all the same, in the unit;
    ``rule`` says so in words where the floor depends on the run.
    """

    figure: str
    workload: str
    oracle: str
    unit: str
    ours: float
    theirs: float
    within: float = 0.0
    floor: float = 0.0
    rule: str = ""

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
        if self.rule:
            return self.rule
        parts = [f"{100 * self.within:g} %"] if self.within else []
        if self.floor:
            parts.append(f"{self.floor:g} {self.unit}")
        return " or ".join(parts) or "equal"


@dataclass(frozen=True)
class Lacks:
    """Why a kernel has no rows of ``workload``; of none but the ``figure``s that begin so."""

    workload: str
    why: str
    figure: str = ""

    def covers(self, figure: str, workload: str) -> bool:
        """Whether this is why a kernel has no such row."""
        return workload.startswith(self.workload) and figure.startswith(self.figure)


@dataclass(frozen=True)
class Missed(Lacks):
    """Why rows of a kernel may be apart; a row that is not there it does not excuse."""

    def covers(self, figure: str, workload: str) -> bool:
        return False


def lost(workload: str, document: Mapping[str, Any]) -> Said:
    """What the recording says was lost, which may be nothing, and calls that probes missed."""
    events = document["lost_events"]
    yield Row("lost_events", workload, "none may be lost", "events", events, 0)
    if document["lost"].get("missed"):
        yield Missed(workload, f"probes missed {document['lost']['missed']} calls of all processes")


Said = Iterator[Row | Lacks]
Section = Callable[[Lab], Said]
