"""What is easily counted wrong: large folios, holes, workers, short reads, CPUs that go, clocks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tests.accuracy import clocks
from tests.accuracy.row import Lacks, Row, Said, lost
from tests.guest import hard_reads, loading
from tests.guest.hard_reads import CALLS, HUGE, MIB, POOL, READERS, SHORT
from tests.guest.lab import Lab, report

PLAIN = 16 * MIB
SPARSE = 8 * MIB
_WHERE = "/data/hard"
_OWN, _MINCORE, _IO = "the reader's own count", "mincore(2)", "/proc/PID/io"
#: What each case does; those with a colon are of one child that reads a file.
CASES = {
    "large ext4": "16 MiB of ext4 in large folios",
    "large xfs": "16 MiB of xfs in large folios",
    "sparse": "8 MiB with one page that is no hole",
    "sparse direct": "8 MiB with one page that is no hole, by O_DIRECT",
    "half": "16 MiB of which every second is cached",
    "shared": f"16 MiB by each of {READERS} processes at once",
    "mapped": "every page of a mapping of 16 MiB",
    "pool": f"16 MiB by {POOL} threads of a pool, O_DIRECT",
    "ring": f"{loading.SIZE // MIB} MiB by io_uring's workers",
    "ring direct": f"{loading.SIZE // MIB} MiB by io_uring's workers, O_DIRECT",
    "hugetlb": f"{HUGE // MIB} MiB by O_DIRECT into huge pages (hugetlb)",
    "huge tmpfs": f"{HUGE // MIB} MiB written to a tmpfs with huge=always, and read",
    "offline": "O_DIRECT for 2 s, a CPU goes offline meanwhile",
    "short": f"{CALLS} reads of {SHORT} bytes, as fast as it goes",
    "busy": f"{hard_reads.BUSY_S} s busy and {hard_reads.BUSY_S} s asleep",
}
_DIRECT = ("sparse direct", "pool", "ring direct", "hugetlb", "offline")
_BYTES = ("large ext4", "large xfs", "sparse", "half", "ring", "short")
_SETUP = f"""
mkdir {_WHERE} && cd {_WHERE} && head -c {PLAIN} /dev/urandom >plain
head -c {loading.SIZE} plain >ring && head -c {SHORT * CALLS} plain >short
truncate -s {SPARSE} sparse && head -c 4096 plain |
    dd of=sparse bs=4096 seek=700 conv=notrunc status=none
mkdir huge && mount -t tmpfs -o huge=always,size=64M none huge
modprobe -q -a loop xfs; truncate -s 320M xfs.img && mkfs.xfs -q xfs.img >/dev/null &&
    mkdir xfs && mount -o loop xfs.img xfs && cp plain xfs/file
