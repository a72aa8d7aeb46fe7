"""The five laws a recording obeys, as functions over its JSON document.

Each returns sentences that name what breaks it, none when it holds.  Tests
run them on real recordings.  Loads that failed or are partial prove nothing
and are passed over, except by those who ask for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dmatrace.analysis.memory import cached_bytes

Document = Mapping[str, Any]

CLOSES_WITHIN = 0.01
# schedstat is compared relative to the thread's wall time: a wait of 0.1 ms cannot be
# held to 2 % of itself.  The floor is what the markers and one tick of lag amount to.
SCHED_WITHIN = 0.02
SCHED_FLOOR_NS = 1_000_000
BYTES_WITHIN = 0.02
DIRECT_ADDS_UNDER = 0.01
COPIES_WITHIN = 0.05
CACHE_WITHIN = 0.01


def closure(document: Document) -> list[str]:
    """Law 1, its first half: a thread's phases sum to its wall time by the loader's clock.

    The loader reads its clock and then marks the moment for the tracer; where it lost its
    CPU in between, the two windows differ by up to ``mark_ns``, which it measured as well.
    The recorder's clock is the tracer's: nothing lies in between.
    """
    broken = []
    for load in _whole(document):
        for thread in load["threads"]:
            wall, total = thread["wall_ns"], sum(_sums(thread).values())
            mark = 0 if thread["clock"] == "recorder" else thread["mark_ns"]
            if abs(total - wall) > CLOSES_WITHIN * wall + mark:
                broken.append(
                    f"{_name(load)} thread {thread['tid']}: phases sum to {total} ns,"
                    f" wall is {wall} ns"
                )
        if not load["threads"]:
            broken.append(f"{_name(load)}: no threads")
    return broken


def schedstat(document: Document) -> list[str]:
    """Law 1, its second half: cpu and runnable sum to the run and wait times of schedstat.

    What lies between a wakeup and the CPU (``wake_ns``) is runnable time to the tracer.  The
    scheduler calls it so, or running: when the wakeup preempts what runs there, idling
    included, it does not read its clock again to switch (wakeup_preempt() and
    rq_clock_skip_update() in kernel/sched/core.c), and so dates the switch back.

    It reads its clock when it begins to switch, the tracer at the end of that
    (sched_switch).  Where a hypervisor takes the CPU away in between, both are right and
    differ, so what breaks this law only once on a busy host proves nothing.  What the
    recorder asked of a process that runs, it asked up to ``mark_ns`` later than it looked.
    """
    broken = []
    for load in _whole(document):
        for thread in load["threads"]:
            wall, sums, wake = thread["wall_ns"], _sums(thread), thread["wake_ns"]
            allowed = max(SCHED_WITHIN * wall, SCHED_FLOOR_NS)
            allowed += thread["mark_ns"] if thread["clock"] == "recorder" else 0
            bounds = (
                ("cpu", "sched_run_ns", sums["cpu"], sums["cpu"] + wake),
                ("runnable", "sched_wait_ns", sums["runnable"] - wake, sums["runnable"]),
            )
            for kind, key, least, most in bounds:
                theirs = thread[key]
                if theirs is not None and not least - allowed <= theirs <= most + allowed:
                    broken.append(
                        f"{_name(load)} thread {thread['tid']}: {kind} sums to {sums[kind]} ns"
                        f" ({wake} ns after wakeups), {key} is {theirs} ns (wall {wall} ns)"
                    )
    return broken


def page_cache(document: Document) -> list[str]:
    """Law 2: a cold bio load adds the file to the page cache, a dio load (nearly) nothing."""
    broken = []
    for load in _cold(document):
        added, size = load["memory"]["page_cache_added"], load["bytes"]
        if load["strategy"].endswith("-bio") and abs(added - size) > BYTES_WITHIN * size:
            broken.append(f"{_name(load)}: page cache added {added} bytes of {size}")
        fell_back = load["direct"]["verdict"] in ("buffered", "mixed")
        if (
            load["strategy"].endswith("-dio")
            and not fell_back
            and added >= max(DIRECT_ADDS_UNDER * size, 1)
        ):
            broken.append(f"{_name(load)}: direct, but page cache added {added} bytes of {size}")
    return broken


def block_bytes(document: Document) -> list[str]:
    """Law 3: a cold load reads the file's size from the block layer."""
    return [
        f"{_name(load)}: block layer read {load['block']['read_bytes']} bytes of {load['bytes']}"
        for load in _cold(document)
        if abs(load["block"]["read_bytes"] - load["bytes"]) > BYTES_WITHIN * load["bytes"]
    ]


def copies(document: Document, predicted: Mapping[str, float | None]) -> list[str]:
    """Law 4: CPU copies per byte are what the strategy's data flow says.

    ``predicted`` maps strategies to copies per byte, None for one that has no prediction;
    a strategy it does not name is a violation, so that none goes unchecked.
    """
    broken = []
    for load in _read(document):
        if load["strategy"] not in predicted:
            broken.append(f"{_name(load)}: no prediction of its copies")
            continue
        expected, found = predicted[load["strategy"]], load["copies"]["per_byte"]
        if found is None:
            names = ", ".join(load["hidden"]["copies"])
            broken.append(f"{_name(load)}: its copies are not known without {names}")
        elif expected is not None and abs(found - expected) > COPIES_WITHIN:
            broken.append(f"{_name(load)}: {found} copies per byte, predicted {expected}")
    return broken


def cachestat(document: Document) -> list[str]:
    """Law 5: what is cached at the end agrees with cachestat(2), within 1 % of the file.

    Of the file, not of itself: both are near zero after a direct load.  Loads on kernels
    without cachestat carry none and are passed over.
    """
    broken = []
    for load in _whole(document):
        theirs = cached_bytes(load["memory"]["cachestat_after"], document.get("page_size", 4096))
        ours = load["memory"]["page_cache_end"]
        if theirs is not None and abs(ours - theirs) > CACHE_WITHIN * load["bytes"]:
            broken.append(f"{_name(load)}: page_cache_end {ours}, cachestat {theirs} bytes")
    return broken


def all_laws(document: Document, predicted: Mapping[str, float | None]) -> list[str]:
    """Every violation of the five laws."""
    return [
        *closure(document),
        *schedstat(document),
        *page_cache(document),
        *block_bytes(document),
        *copies(document, predicted),
        *cachestat(document),
    ]


def _whole(document: Document) -> Iterator[Mapping[str, Any]]:
    return (load for load in document["loads"] if not load["failed"] and not load["partial"])


def _read(document: Document) -> Iterator[Mapping[str, Any]]:
    return (load for load in _whole(document) if not load["refused"])


def _cold(document: Document) -> Iterator[Mapping[str, Any]]:
    return (load for load in _read(document) if load["cache_before"] == "cold")


def _sums(thread: Mapping[str, Any]) -> dict[str, int]:
    """{mode: ns over all phases}."""
    return {
        mode: sum(phase[f"{mode}_ns"] for phase in thread["phases"])
        for mode in ("cpu", "blocked", "runnable")
    }


def _name(load: Mapping[str, Any]) -> str:
    return f"{load['strategy']} round {load['round']}"
