"""What a recording says of the loader module's part in loads, traced and as it reports."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest

from dmatrace_loaders.table import strategies
from tests.guest.lab import Lab
from tests.guest.watched import GATHER, MIB, SIZE, Watched, watch

AGAIN = 8  # rounds; all of them would have to be disturbed
RW_FILE = {"calls", "bytes", "map_ns", "read_ns", "total_ns"}
ALLOC_READ = {
    "calls", "bytes", "buffer_length", "batches", "alloc_ns", "vmap_ns", "read_ns", "zero_ns",
    "overlap_ns", "wait_ns", "total_ns",
}  # fmt: skip
#: What the module reports of a strategy, by the middle of its name.
REPORTS = {
    "cfr": RW_FILE,
    "memfd-cfr": RW_FILE,
    "rwfile": RW_FILE,
    "allocread": ALLOC_READ,
    "gather": ALLOC_READ,
    "insertpage": {"calls", "alloc_ns", "total_ns"},
}


def test_what_the_module_reports(watched: Watched) -> None:
    for load in watched.document["loads"]:
        name, told = load["strategy"], load["module"]
        middle = name.split("-", 1)[1].rpartition("-")[0]
        if name.startswith("memfd-cfr"):
            middle = "cfr"
        assert set(told or ()) == REPORTS.get(middle, set()), name
        if not told:
            continue
        assert told["calls"] == 1
        assert 0 < told["total_ns"] < load["create_ns"] + load["io_ns"]
        assert told.get("bytes", SIZE) == SIZE
        # One thing after the other, by the module's own clock.
        parts = ("alloc_ns", "map_ns", "vmap_ns", "read_ns", "zero_ns")
        if middle != "gather":
            assert 0 < sum(told.get(part, 0) for part in parts) <= told["total_ns"], name
        if middle in ("allocread", "gather"):
            assert told["buffer_length"] == SIZE
            assert told["batches"] == (SIZE // GATHER if middle == "gather" else 1)
            assert min(told["alloc_ns"], told["vmap_ns"], told["read_ns"]) > 0


def test_the_report_has_what_the_module_said(lab: Lab, fentry: Watched) -> None:
    command = [sys.executable, "-m", "dmatrace", "report", str(lab.shared / "fentry.dmt")]
    text = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    lines = text[text.index("\nloader module ") :].splitlines()
    used = [load["strategy"] for load in fentry.document["loads"] if load["module"]]
    assert len(used) > 10
    rows = [line.split()[0] for line in lines if line]
    # What is traced stands under what the module says.
    assert [name for name, below in pairwise(rows) if below == "traced"] == used


def _work_apart(watched: Watched, load: dict[str, Any]) -> bool:
    """Whether its workers' time is another than bpftrace's, or than the module's."""
    mine = sum(thread["wall_ns"] for thread in load["threads"] if thread["owner"])
    theirs = [watched.oracle["@worked"].get(str(load["load_id"]), 0)]
    if "gather" in load["strategy"]:
        # One batch at a time: the union that the module reports is the sum.
        theirs.append(load["module"]["read_ns"])
    apart = [other for other in theirs if mine != pytest.approx(other, rel=0.02, abs=1_000_000)]
    # They read the clock outside of what is traced: an interrupt, or a CPU that is taken
    # away, in between makes an item longer by theirs, but never by ours.
    assert all(mine < other for other in apart), (load["strategy"], mine, theirs)
    return bool(apart)