# The first read of a file writes its atime (relatime), and for that reads its inode.
cat plain ring short sparse >/dev/null; [ -e xfs/file ] && cat xfs/file >/dev/null; sync
cat /proc/sys/vm/nr_hugepages; echo 4 >/proc/sys/vm/nr_hugepages
"""
_CLEAN = f"cd /; umount {_WHERE}/xfs; umount {_WHERE}/huge; rm -rf {_WHERE}; true"


def rows(lab: Lab) -> Said:
    """As tests/guest/hard_reads.py does it."""
    out, usual = lab.shared / "hard.dmt", "0"
    try:
        usual = lab.must(_SETUP).split()[-1]
        before = _clock(lab)
        done = lab.shell(f"dmatrace record -o {out} -- python3 {hard_reads.__file__} {_WHERE}")
        after = _clock(lab)
    finally:
        lab.must(f"echo {usual} >/proc/sys/vm/nr_hugepages; {_CLEAN}")
    if done.code:
        raise ValueError(done.err)
    said, document = json.loads(done.out), report(out)
    loads = {load["pid"]: load for load in document["loads"]}
    yield from _lacking(said)
    for name in CASES:
        if name in said and not said[name].get("skipped"):
            yield from _case(name, said[name], loads, document)
    yield from lost("all of these", document)
    yield Row("target's CLOCK_MONOTONIC", "all of these: the guest's clock may drift",
              "the host's CLOCK_MONOTONIC", "ns", *_drift(before, after), within=0.02)  # fmt: skip


def _lacking(said: dict[str, Any]) -> Iterator[Lacks]:
    why = {
        "large xfs": "no xfs that mkfs.xfs of the same guest can make and mount",
        "huge tmpfs": "no tmpfs with huge=always",
        "hugetlb": "no huge pages could be reserved",
    }
    for name, what in CASES.items():
        found = said.get(name)
        if found is None:
            yield Lacks(what, why[name])
        elif found.get("skipped"):
            yield Lacks(what, found["skipped"])
        elif not found.get("large", True):
            yield Lacks(what, "its page cache has single pages for this file system")


def _case(
    name: str, said: dict[str, Any], loads: dict[int, dict[str, Any]], document: dict[str, Any]
) -> Said:
    what = CASES[name]
    if not said.get("large", True):
        return
    children = said.get("children", [said])
    mine = [loads[child["pid"]] for child in children]

    def row(figure: str, ours: float, theirs: float, oracle: str, **more: Any) -> Row:
        return Row(figure, what, oracle, more.pop("unit", "bytes"), ours, theirs, **more)

    if name == "huge tmpfs":
        yield row("memory.shmem", mine[0]["memory"]["shmem"], said["blocks"], "st_blocks")
        yield row("copies.paths shmem -> user", mine[0]["copies"]["paths"].get("shmem -> user", 0),
                  said["read"], _OWN)  # fmt: skip
        yield row("memory.page_cache_added", mine[0]["memory"]["page_cache_added"], 0,
                  "it is no page cache of a disk")  # fmt: skip
        return
    if name == "busy":
        yield from _clocks(what, said, mine[0])
        return
    read = sum(child["read"] for child in children)
    if name in _DIRECT:
        yield row("direct.direct_bytes", mine[0]["direct"]["direct_bytes"], read, _OWN)
    elif name in _BYTES or name == "shared":
        yield row("copies.cpu_bytes", sum(load["copies"]["cpu_bytes"] for load in mine), read,
                  _OWN)  # fmt: skip
    yield row("memory.page_cache_added", sum(load["memory"]["page_cache_added"] for load in mine),
              said["after"] - said["before"] if "after" in said else 0, _MINCORE)  # fmt: skip
    yield row("block.read_bytes", sum(load["block"]["read_bytes"] for load in mine),
              sum(child["disk"] for child in children), _IO)  # fmt: skip
    if name in ("short", "mapped"):
        (load,) = (one for one in document["file_loads"] if one["pid"] == children[0]["pid"])
        yield row("file_loads.bytes", load["bytes"], read, _OWN)
        if name == "short":
            yield row("file_loads.parts.calls", sum(part["calls"] for part in load["parts"]),
                      CALLS, _OWN, unit="calls")  # fmt: skip
    if name == "pool":
        yield row("threads", len(mine[0]["threads"]), POOL + 1, "the pool's size", unit="threads")
    if name in ("pool", "offline", "short", "shared"):
        yield from _schedstat(what, mine)


def _schedstat(what: str, mine: Sequence[dict[str, Any]]) -> Iterator[Row]:
    yield from clocks.schedstat(what, [thread for load in mine for thread in load["threads"]])


def _clocks(what: str, said: dict[str, Any], load: dict[str, Any]) -> Iterator[Row]:
    """A process's time beside its own clock, its parent's, and the kernel's account of it."""
    yield from _schedstat(what, [load])
    (thread,) = load["threads"]
    sums, outside, inside = clocks.sums(thread), said["outside_ns"], said["inside_ns"]
    for figure, ours in (
        ("wall_ns", load["wall_ns"]),
        ("threads.phases, summed", sum(sums.values())),
    ):
        yield Row(figure, what, "clocks of the process and its parent", "ns", ours,
                  (inside + outside) / 2, within=0.02, floor=(outside - inside) / 2,
                  rule="2 %, or between the child's readings and its parent's")  # fmt: skip
    theirs = said["cpu_ns"]
    ours = min(max(theirs, sums["cpu"]), sums["cpu"] + thread["wake_ns"])
    yield Row("threads.phases.cpu_ns", what, "wait4(2), user and system", "ns", ours, theirs,
              floor=clocks.allowed([thread]), rule=clocks.RULE)  # fmt: skip
    yield Row("threads.phases.blocked_ns", what, "what it asked to sleep", "ns", sums["blocked"],
              1e9 * hard_reads.BUSY_S, floor=clocks.allowed([thread]),
              rule=clocks.OF_WALL)  # fmt: skip


def _clock(lab: Lab) -> tuple[int, int, int]:
    """The host's clock, the guest's, and the host's again, in ns."""
    first = time.monotonic_ns()
    script = "import time; print(time.monotonic_ns())"
    guest = int(lab.must(f"python3 -S -E -c '{script}'"))
    return first, guest, time.monotonic_ns()


def _drift(before: tuple[int, int, int], after: tuple[int, int, int]) -> tuple[int, float]:
    """(by the guest's clock, by the host's) between the two."""
    middle = [(first + last) / 2 for first, _, last in (before, after)]
    return after[1] - before[1], middle[1] - middle[0]
