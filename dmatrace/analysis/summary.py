"""Rounds of one strategy as one: the median of every figure.

Each figure is the median by itself, so medians of phases need not sum to the
median of the wall time.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dmatrace.analysis import delays
from dmatrace.analysis.time import in_phase_order
from dmatrace.sizes import short_size

KINDS = ("cpu_ns", "blocked_ns", "runnable_ns")
TIMES = ("create_ns", "io_ns", "close_ns", "wall_ns")


@dataclass(frozen=True)
class Summary:
    """The rounds of one strategy, file size and cache state."""

    label: str
    loads: tuple[Mapping[str, Any], ...]  # what the medians are of
    failed: tuple[Mapping[str, Any], ...]  # failed and partial ones, where whole ones exist
    times: Mapping[str, int]
    phases: Mapping[str, tuple[int, int, int]]  # cpu, blocked, runnable ns, all threads
    threads: int
    memory: Mapping[str, int]
    block: Mapping[str, int]
    overlap: Mapping[str, int]
    module: Mapping[str, int]  # what the loader module reported; empty: nothing
    steps: Mapping[str, int]  # the same as traced
    workers: int  # threads that worked for it, which are not its own
    work: Mapping[str, tuple[int, int, int]]  # their part of the phases
    per_byte: float | None  # None: a copying function was not hooked
    delays: Mapping[str, Any] | None  # of the first round; None: nothing is known
    #: 95 % half-widths in ns, of phases that were divided by samples.
    reaches: Mapping[str, int] = field(default_factory=dict)

    @property
    def observed(self) -> bool:
        """Whether it is a process that was followed, not a load by a strategy."""
        return bool(self.loads[0].get("pid"))

    @property
    def hidden(self) -> Mapping[str, Sequence[str]]:
        """Figures that are not known, or too low, and the missing hooks of each."""
        found: Mapping[str, Sequence[str]] = self.loads[0].get("hidden") or {}
        return found

    @property
    def size(self) -> int:
        """The load's bytes."""
        return int(self.loads[0]["bytes"])

    @property
    def total(self) -> int:
        """Thread time in all phases, in ns."""
        return sum(map(sum, self.phases.values()))

    def share(self, phase: str) -> float:
        """The phase's part of all thread time, 0 to 1."""
        return sum(self.phases.get(phase, (0, 0, 0))) / self.total if self.total else 0.0

    def reach(self, phase: str) -> float | None:
        """How far off its share can be at 95 %, 0 to 1; None: it was not divided by samples."""
        ns = self.reaches.get(phase)
        return None if ns is None else ns / (self.total or 1)

    def ranked(self) -> list[str]:
        """Its phases, the longest first."""
        return sorted(in_phase_order(self.phases), key=lambda phase: -sum(self.phases[phase]))


def summaries(loads: Sequence[Mapping[str, Any]]) -> list[Summary]:
    """One Summary per strategy (and size, and cache state), in order of appearance."""
    groups: dict[tuple[str, int, str, int], list[Mapping[str, Any]]] = {}
    for load in loads:
        # Every process is a load of its own, and no round of another.
        alone = int(load["load_id"]) if load.get("pid") else 0
        key = (load["strategy"], load["bytes"], load["cache_before"], alone)
        groups.setdefault(key, []).append(load)
    sizes = {size for _, size, _, alone in groups if not alone}
    caches = {cache for _, _, cache, alone in groups if not alone}
    result = []
    for (strategy, size, cache, alone), group in groups.items():
        if alone:
            result.append(_summary(f"{group[0]['comm']} {group[0]['pid']}", group))
            continue
        label = [strategy]
        if len(sizes) > 1:
            label.append(short_size(size))
        if len(caches) > 1:
            label.append(cache)
        result.append(_summary(" ".join(label), group))
    return result


def _summary(label: str, group: Sequence[Mapping[str, Any]]) -> Summary:
    whole = [load for load in group if not load["failed"] and not load["partial"]]
    used = whole or list(group)
    return Summary(
        label=label,
        loads=tuple(used),
        failed=tuple(load for load in group if load["failed"] or load["partial"]),
        times={name: _median(load[name] for load in used) for name in TIMES},
        phases=_medians([_phases(load["threads"]) for load in used]),
        threads=_median(len(load["threads"]) for load in used),
        memory={
            name: _median(load["memory"][name] for load in used)
            for name, value in used[0]["memory"].items()
            if isinstance(value, int)
        },
        block={
            "requests": _median(load["block"]["requests"] for load in used),
            "read_bytes": _median(load["block"]["read_bytes"] for load in used),
            **{
                name: _median(load["block"]["latency_ns"][name] for load in used)
                for name in ("p50", "p90", "p99", "max")
            },
        },
        overlap={
            name: _median(load["overlap"][name] for load in used)
            for name in ("alloc_ns", "io_ns", "both_ns")
        },
        module=told([load.get("module") for load in used]),
        steps=told([load.get("steps") for load in used]),
        workers=_median(len(_workers(load)) for load in used),
        work=_medians([_phases(_workers(load)) for load in used]),
        delays=delays.total(used[0]["threads"]),
        per_byte=_known_median([load["copies"]["per_byte"] for load in used]),
        reaches=_reaches(used),
    )


def told(loads: Sequence[Mapping[str, Any] | None]) -> dict[str, int]:
    """The medians, by name, of those that said anything; {} if none did.

    What one of them does not know (None) is left out.
    """
    said = [load for load in loads if load]
    names = dict.fromkeys(name for one in said for name in one)
    return {
        name: _median(one.get(name, 0) for one in said)
        for name in names
        if all(one.get(name, 0) is not None for one in said)
    }


def _reaches(loads: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The median of the loads' own; threads of a load err independently of each other."""
    found: dict[str, list[int]] = {}
    for load in loads:
        squares: dict[str, int] = {}
        for thread in load["threads"]:
            for row in thread["phases"]:
                if row.get("ci_ns") is not None:
                    squares[row["phase"]] = squares.get(row["phase"], 0) + row["ci_ns"] ** 2
        for phase, square in squares.items():
            found.setdefault(phase, []).append(math.isqrt(square))
    return {phase: _median(each) for phase, each in found.items()}


def _workers(load: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [thread for thread in load["threads"] if thread.get("owner")]


def _phases(threads: Iterable[Mapping[str, Any]]) -> dict[str, tuple[int, ...]]:
    """Phase times, summed over threads."""
    sums: dict[str, tuple[int, ...]] = {}
    for thread in threads:
        for row in thread["phases"]:
            old = sums.get(row["phase"], (0, 0, 0))
            sums[row["phase"]] = tuple(a + row[k] for a, k in zip(old, KINDS, strict=True))
    return sums


def _medians(loads: Sequence[dict[str, tuple[int, ...]]]) -> dict[str, tuple[int, int, int]]:
    """Of each phase and kind by itself."""
    return {
        phase: (
            _median(one.get(phase, (0, 0, 0))[0] for one in loads),
            _median(one.get(phase, (0, 0, 0))[1] for one in loads),
            _median(one.get(phase, (0, 0, 0))[2] for one in loads),
        )
        for phase in in_phase_order({phase for load in loads for phase in load})
    }


def _known_median(values: Sequence[float | None]) -> float | None:
    """The median; None if one of them is not known."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if len(known) == len(values) else None


def _median(values: Iterable[int]) -> int:
    ordered = sorted(values)
    middle = len(ordered) // 2
    # In integers: the mean of two values of some 2**62 ns has no exact float.
    return (ordered[middle] + ordered[~middle]) // 2