@pytest.mark.timeout(1800)  # bpftrace starts once more
def test_workers_are_threads_of_the_load_they_work_for(
    lab: Lab, model: str, watched: Watched
) -> None:
    """Their wall time is what bpftrace saw of the work, and what the module says of it.

    Loads that are apart are loaded again: where the CPU is taken away does not repeat.
    """
    seen, suspects = set(), set()
    for load in watched.document["loads"]:
        workers = [thread for thread in load["threads"] if thread["owner"]]
        if _work_apart(watched, load):
            suspects.add(load["strategy"])
        if not workers:
            assert str(load["load_id"]) not in watched.oracle["@worked"]
            continue
        seen.add(load["strategy"])
        main = load["threads"][0]["tid"]
        assert {thread["owner"] for thread in workers} == {main}
        for thread in workers:
            assert thread["clock"] == "tracer"
            name = "kworker/" if "gather" in load["strategy"] else "iou-wrk-"
            assert thread["comm"].startswith(name)
    assert {"dmabuf-gather-bio", "dmabuf-gather-dio"} <= seen
    assert seen <= {"dmabuf-gather-bio", "dmabuf-gather-dio", "udmabuf-uring-dio"}
    if not suspects:
        return
    mode = watched.recording.meta["hooks_mode"]
    again = watch(lab, model, mode, ",".join(sorted(suspects)), AGAIN)
    for name in suspects:
        rounds = [load for load in again.document["loads"] if load["strategy"] == name]
        assert len(rounds) == AGAIN
        assert not all(_work_apart(again, load) for load in rounds), name


def _steps_apart(load: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """{step: (as traced, as the module says)} of those that are not the same."""
    told, traced = load["module"], load["steps"]
    found = {}
    for step in ("alloc_ns", "vmap_ns", "read_ns", "wait_ns", "overlap_ns"):
        if "gather" in load["strategy"] and step in ("read_ns", "overlap_ns"):
            continue  # the module's hold the mapping too
        mine, theirs = traced.get(step, 0), told[step]
        if mine != pytest.approx(theirs, rel=0.02, abs=1_000_000):
            # The module's clock is read outside of what is traced: who is preempted in
            # between takes longer by it, but never by us.
            assert mine < theirs, (load["strategy"], step, mine, theirs)
            found[step] = mine, theirs
    return found


def test_steps_are_those_that_the_module_reports(lab: Lab, model: str, watched: Watched) -> None:
    """Those that are apart are loaded again: where the CPU is taken away does not repeat."""
    stepped = [name for name in strategies() if "allocread" in name or "gather" in name]
    suspects = [name for name in stepped if _steps_apart(watched.load(name))]
    if not suspects:
        return
    mode = watched.recording.meta["hooks_mode"]
    options = ("--strategy", ",".join(suspects), "--file", model, "--load-module")
    options += ("--hooks", mode, "--gather", str(GATHER), "--rounds", str(AGAIN), "-q")
    again = lab.record(f"steps-again-{mode}", *options)
    for name in suspects:
        rounds = [_steps_apart(load) for load in again["loads"] if load["strategy"] == name]
        assert len(rounds) == AGAIN
        always = set.intersection(*(set(found) for found in rounds))
        assert not always, (name, rounds)


def test_allocation_and_reading_do_not_overlap_where_one_follows_the_other(
    watched: Watched,
) -> None:
    """How much they do elsewhere, test_strategies.py asks of a larger file."""
    for strategy in ("dmabuf-gather-dio", "udmabuf-overlap-dio"):
        found = watched.load(strategy)["overlap"]
        assert 0 <= found["both_ns"] <= min(found["alloc_ns"], found["io_ns"]), strategy
        assert min(found["alloc_ns"], found["io_ns"]) > 0
    for strategy in ("dmabuf-allocread-dio", "udmabuf-dio", "dmabuf-rwfile-dio"):
        assert watched.load(strategy)["overlap"]["both_ns"] == 0, strategy


def test_what_the_module_pins_of_a_memfd_is_let_go(watched: Watched) -> None:
    """A block at a time, unlike udmabuf, which pins everything for as long as it lives."""
    for strategy, standing in (("memfd-cfr-dio", 0), ("udmabuf-memfd-cfr-dio", SIZE)):
        load = watched.load(strategy)
        assert standing < load["memory"]["pinned_peak"] <= standing + 2 * MIB, strategy
        assert watched.counters()[load["load_id"]]["pin_bytes"] == standing + SIZE
