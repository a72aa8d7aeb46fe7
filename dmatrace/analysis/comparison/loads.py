"""Loads of several recordings, each with all that it may be compared by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dmatrace.analysis.comparison.measures import Value, figures

Document = Mapping[str, Any]

#: What loads that are compared with each other have in common, as far as it goes.
ALIKE = ("recording", "strategy", "bytes", "cache")


@dataclass(frozen=True)
class Load:
    """One load and where it is from; ``usable`` is not, what failed or has no end."""

    where: Mapping[str, Any]  # recording, strategy, round, kernel, machine, device, bytes, cache
    figures: Mapping[str, Value]
    usable: bool


@dataclass(frozen=True)
class Group:
    """Loads that count as repetitions of each other."""

    where: Mapping[str, Any]  # what all of them share
    loads: tuple[Load, ...]  # the usable ones
    left_out: int

    def values(self, name: str) -> list[Value]:
        """One figure of each load."""
        return [load.figures.get(name) for load in self.loads]


def loads(documents: Sequence[tuple[str, Document]]) -> list[Load]:
    """All loads, in order of the recordings and within them."""
    found = []
    for label, document in documents:
        about = {name: document.get(name, "") for name in ("kernel", "machine", "device")}
        for load in document["loads"]:
            where = {
                "recording": label,
                "strategy": load["strategy"],
                "round": load["round"],
                "bytes": load["bytes"],
                "cache": load["cache_before"],
                **about,
            }
            usable = not (load["failed"] or load["refused"] or load["partial"])
            found.append(Load(where, figures(load), usable))
    return found


def groups(found: Sequence[Load], keys: Sequence[str]) -> list[Group]:
    """Loads that agree in ``keys``, in order of appearance."""
    parts: dict[tuple[Any, ...], list[Load]] = {}
    for load in found:
        parts.setdefault(tuple(load.where[key] for key in keys), []).append(load)
    result = []
    for part in parts.values():
        shared = {
            name: value
            for name, value in part[0].where.items()
            if all(load.where[name] == value for load in part)
        }
        used = tuple(load for load in part if load.usable)
        result.append(Group(shared, used, len(part) - len(used)))
    return result
