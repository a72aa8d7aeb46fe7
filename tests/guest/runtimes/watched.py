"""A runtime's load as strace, the kernel and dmatrace saw it, and what must hold between them.

Commanded from the host; ``driver`` does the work in the guest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmatrace.analysis import law
from dmatrace.lab import places
from tests.guest.lab import Lab, report
from tests.guest.runtimes.said import Said, said
from tests.guest.runtimes.table import BUFFERED, DIRECT, Run

IMAGE = places.checkout() / "build" / "runtimes" / "image.ext4"
DRIVER = Path(__file__).with_name("driver.py")
MIB = 1 << 20
APART_NS = 20_000_000  # as in test_record_targets: two clocks, read one after the other
# Reads that are no file's (proc, sysfs, pipes), and those of files that only the runtime knows.
OTHER_READS = 2 * MIB
#: What may be on its way from the disk, or in one read(2), while the tracer attaches.
IN_FLIGHT = 24 * MIB
WITHIN = 0.02
SECTOR = 4096  # at most
CACHE_WITHIN = 0.01


@dataclass(frozen=True)
class Watched:
    """One run: its calls by strace, and a recording with what /proc said beside it."""

    run: Run
    calls: Said
    facts: dict[str, Any]
    document: dict[str, Any]

    @property
    def load(self) -> dict[str, Any]:
        """The runtime's load: it is one process."""
        (found,) = self.document["loads"]
        return dict(found)

    @property
    def size(self) -> int:
        """Bytes of the file with the weights."""
        return int(self.facts["size"])

    @property
    def file(self) -> dict[str, Any]:
        """That file among the files that were read."""
        key = self.facts["dev"], self.facts["ino"]
        (found,) = (row for row in self.load["files"] if (row["dev"], row["ino"]) == key)
        return dict(found)

    @property
    def pages(self) -> dict[str, Any]:
        """That file in the ledger of the page cache; nothing was added of one that is not there."""
        found = next(
            (
                row
                for row in self.load["memory"]["files"]
                if (f"{row['dev'] >> 20}:{row['dev'] & 0xFFFFF}", row["ino"])
                == (self.facts["dev"], self.facts["ino"])
            ),
            {"added": 0, "removed": 0, "end": self.facts["attach"]["cached"]},
        )
        return dict(found)

    @property
    def verdict(self) -> str:
        """How dmatrace says that the file was loaded; "" where it does not."""
        key = self.facts["dev"], self.facts["ino"]
        mine = (x for x in self.document.get("file_loads", ()) if (x["dev"], x["ino"]) == key)
        return ", ".join(load["verdict"] for load in mine)

    def grown(self, name: str) -> int:
        """A counter of /proc/PID/io, from the attaching to the process's end."""
        return int(self.facts["end"]["io"][name] - self.facts["attach"]["io"][name])

    @property
    def added(self) -> int:
        """Bytes of the file that came into the page cache meanwhile, by fincore(1)."""
        return int(self.facts["end"]["cached"] - self.facts["attach"]["cached"])


def driven(lab: Lab, *words: str) -> dict[str, Any]:
    """One step of the driver, in the guest."""
    done = lab.run("python3", str(DRIVER), *words)
    assert done.code == 0, done.out + done.err
    found: dict[str, Any] = json.loads(done.out.splitlines()[-1])
    return found


def traced(lab: Lab, run: Run) -> Said:
    """The run under strace; it reads the runtime's libraries into the page cache as well."""
    out = lab.shared / f"{run.name}.strace"
    ran = driven(lab, "strace", run.name, str(out))
    assert ran["code"] == 0, ran
    return kept_calls(lab.shared, run)


def kept_calls(where: Path, run: Run) -> Said:
    """What ``traced`` left there."""
    with open(where / f"{run.name}.strace", errors="replace") as lines:
        return said(lines, run.file)


def recorded(lab: Lab, run: Run, calls: Said, when: str) -> Watched:
    """The run under dmatrace, attached "before" the load or "during" it."""
    out = lab.shared / f"{run.name}-{when}.dmt"
    facts = driven(lab, "record", run.name, when, str(out))
    assert facts["dmatrace"]["code"] == 0, facts["dmatrace"]
    assert facts["code"] == 0, facts
    out.with_suffix(".json").write_text(json.dumps(facts))
    return kept(lab.shared, run, calls, when)


def kept(where: Path, run: Run, calls: Said, when: str) -> Watched:
    """What ``recorded`` left there."""
    out = where / f"{run.name}-{when}.dmt"
    facts = json.loads(out.with_suffix(".json").read_text())
    return Watched(run, calls, facts, report(out))


