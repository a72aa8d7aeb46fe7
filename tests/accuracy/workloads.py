"""The workloads, each a function from a guest to rows.

What a kernel cannot do has no rows, and the table says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from dmatrace.analysis import law
from tests.accuracy.row import Row
from tests.guest.known_reads import SMALL
from tests.guest.lab import Lab
from tests.guest.ledger_work import PAGE, PAGES, SIZE
from tests.guest.test_known_reads import read_known
from tests.guest.test_ledger import experiments
from tests.guest.test_mixed import counted, run_mixed
from tests.guest.watched import Watched, watch

MIB = 1 << 20
TIME = 0.02  # of time, as law 1 has it
EITHER = ("dmabuf-bio", "dmabuf-cfr-dio", "udmabuf-dio", "memfd-sendfile-bio", "udmabuf-uring-dio",
          "dmabuf-gather-dio", "filemap-bio", "memfd-rw-bio", "anon-bio", "anon-dio")  # fmt: skip


def known(lab: Lab) -> Iterator[Row]:
    """Reads whose bytes, devices and alignment are known."""
    loads, said = read_known(lab)

    def file(step: str) -> dict[str, Any]:
        found: dict[str, Any] = loads[step]["files"][0]
        return found

    def row(figure: str, step: str, ours: float, theirs: float, **more: Any) -> Row:
        oracle = more.pop("oracle", "the reader's own count")
        return Row(figure, f"{step}: {STEPS[step]}", oracle, more.pop("unit", "bytes"), ours,
                   theirs, **more)  # fmt: skip

    yield row("files: copied_bytes", "buffered", file("buffered")["copied_bytes"], 8 * MIB)
    yield row("files: direct_bytes", "direct", file("direct")["direct_bytes"], 8 * MIB)
    yield row("files: direct_calls", "direct", file("direct")["direct_calls"], 9, unit="calls")
    for errno, times in said["refused"]["told"].items():
        ours = file("refused")["errors"][errno]
        yield row(f"files: errors {errno}", "refused", ours, times, unit="calls")
    yield row("files: direct_bytes", "written", file("written")["direct_bytes"], MIB)
    for step in ("dm", "dm buffered"):
        device = loads[step]["block"]["devices"][0]
        theirs = 512 * said[step]["loop"][1]
        oracle = "/sys/block/*/stat, sectors"
        yield row("block: devices read_bytes", step, device["read_bytes"], theirs, oracle=oracle)
        yield row("block: devices requests", step, device["requests"], said[step]["loop"][0],
                  oracle="/sys/block/*/stat, reads", unit="requests")  # fmt: skip
    kinds = loads["small"]["block"]["kinds"].values()
    yield row("block: kinds, summed", "small", sum(kind["read_bytes"] for kind in kinds),
              512 * said["small"]["dm"][1], oracle="/sys/block/*/stat, sectors",
              floor=64 << 10)  # fmt: skip
    yield row("block: read_bytes", "small", loads["small"]["block"]["read_bytes"], SMALL * PAGE)
    yield row("block: unseen_bytes", "slow", loads["slow"]["block"]["unseen_bytes"],
              loads["slow"]["block"]["queued_bytes"], oracle="bios queued")  # fmt: skip
    yield row("files: fallback_bytes", "journal", file("journal")["fallback_bytes"], 4 * MIB)
    if said["tmpfs"]["told"] is not None:
        yield row("files: fallback_bytes", "tmpfs", file("tmpfs")["fallback_bytes"], 2 * MIB)
    yield row("block: read_bytes", "disk", loads["disk"]["block"]["read_bytes"],
              512 * said["disk"]["dm"][1], oracle="/sys/block/*/stat, sectors")  # fmt: skip


#: What a step of known_reads.py does.
STEPS = {
    "buffered": "8 MiB by 1 MiB, buffered",
    "direct": "8 MiB by 1 MiB, O_DIRECT",
    "refused": "unaligned and unmapped O_DIRECT reads",
    "written": "1 MiB read and written by O_DIRECT",
    "dm": "O_DIRECT on ext4 on dm-linear on loop",
    "dm buffered": "the same, buffered",
    "small": f"{SMALL} files of 4 KiB, with their metadata",
    "slow": "O_DIRECT through dm-delay",
    "journal": "O_DIRECT on ext4 with data=journal",
    "tmpfs": "O_DIRECT on tmpfs",
    "disk": "48 MiB of a block device",
}


def memory(lab: Lab) -> Iterator[Row]:
    """What is done to memory: caching, removing, holding."""
    seen = experiments(lab)

    def row(figure: str, name: str, ours: float, theirs: float, oracle: str, **more: Any) -> Row:
        return Row(f"memory: {figure}", name, oracle, "bytes", ours, theirs, **more)

    exact = "what the workload did"
    for name, said in seen.oracle.items():
        if name in ("heap", "memfd", "huge", "unlink"):
            continue
        yield row("files end", name, seen.file(name)["end"], said["cached_after"], "fincore")
    for name, who, removed in (
        ("forget", "process", SIZE),
        ("drop", "drop_caches", SIZE),
        ("truncate", "truncate", SIZE // 2),
        ("unlink", "unlink", SIZE),
    ):
        yield row(f"removed_by {who}", name, seen.memory(name)["removed_by"][who], removed, exact)
    used = seen.memory("half")["readahead"]["used"]
    yield row("readahead used", "half of a file is read", used, SIZE // 2, exact)
    used = seen.memory("touch")["readahead"]["used"]
    yield row("readahead used", f"{len(PAGES)} pages of a mapping", used, len(PAGES) * PAGE, exact)
    if "heap" in seen.oracle:
        (held,) = seen.memory("heap")["dmabufs"]
        began, ended = seen.oracle["heap"]["clock"]
        yield row("dmabufs bytes", "an 8 MiB buffer, held 1 s", held["bytes"], 8 * MIB, exact)
        yield row("dmabufs byte_seconds", "the same", held["byte_seconds"],
                  8 * MIB * (ended - began) / 1e9, "the holder's clock", within=0.05)  # fmt: skip
    for name in ("memfd", "huge"):
        if name in seen.oracle:
            said = seen.oracle[name]
            yield row("shmem added", name, seen.file(name, said["ino"])["added"], said["used"],
                      "st_blocks")  # fmt: skip
    if "cgroup" in seen.oracle:
        stat = seen.oracle["cgroup"]["stat"]
        found = seen.memory("cgroup")
        yield row("removed_by reclaim", "a memory cgroup's limit", found["removed_by"]["reclaim"],
                  stat["pgsteal"] * PAGE, "memory.stat", within=0.02)  # fmt: skip
        yield row("refaults", "a memory cgroup's limit", found["refaults"]["bytes"],
                  stat["workingset_refault_file"] * PAGE, "memory.stat", within=0.02)  # fmt: skip


def mixed(lab: Lab) -> Iterator[Row]:
    """Random things by 1 to 32 threads."""
    found = run_mixed(lab, 1, 40)
    what = "40 mixed workloads, 1 to 32 threads"
    worst = 0.0
    for load in found.document["loads"]:
        for thread in load["threads"]:
            total = sum(row[f"{k}_ns"] for row in thread["phases"] for k in law_kinds())
            apart = max(0, abs(total - thread["wall_ns"]) - thread["mark_ns"])
            worst = max(worst, apart / thread["wall_ns"])
    yield Row("threads: phases, summed", what, "the threads' own clock", "of wall, at worst",
              1 + worst, 1, within=law.CLOSES_WITHIN)  # fmt: skip
    counters = counted(found.recording)
    for name, counter in (
        ("read", "copy_read_bytes"), ("written", "copy_write_bytes"),
    ):  # fmt: skip
        theirs = sum(said[name] for said in found.said.values())
        yield Row(f"copies: {name}", what, "the calls' results", "bytes", counters[counter], theirs)
    ours = sum(load["direct"]["direct_bytes"] for load in found.document["loads"])
    theirs = sum(said["direct"] for said in found.said.values())
    yield Row("direct: direct_bytes", what, "the calls' results", "bytes", ours, theirs)
    yield Row("lost_events", what, "none may be lost", "events", found.document["lost_events"], 0)


def law_kinds() -> tuple[str, ...]:
    """What a phase's time is divided into."""
    return ("cpu", "blocked", "runnable")


