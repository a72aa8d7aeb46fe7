"""What is done to memory: caching, removing, holding."""

from __future__ import annotations

from typing import Any

from tests.accuracy.row import Lacks, Row, Said
from tests.guest.lab import Lab
from tests.guest.ledger_work import MIB, PAGE, PAGES, SIZE
from tests.guest.test_ledger import experiments

_EXACT = "what the workload did"
#: The kernel may leave a page that somebody holds: a file's last, in a batch of the LRU's.
_LEFT = "what the workload did, less what fincore finds"
#: What each experiment that a guest may be unable to do needs.
_NEEDS = {
    "heap": "/dev/dma_heap/system",
    "xfs": "an xfs that mkfs.xfs of the same guest can make and mount",
    "cgroup": "the memory controller of cgroup v2",
}


def rows(lab: Lab) -> Said:
    """As tests/guest/ledger_work.py does it."""
    seen = experiments(lab)

    def row(figure: str, name: str, ours: float, theirs: float, oracle: str, **more: Any) -> Row:
        return Row(f"memory.{figure}", name, oracle, "bytes", ours, theirs, **more)

    for name, needs in _NEEDS.items():
        if name not in seen.oracle:
            yield Lacks(name, f"no {needs}")
    for name, said in seen.oracle.items():
        if name in ("heap", "memfd", "huge", "unlink"):
            continue
        yield row("files.end", name, seen.file(name)["end"], said["cached_after"], "fincore")
    for name, who, removed, oracle in (
        ("forget", "process", SIZE - seen.oracle["forget"]["cached_after"], _LEFT),
        ("drop", "drop_caches", SIZE - seen.oracle["drop"]["cached_after"], _LEFT),
        ("truncate", "truncate", SIZE // 2, _EXACT),
        ("unlink", "unlink", SIZE, _EXACT),
    ):
        yield row(f"removed_by.{who}", name, seen.memory(name)["removed_by"][who], removed, oracle)
        yield row("files.removed", name, seen.file(name)["removed"], removed, oracle)
        yield row("files.peak", name, seen.file(name)["peak"], SIZE, _EXACT)
    yield row("files.added", "written: 16 MiB written to a new file",
              seen.file("written", seen.oracle["written"]["target_ino"])["added"], SIZE,
              _EXACT)  # fmt: skip
    yield row("readahead.used", "half of a file is read",
              seen.memory("half")["readahead"]["used"], SIZE // 2, _EXACT)  # fmt: skip
    yield row("readahead.used", f"{len(PAGES)} pages of a mapping",
              seen.memory("touch")["readahead"]["used"], len(PAGES) * PAGE, _EXACT)  # fmt: skip
    for name in ("half", "touch"):
        found = seen.memory(name)["readahead"]
        yield row("readahead.added", name, found["added"], seen.oracle[name]["cached_after"],
                  "fincore")  # fmt: skip
    if "heap" in seen.oracle:
        memory = seen.memory("heap")
        (held,) = memory["dmabufs"]
        before, held_from, held_until, after = seen.oracle["heap"]["clock"]
        least, most = held_until - held_from, after - before
        yield row("dmabufs.bytes", "heap: an 8 MiB buffer, held 1 s", held["bytes"], 8 * MIB,
                  _EXACT)  # fmt: skip
        yield row("dmabufs.released", "heap: an 8 MiB buffer, held 1 s", held["released"], 8 * MIB,
                  _EXACT)  # fmt: skip
        yield row("dmabufs.byte_seconds", "heap: an 8 MiB buffer, held 1 s", held["byte_seconds"],
                  8 * MIB * (least + most) / 2e9, "the holder's clock", within=0.02,
                  floor=8 * MIB * (most - least) / 2e9,
                  rule="2 %, or between its readings inside and outside of the calls")  # fmt: skip
    for name, what in (("memfd", "5 MiB of a memfd"), ("huge", "6 MiB of a tmpfs, huge=always")):
        said = seen.oracle[name]
        why = seen.memory(name)["unavailable"].get("shmem by file")
        if why:
            yield Lacks(f"{name}: {what}", why)
            continue
        found = seen.file(name, said["ino"])
        yield row("files.added", f"{name}: {what}", found["added"], said.get("used", 5 * MIB),
                  "st_blocks" if "used" in said else _EXACT)  # fmt: skip
    if "cgroup" in seen.oracle:
        stat = seen.oracle["cgroup"]["stat"]
        found = seen.memory("cgroup")
        yield row("removed_by.reclaim", "cgroup: beyond its limit", found["removed_by"]["reclaim"],
                  stat["pgsteal"] * PAGE, "memory.stat", within=0.01)  # fmt: skip
        yield row("refaults.bytes", "cgroup: beyond its limit", found["refaults"]["bytes"],
                  stat["workingset_refault_file"] * PAGE, "memory.stat", within=0.01)  # fmt: skip