def broken(seen: Watched) -> Iterator[str]:
    """What does not hold of a load that was followed from its beginning."""
    run, calls, size, file = seen.run, seen.calls, seen.size, seen.file
    if calls.way(size) != run.way:
        yield f"strace says {calls.way(size)!r}, the table {run.way!r}"
    if (file["direct_bytes"], file["copied_bytes"]) != (calls.direct, calls.buffered):
        yield (
            f"direct {file['direct_bytes']} and copied {file['copied_bytes']},"
            f" by strace {calls.direct} and {calls.buffered}"
        )
    if run.way == DIRECT:
        verdicts = {"direct"}
    elif run.way == BUFFERED:
        verdicts = {"buffered"}
    else:  # what is mapped is no read
        verdicts = {"buffered", "none"}
    if file["verdict"] not in verdicts:
        yield f"the verdict is {file['verdict']}: {file['why']}"
    yield from _verdict(seen)
    yield from _disk(seen)
    yield from _cache(seen, seen.added, 0)
    if not -MIB <= seen.grown("rchar") - seen.load["bytes"] <= OTHER_READS:
        yield f"{seen.load['bytes']} bytes were read, by /proc/PID/io {seen.grown('rchar')}"
    yield from whenever(seen)


def _verdict(seen: Watched) -> Iterator[str]:
    """The classifier's word on the file."""
    if seen.verdict != seen.run.verdict:
        yield f"it was loaded by {seen.verdict!r}, the table says {seen.run.verdict!r}"


def _disk(seen: Watched) -> Iterator[str]:
    """Law 3, of the file and of the process."""
    disk, calls = seen.file["disk"], seen.calls
    if seen.run.way == DIRECT:
        # The disk reads whole sectors, the last one too; the file may end in it.
        if not 0 <= disk["kinds"].get("direct", 0) - calls.direct < SECTOR:
            yield f"the disk read {disk}, strace saw {calls.direct} direct"
    elif abs(disk["read_bytes"] - seen.size) > WITHIN * seen.size:
        yield f"the disk read {disk} of {seen.size}"
    elif set(disk["kinds"]) - {"readahead", "page-cache"}:
        yield f"the disk's reads are {disk['kinds']}"
    ours, theirs = seen.load["block"]["read_bytes"], seen.grown("read_bytes")
    if abs(ours - theirs) > CACHE_WITHIN * seen.size:
        yield f"{ours} bytes from disks, by /proc/PID/io {theirs}"


def _cache(seen: Watched, added: int, apart: int) -> Iterator[str]:
    """Laws 2 and 5, of the file; ``added`` by fincore(1)."""
    pages, size = seen.pages, seen.size
    if abs(pages["added"] - pages["removed"] - added) > CACHE_WITHIN * size + apart:
        yield f"the page cache gained {pages['added']} of the file, by fincore {added}"
    if (
        pages["end"] is None
        or abs(pages["end"] - seen.facts["end"]["cached"]) > CACHE_WITHIN * size
    ):
        yield f"at the end {pages['end']} is cached, by fincore {seen.facts['end']['cached']}"
    if seen.run.way == DIRECT and pages["added"] >= CACHE_WITHIN * size:
        yield f"direct, but the page cache gained {pages['added']}"


def under_way(seen: Watched) -> Iterator[str]:
    """What does not hold of a load that was followed from its middle."""
    size = seen.size
    if not 0 < seen.facts["attach"]["io"]["read_bytes"] < size:
        yield f"it was not attached in mid-load: {seen.facts['attach']}"
    ours, theirs = seen.load["block"]["read_bytes"], seen.grown("read_bytes")
    if abs(ours - theirs) > IN_FLIGHT:
        yield f"{ours} bytes from disks, by /proc/PID/io {theirs} and what was in flight"
    yield from _verdict(seen)
    yield from _cache(seen, seen.added, IN_FLIGHT)
    read, rchar = seen.load["bytes"], seen.grown("rchar")
    # A read that was under way when we came counts as a whole when it returns, as it does there.
    if abs(read - rchar) > IN_FLIGHT:
        yield f"{read} bytes were read, by /proc/PID/io {rchar}"
    yield from whenever(seen)


def whenever(seen: Watched) -> Iterator[str]:
    """What must hold of any recording of a target: law 1, and that nothing was lost."""
    document, load = seen.document, seen.load
    if document["lost_events"]:
        yield f"lost: {document['lost']}"
    if load["ended"] != "exit code 0":
        yield f"it ended with {load['ended']!r}"
    if load["partial"]:
        yield "a thread's end was not seen"
    yield from law.closure(document)
    for thread in load["threads"]:
        sums = {
            mode: sum(phase[f"{mode}_ns"] for phase in thread["phases"])
            for mode in ("cpu", "runnable")
        }
        allowed = APART_NS + law.SCHED_WITHIN * thread["wall_ns"]
        wake = thread["wake_ns"]
        run, wait = thread["sched_run_ns"], thread["sched_wait_ns"]
        if not sums["cpu"] - allowed <= run <= sums["cpu"] + wake + allowed:
            yield f"thread {thread['tid']}: cpu {sums['cpu']}, schedstat {run} ({wake} of wakeups)"
        if not sums["runnable"] - wake - allowed <= wait <= sums["runnable"] + allowed:
            yield f"thread {thread['tid']}: runnable {sums['runnable']}, schedstat {wait}"
