"""How closely a recording looks: the two levels of ``record --detail``.

``exact`` hooks every function of the table.  ``sampled`` leaves out the hooks that
fire for every page, so that its cost does not grow with their number, and divides
the time on a CPU inside the others' boundaries by sampled kernel stacks.
"""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = ("exact", "sampled")
#: What ``record`` does where the user says nothing: the switch between the two.
DEFAULT_LEVEL = "exact"

#: Samples a second.  A prime, so that it keeps step with no other clock.
HZ = 199
HZ_MAX = 4999


@dataclass(frozen=True)
class Detail:
    """``level`` is one of LEVELS; stacks are sampled ``hz`` times a second, 0: never."""

    level: str = DEFAULT_LEVEL
    hz: int = 0

    @property
    def sampled(self) -> bool:
        """Whether samples stand in for hooks."""
        return self.level == "sampled"


EXACT = Detail("exact")


def detail(level: str, hz: int | None) -> Detail:
    """A level, and a rate if the user gave one."""
    return Detail(level, (HZ if level == "sampled" else 0) if hz is None else hz)