def strategies(lab: Lab) -> Iterator[Row]:
    """Loads by strategies, with bpftrace and /proc/diskstats beside."""
    chosen = [name for name in EITHER if _runs(lab, name)]
    lab.must("head -c 24M /dev/urandom >/data/model && sync")
    try:
        seen = watch(lab, "/data/model", "fentry", ",".join(chosen))
    finally:
        lab.must("rm -f /data/model")
    yield from _of_strategies(seen)


def _runs(lab: Lab, name: str) -> bool:
    """Whether the guest's kernel has what a strategy needs; the module is loaded later."""
    needs = "/dev/dma_heap" if name.startswith("dmabuf") else ""
    needs = needs or ("/dev/udmabuf" if name.startswith("udmabuf") else "")
    return not needs or lab.shell(f"test -e {needs}").code == 0


def _of_strategies(seen: Watched) -> Iterator[Row]:
    counters = seen.counters()
    oracles: tuple[tuple[str, str, Callable[[dict[str, Any]], float]], ...] = (
        ("memory: page_cache_added", "@cached", lambda load: load["memory"]["page_cache_added"]),
        ("copies: filemap_read", "@copied", lambda load: _of(counters, load, "copy_read_bytes")),
        ("direct: direct_bytes", "@direct", lambda load: load["direct"]["direct_bytes"]),
        ("copies: generic_perform_write", "@written",
         lambda load: _of(counters, load, "copy_write_bytes")),
    )  # fmt: skip
    for load in seen.document["loads"]:
        if load["refused"]:
            continue
        name, number = f"{load['strategy']}, 24 MiB, cold", str(load["load_id"])
        for figure, table, ours in oracles:
            key = f"{number},{seen.ino}" if table == "@cached" else number
            theirs = seen.oracle.get(table, {}).get(key, 0)
            if theirs or ours(load):
                yield Row(figure, name, "bpftrace", "bytes", ours(load), theirs)
        for thread in load["threads"]:
            if thread["clock"] != "loader":
                continue
            total = sum(row[f"{k}_ns"] for row in thread["phases"] for k in law_kinds())
            yield Row("threads: phases, summed", name, "the loader's clock", "ns", total,
                      thread["wall_ns"], within=law.CLOSES_WITHIN,
                      floor=thread["mark_ns"])  # fmt: skip
            break
    requests = seen.recording.table("requests")
    ours_read = int(requests[requests["op"] == "read"]["bytes"].sum())
    yield Row("block: requests, summed", "all of these loads", "/proc/diskstats", "bytes",
              ours_read, seen.disk_bytes, within=0.02)  # fmt: skip


def _of(counters: dict[int, dict[str, int]], load: dict[str, Any], name: str) -> int:
    return counters[load["load_id"]][name]


WORKLOADS: tuple[tuple[str, Callable[[Lab], Iterator[Row]]], ...] = (
    ("Reads of known files", known),
    ("Memory", memory),
    ("Mixed workloads", mixed),
    ("Strategies", strategies),
)
