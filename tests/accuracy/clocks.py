"""Rows of what threads spent, beside the scheduler's own clocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dmatrace.analysis import law
from tests.accuracy.row import Row

KINDS = ("cpu", "blocked", "runnable")
OF_WALL = f"{100 * law.SCHED_WITHIN:g} % of wall or {law.SCHED_FLOOR_NS // 1_000_000} ms"
RULE = f"{OF_WALL}; from a wakeup to the CPU is either's"

Threads = Sequence[dict[str, Any]]


def sums(thread: dict[str, Any]) -> dict[str, int]:
    """{cpu, blocked and runnable: ns over all phases}."""
    return {kind: sum(phase[f"{kind}_ns"] for phase in thread["phases"]) for kind in KINDS}


def allowed(threads: Threads) -> float:
    """How far the threads' clocks may be apart (law.schedstat)."""
    found = 0.0
    for thread in threads:
        found += max(law.SCHED_WITHIN * thread["wall_ns"], law.SCHED_FLOOR_NS)
        found += thread["mark_ns"] if thread["clock"] == "recorder" else 0
    return found


def schedstat(workload: str, threads: Threads) -> Iterator[Row]:
    """As law.schedstat holds them: of one load, summed over its threads."""
    known = [thread for thread in threads if thread["sched_run_ns"] is not None]
    if not known:
        return
    floor = allowed(known)
    cpu, wake, runnable = (
        sum(sums(thread)["cpu"] for thread in known),
        sum(thread["wake_ns"] for thread in known),
        sum(sums(thread)["runnable"] for thread in known),
    )
    run = sum(thread["sched_run_ns"] for thread in known)
    wait = sum(thread["sched_wait_ns"] for thread in known)
    ours = min(max(run, cpu), cpu + wake)
    yield Row("threads.phases.cpu_ns", workload, "schedstat, run time", "ns", ours, run,
              floor=floor, rule=RULE)  # fmt: skip
    yield Row("threads.phases.cpu_ns and runnable_ns", workload, "schedstat, run and wait time",
              "ns", cpu + runnable, run + wait, floor=floor, rule=OF_WALL)  # fmt: skip


def closure(workload: str, threads: Threads) -> Iterator[Row]:
    """What a loader's thread spent beside its own clock, which no tracer reads."""
    for thread in threads:
        if thread["clock"] == "loader":
            yield Row("threads.phases, summed", workload, "the loader's clock", "ns",
                      sum(sums(thread).values()), thread["wall_ns"], within=law.CLOSES_WITHIN,
                      floor=thread["mark_ns"],
                      rule="1 %, or the time between its clock and its mark")  # fmt: skip
            return
