"""Random things by 1 to 32 threads."""

from __future__ import annotations

from dmatrace.analysis import law
from tests.accuracy.row import Row, Said, lost
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
    for name in ("lost_exits", "overflows"):
        ours = sum(load["stack"][name] for load in found.document["loads"])
        yield Row(f"stack.{name}", what, "none may be lost", "events", ours, 0)
