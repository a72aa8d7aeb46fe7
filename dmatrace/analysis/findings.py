"""Diagnosis: what a load's figures mean, in plain words, ranked, each with a next step.

Pure.  A finding rests on figures that it names (``figures``, ns and bytes) and is
ranked by the time that it is about; one without a time comes behind those with.
``estimate`` is true where a figure was not measured as such; nothing is said
about what another way would take: ``next`` is a command that measures it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dmatrace.phases import MEANING
from dmatrace.sizes import format_ns, format_size

Load = Mapping[str, Any]

#: A phase, or a wait, from this share of the time on is worth a finding.
LARGE = 0.2
#: Reads up to this size, one at a time, leave a disk idle between them; bytes.
SMALL = 256 << 10
SHALLOW = 1.5  # mean depth
#: Of a file's bytes: what was read again, or stays cached beside a buffer.
AGAIN, BESIDE = 0.05, 0.5

_ABOUT = {
    "copy": "copying out of the page cache, or into memory",
    "gup": "pinning user pages",
    "udmabuf": "making dma-bufs of memfds, which pins their pages",
    "heap-alloc": "allocating dma-heap buffers",
    "shmem": "allocating and zeroing pages of files in memory",
    "fault": "page faults",
}
_NEXT = {
    "copy": "O_DIRECT reads copy nothing",
    "gup": "huge pages make fewer pins, registered io_uring buffers pin once",
    "udmabuf": "huge pages in the memfd make fewer pages to pin; a kept buffer pays once",
    "heap-alloc": "a buffer that is kept and reused pays it once",
    "shmem": "huge pages in the memfd, or a buffer that is kept",
    "fault": "MAP_POPULATE or MADV_POPULATE_READ (_WRITE, of a buffer) fault all pages in one call;"
    " huge pages make them fewer",
    "dio": "the disk is waited for: more reads in flight keep it busy",
    "page-cache": "the page cache is waited for: MADV_WILLNEED or more threads read ahead",
    "readahead": "O_DIRECT reads need no readahead",
    "reclaim": "memory is short: what is cached beside the buffer is taken back meanwhile",
}  # fmt: skip


def findings(load: Load, file_loads: Sequence[Load], flows: Sequence[Load]) -> list[dict[str, Any]]:
    """The findings on one load of the document, those about most time first.

    Of a process that was followed; others are known by their strategy's name: none.
    """
    mine = [each for each in file_loads if each["load_id"] == load["load_id"]]
    if not mine or load["strategy"] != "observed":
        return []
    found = [*_phases(load, mine), *_waits(load, mine)]
    for each in mine:
        found += of_file(each)
    found += _unfilled(load, flows)
    ranked = sorted(found, key=lambda one: -one["ns"])
    return [{"rank": rank, **one} for rank, one in enumerate(ranked, start=1)]


def _finding(
    kind: str, text: str, then: str, figures: Mapping[str, Any], *, ns: int = 0,
    estimate: bool = False,
) -> dict[str, Any]:  # fmt: skip
    return {
        "kind": kind, "text": text, "next": then, "ns": ns, "estimate": estimate,
        "figures": dict(figures),
    }  # fmt: skip


def _measure(load: Load) -> str:
    """The command that measures other ways for a file."""
    if not load["path"].startswith("/"):
        return "measure other ways with dmatrace record --strategy"
    target = {"udmabuf": "udmabuf-dio", "memfd": "memfd-dio", "dma-heap buffer": "dmabuf-bio"}
    names = ["anon-bio", "anon-dio"]
    if load["target"] in target:
        names = [target[load["target"]], "udmabuf-dio"]
    chosen = ",".join(dict.fromkeys(names))
    path = shlex.quote(load["path"])
    return f"dmatrace record --strategy {chosen} --file {path} measures other ways"


def _total(load: Load) -> tuple[int, dict[str, int]]:
    """All threads' time, and each phase's but that of user space and of waiting in calls."""
    phases: dict[str, int] = {}
    whole = 0
    for thread in load["threads"]:
        for phase in thread["phases"]:
            spent = phase["cpu_ns"] + phase["blocked_ns"] + phase["runnable_ns"]
            # A thread that sleeps in a system call, or in none, loads nothing.
            if phase["phase"] in ("syscall", "user"):
                spent = phase["cpu_ns"]
            whole += spent
            phases[phase["phase"]] = phases.get(phase["phase"], 0) + spent
    return whole, phases


def _phases(load: Load, mine: Sequence[Load]) -> Iterator[dict[str, Any]]:
    whole, phases = _total(load)
    biggest = max(mine, key=lambda each: each["bytes"])
    for phase, spent in phases.items():
        if phase in ("syscall", "user") or not whole or spent < LARGE * whole:
            continue
        about = _ABOUT.get(phase) or MEANING.get(phase, phase)
        text = (
            f"{100 * spent / whole:.0f}% of the threads' working time ({format_ns(spent)} of"
            f" {format_ns(whole)}) is {phase}: {about}."
        )
        figures = {"phase_ns": spent, "working_ns": whole}
        if phase == "copy" and biggest["target"] == "":
            continue  # nothing of a mapped file is copied by these reads
        then = _NEXT.get(phase, "")
        then = f"{then}; {_measure(biggest)}" if then else _measure(biggest)
        yield _finding(f"phase {phase}", text, then, figures, ns=spent)


def _waits(load: Load, mine: Sequence[Load]) -> Iterator[dict[str, Any]]:
    critical = load.get("critical")
    if critical and critical["wall_ns"]:
        idle, wall = critical["io_ns"], critical["wall_ns"]
        depth = load["block"].get("depth", {}).get("mean", 0.0)
        if idle > LARGE * wall and depth and depth < SHALLOW:
            yield _finding(
                "waits for the disk",
                f"For {format_ns(idle)} of {format_ns(wall)} no thread ran and a read was on the"
                f" device, which had {depth:.1f} requests at a time.",
                "more or larger reads in flight (threads, io_uring); "
                + _measure(max(mine, key=lambda each: each["bytes"])),
                {"idle_ns": idle, "wall_ns": wall, "depth_mean": depth},
                ns=idle,
            )
    overlap = load["overlap"]
    alloc, io, both = overlap["alloc_ns"], overlap["io_ns"], overlap["both_ns"]
    shorter = min(alloc, io)
    if shorter > LARGE * max(alloc, io) > 0 and both < shorter // 10:
        yield _finding(
            "allocation before reading",
            f"Allocation ({format_ns(alloc)}) and disk reads ({format_ns(io)}) run one after the"
            f" other; at once they would take up to {format_ns(shorter - both)} less (an"
            " estimate: nobody measured it).",
            "dmatrace record --strategy udmabuf-dio,udmabuf-overlap-dio (with --file) measures what"
            " the two at once take",
            {"alloc_ns": alloc, "io_ns": io, "both_ns": both},
            ns=shorter - both,
            estimate=True,
        )


def of_file(load: Load) -> Iterator[dict[str, Any]]:
    """The findings on one of ``file_loads``, by itself."""
    name = load["path"] or f"inode {load['ino']}"
    size, total = load["size"], load["bytes"]
    took = load["end_ns"] - load["start_ns"]
    for part in load["parts"]:
        if part["share"] < LARGE:
            continue
        depth, block = part["depth_mean"], part["block"]
        if depth is not None and block and block <= SMALL and depth < SHALLOW:
            yield _finding(
                "small reads, one at a time",
                f"{name}: {part['calls']} reads of {format_size(block)} at depth {depth:.1f}"
                f" ({part['name']}), {format_size(part['bytes'])} in {format_ns(took)}.",
                "larger blocks or more of them in flight; " + _measure(load),
                {"block": block, "depth_mean": depth, "calls": part["calls"], "took_ns": took},
            )
        if part["fell_back"]:
            yield _finding(
                "O_DIRECT fell back",
                f"{name}: {format_size(part['bytes'])} of a file open with O_DIRECT came out of"
                " the page cache.",
                "the report's section on files says what the file system asks of direct I/O",
                {"bytes": part["bytes"]},
            )
        if part["method"] == "mmap" and part["calls"]:
            each = part["bytes"] // part["calls"]
            yield _finding(
                "faulted page by page",
                f"{name}: {part['calls']} faults for {format_size(part['bytes'])},"
                f" {format_size(each)} each.",
                "MAP_POPULATE, MADV_POPULATE_READ or MADV_WILLNEED before the first use",
                {"faults": part["calls"], "bytes": part["bytes"]},
            )
    if size and total > (1 + AGAIN) * size:
        yield _finding(
            "read more than once",
            f"{name}: {format_size(total)} were taken of a file of {format_size(size)}.",
            "a loader that reads each byte once",
            {"bytes": total, "size": size},
        )
    cached = load["cached"]
    if cached is not None and load["target"] and cached > BESIDE * min(size, total):
        yield _finding(
            "in memory twice",
            f"{name}: at least {format_size(cached)} of it stay in the page cache beside the"
            f" {load['target']} that {format_size(total)} went into.",
            "O_DIRECT or RWF_DONTCACHE leave nothing; posix_fadvise(DONTNEED) gives it back",
            {"cached": cached, "bytes": total},
        )


def _unfilled(load: Load, flows: Sequence[Load]) -> Iterator[dict[str, Any]]:
    for flow in flows:
        if flow["load_id"] != load["load_id"] or not flow["size"]:
            continue
        copied = sum(fill["bytes"] for fill in flow["fills"] if not fill["ino"])
        if copied:
            yield _finding(
                "copied twice",
                f"dma-buf {flow['ino']}: {format_size(copied)} came by write(2) from user memory,"
                " so whatever read them there was one copy before.",
                "read into a mapping of the buffer itself",
                {"bytes": copied},
            )
        elif not flow["filled"] and any(step["step"] == "map" for step in flow["steps"]):
            yield _finding(
                "filled unseen",
                f"dma-buf {flow['ino']} ({format_size(flow['size'])}) was mapped and no read went"
                " into it: a CPU may have copied into it, or a device; neither can be seen here.",
                "dmatrace record --sample HZ shows where threads run",
                {"size": flow["size"]},
            )
