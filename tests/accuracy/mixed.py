"""Random things by 1 to 32 threads."""

from __future__ import annotations

from dmatrace.analysis import law
from tests.accuracy.row import Lacks, Row, Said, lost
from tests.guest.lab import Lab
from tests.guest.test_mixed import counted, run_mixed

COUNT = 40
KINDS = ("cpu", "blocked", "runnable")


def rows(lab: Lab) -> Said:
    """As tests/guest/mixed does them, from a seed."""
    found = run_mixed(lab, 1, COUNT)
    what = f"{COUNT} mixed workloads, 1 to 32 threads"
    worst = 0.0
    for load in found.document["loads"]:
        for thread in load["threads"]:
            total = sum(row[f"{kind}_ns"] for row in thread["phases"] for kind in KINDS)
            apart = max(0, abs(total - thread["wall_ns"]) - thread["mark_ns"])
            worst = max(worst, apart / thread["wall_ns"])
    yield Row("threads.phases, summed", what, "the threads' own clock", "of wall, at worst",
              1 + worst, 1, within=law.CLOSES_WITHIN)  # fmt: skip
    counters = counted(found.recording)
    for name, counter in (("read", "copy_read_bytes"), ("written", "copy_write_bytes")):
        theirs = sum(said[name] for said in found.said.values())
        yield Row(f"copies, {name}", what, "the calls' results", "bytes", counters[counter], theirs)
    ours = sum(load["direct"]["direct_bytes"] for load in found.document["loads"])
    theirs = sum(said["direct"] for said in found.said.values())
    yield Row("direct.direct_bytes", what, "the calls' results", "bytes", ours, theirs)
    yield from lost(what, found.document)
    missed = found.document["lost"]["missed"]
    for name, most, who in (
        # What the kernel missed, the report says; an exit that was not seen is one of those.
        ("lost_exits", missed, "calls that the kernel missed"),
        ("overflows", 0, "none may be lost"),
    ):
        ours = sum(load["stack"][name] for load in found.document["loads"])
        if most is None:
            why = f"it does not tell what its probes missed; exits that were not seen: {ours}"
            yield Lacks(what, why, f"stack.{name}")
            continue
        rule = "no more than those" if most else ""
        yield Row(f"stack.{name}", what, who, "events", ours, 0, floor=most, rule=rule)
