"""The figures of one load that are compared, by the names that --fail-on takes.

Times are ns, sizes are bytes, ``copies`` is CPU copies per byte of the file.
A phase's figure is the time of all the load's threads in it, whatever they did
there (cpu, blocked, runnable); ``cpu``, ``blocked`` and ``runnable`` are the
sums over all phases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dmatrace.analysis.memory import LEDGER
from dmatrace.phases import PHASE_ID, PHASES

Value = int | float | None


class Measure(NamedTuple):
    """What a name means; ``worse`` is 1 where more is worse, -1 where less is, else 0."""

    section: str  # time|phase|memory|io
    unit: str  # ns|bytes|count|ratio
    worse: int


MODES = ("cpu", "blocked", "runnable")

_FIXED: dict[str, Measure] = {
    "wall": Measure("time", "ns", 1),
    "create": Measure("time", "ns", 1),
    "io": Measure("time", "ns", 1),
    "close": Measure("time", "ns", 1),
    **{mode: Measure("time", "ns", 1) for mode in MODES},
    "overlap": Measure("time", "ns", -1),
    "copies": Measure("memory", "ratio", 1),
    "cpu_bytes": Measure("memory", "bytes", 1),
    # Pages that leave the page cache may be this load's own, which is its merit, or others'.
    "page_cache_removed": Measure("memory", "bytes", 0),
    "mapped": Measure("memory", "bytes", 0),
    "requests": Measure("io", "count", 0),
    "read_bytes": Measure("io", "bytes", 1),
    **{f"latency_{name}": Measure("io", "ns", 1) for name in ("p50", "p90", "p99", "max")},
}


def measure(name: str) -> Measure:
    """What ``name`` means; of neither table nor phase, it is a row of ``memory``."""
    if name in _FIXED:
        return _FIXED[name]
    if name in PHASE_ID:
        return Measure("phase", "ns", 1)
    return Measure("memory", "bytes", 1)


def known() -> list[str]:
    """All names that exist whatever a recording holds, in the order they are shown."""
    times = [name for name, found in _FIXED.items() if found.section == "time"]
    memory = [_row(name) for name in LEDGER]
    memory += [n for n, f in _FIXED.items() if f.section == "memory" and n not in memory]
    return [*times, *PHASES, *memory, *(n for n, f in _FIXED.items() if f.section == "io")]


def _row(name: str) -> str:
    """What a memory row is called here: "shmem" is a phase, its bytes are "shmem_bytes"."""
    return f"{name}_bytes" if name in PHASE_ID else name


def figures(load: Mapping[str, Any]) -> dict[str, Value]:
    """{name: figure} of one load of a document; None is what was not measured.

    A phase that the load was never in is 0: its threads' time is all in the others.
    """
    phases: dict[str, int] = dict.fromkeys(PHASES, 0)
    modes = dict.fromkeys(MODES, 0)
    for thread in load["threads"]:
        for row in thread["phases"]:
            for mode in MODES:
                spent = row[f"{mode}_ns"]
                modes[mode] += spent
                phases[row["phase"]] = phases.get(row["phase"], 0) + spent
    memory = {
        _row(name): value
        for name, value in load["memory"].items()
        if value is None or (isinstance(value, int) and not isinstance(value, bool))
    }
    block = load["block"]
    return {
        **{name: load[f"{name}_ns"] for name in ("wall", "create", "io", "close")},
        **modes,
        "overlap": load["overlap"]["both_ns"],
        **phases,
        **memory,
        "copies": load["copies"]["per_byte"],
        "cpu_bytes": load["copies"]["cpu_bytes"],
        "requests": block["requests"],
        "read_bytes": block["read_bytes"],
        **{f"latency_{name}": block["latency_ns"][name] for name in ("p50", "p90", "p99", "max")},
    }
