"""Loads by strategies, with bpftrace and /proc/diskstats beside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd

from dmatrace.analysis import law
from dmatrace.analysis.memory import cached_bytes
from dmatrace_loaders.table import strategies
from tests.accuracy import clocks, oracle
from tests.accuracy.row import Lacks, Row, Said, lost
from tests.guest.lab import Lab
from tests.guest.watched import MIB, SIZE, Watched, beside, watch

#: Of each way to read, and of each target, one.
CHOSEN = (
    "dmabuf-bio", "udmabuf-bio", "udmabuf-dio", "udmabuf-uring-dio", "memfd-sendfile-bio",
    "memfd-rw-bio", "memfd-dio", "filemap-bio", "anon-bio", "anon-dio",
)  # fmt: skip
#: And of those that want the loader module.
OF_MODULE = ("dmabuf-cfr-dio", "dmabuf-sendfile-bio", "dmabuf-gather-dio")
_NEEDS = {"dmabuf": "/dev/dma_heap/system", "udmabuf": "/dev/udmabuf"}
_MODEL = "/data/model"
_AGAIN = 3  # rounds of what a busy host may have disturbed
_READAHEAD = "1 %: the file system's own reads are bios too"
_BRACKETS = "1 % or 60 faults: getrusage(2) brackets the marks"

Load = dict[str, Any]
Counters = dict[int, dict[str, int]]


def rows(lab: Lab) -> Said:
    """One cold load by each strategy that the guest can run."""
    yield from _rows(lab, CHOSEN, module=False)


def with_module(lab: Lab) -> Said:
    """The same with the loader module, which is built the first time: minutes of emulation."""
    yield from _rows(lab, OF_MODULE, module=True)


def _rows(lab: Lab, names: Sequence[str], *, module: bool) -> Said:
    missing = {name: path for name, path in _NEEDS.items() if lab.shell(f"test -e {path}").code}
    chosen = []
    for name in names:
        path = missing.get(name.partition("-")[0])
        if path:
            yield Lacks(f"{name},", f"no {path}")
        else:
            chosen.append(name)
    if not chosen:
        yield Lacks("all of these loads", "none of these strategies can run")
        return
    lab.must(f"head -c {SIZE} /dev/urandom >{_MODEL} && sync")
    try:
        seen = _watched(lab, chosen, module=module)
        yield from _bytes(seen)
        yield from _disk(lab, seen)
        yield from _times(lab, seen, module=module)
    finally:
        lab.must(f"rm -f {_MODEL}")


def _watched(lab: Lab, chosen: Sequence[str], *, module: bool, rounds: int = 1) -> Watched:
    text = oracle.script(lab, module=module, workers="udmabuf-uring-dio" in chosen)
    names = ",".join(chosen)
    if module:
        return watch(lab, _MODEL, "auto", names, rounds, text)
    options = ("--strategy", names, "--rounds", str(rounds))
    return beside(lab, _MODEL, f"auto-{rounds}", text, *options)


def _name(load: Load) -> str:
    return f"{load['strategy']}, {SIZE // MIB} MiB, cold"


def _whole(seen: Watched) -> Iterator[Load]:
    for load in seen.document["loads"]:
        if load["failed"] or load["partial"] or load["refused"]:
            raise ValueError(
                f"{load['strategy']}: {load['failed'] or load['refused'] or 'partial'}"
            )
        yield load


def _by_workers(load: Load) -> bool:
    return any(thread["owner"] for thread in load["threads"])


def _path(name: str) -> Callable[[Load], int]:
    return lambda load: int(load["copies"]["paths"].get(name, 0))


def _pinned(load: Load) -> int:
    return sum(int(process["pinned"]) for process in load["memory"]["processes"])


def _spliced(load: Load) -> int:
    return sum(int(file["spliced_bytes"]) for file in load["files"])


#: Figure, tables of the bpftrace script that are summed, ours.
_BY_BPFTRACE: tuple[tuple[str, tuple[str, ...], Callable[[Load], int]], ...] = (
    ("direct.direct_bytes", ("@direct",), lambda load: load["direct"]["direct_bytes"]),
    ("copies.paths page cache -> user", ("@copied",), _path("page cache -> user")),
    ("copies.paths pipe -> shmem and pipe -> dma-buf", ("@spliced_out",),
     lambda load: _path("pipe -> shmem")(load) + _path("pipe -> dma-buf")(load)),
    ("copies.cpu_bytes", ("@copied", "@written", "@streamed"),
     lambda load: load["copies"]["cpu_bytes"]),
    ("files.spliced_bytes", ("@spliced", "@spliced_pages"), _spliced),
    ("memory.processes.pinned", ("@pinned", "@pinned_memfd"), _pinned),
)  # fmt: skip


def _bytes(seen: Watched) -> Said:
    counters = seen.counters()
    faults = seen.recording.table("threads").groupby("load_id")["faults"].sum()
    for load in _whole(seen):
        name, number, strategy = _name(load), load["load_id"], load["strategy"]
        theirs = seen.oracle.get("@cached", {}).get(f"{number},{seen.ino}", 0)
        yield Row("memory.page_cache_added", name, "bpftrace", "bytes",
                  load["memory"]["page_cache_added"], theirs)  # fmt: skip
        for figure, tables, ours in _BY_BPFTRACE:
            found = sum(seen.oracle.get(table, {}).get(str(number), 0) for table in tables)
            # Direct I/O pins nothing before iov_iter_extract_pages() of v6.3: two zeros.
            direct = figure == "memory.processes.pinned" and strategy.endswith("-dio")
            if found or ours(load) or direct:
                yield Row(figure, name, "bpftrace", "bytes", ours(load), found)
        yield Row("block.kinds, summed", name, "bpftrace, bios", "bytes",
                  sum(kind["read_bytes"] for kind in load["block"]["kinds"].values()),
                  seen.oracle["@bio_bytes"].get(str(number), 0), within=0.01,
                  rule=_READAHEAD)  # fmt: skip
        if strategy == "filemap-bio":
            yield Row("memory.mapped", name, "the file's size", "bytes", load["memory"]["mapped"],
                      SIZE)  # fmt: skip
        yield Row("block.read_bytes", name, "the file's size", "bytes", load["block"]["read_bytes"],
                  SIZE, within=0.01)  # fmt: skip
        if strategy.endswith("-bio"):
            yield Row("direct.buffered_bytes", name, "the file's size", "bytes",
                      load["direct"]["buffered_bytes"], SIZE)  # fmt: skip
        for figure in ("dmabuf", "shmem"):
            holds = strategy.startswith(
                ("dmabuf", "udmabuf") if figure == "dmabuf" else ("udmabuf", "memfd")
            )
            yield Row(f"memory.{figure}", name, "what the strategy makes", "bytes",
                      load["memory"][figure], SIZE if holds else 0)  # fmt: skip
        yield Row("copies.per_byte", name, "the strategies' table", "bytes a byte",
                  load["copies"]["per_byte"], strategies()[strategy].copies,
                  within=0.01)  # fmt: skip
        resident = cached_bytes(load["memory"]["cachestat_after"], 4096)
        if resident is None:
            yield Lacks(name, "no cachestat(2)", "memory.page_cache_end")
        else:
            yield Row("memory.page_cache_end", name, "cachestat(2)", "bytes",
                      load["memory"]["page_cache_end"], resident, within=0.01)  # fmt: skip
        retried = seen.oracle.get("@retried", {}).get(str(number), 0)
        yield Row("threads.phases.count, calls of handle_mm_fault", name,
                  "getrusage(2), bpftrace: retries", "faults",
                  counters[number]["hits:handle_mm_fault"] - retried, int(faults.get(number, 0)),
                  within=0.01, floor=60, rule=_BRACKETS)  # fmt: skip
    yield from lost("all of these loads", seen.document)


def _disk(lab: Lab, seen: Watched) -> Said:
    what = "all of these loads"
    requests = seen.recording.table("requests")
    reads = requests[(requests["op"] == "read") & (requests["dev"] == oracle.disk(lab))]
    yield Row("block.read_bytes, summed", what, "/proc/diskstats", "bytes",
              int(reads["bytes"].sum()), seen.disk_bytes, within=0.01)  # fmt: skip
    done = reads[reads["complete_ns"] > 0]
    yield Row("block.requests, summed", what, "bpftrace, block_rq_complete", "requests", len(done),
              _one(seen, "@disk_requests"), within=0.01)  # fmt: skip
    yield Row("block.latency_ns, summed", what, "bpftrace, issue to completion", "ns",
              _latency(done), _one(seen, "@disk_ns"), within=0.02)  # fmt: skip


def _latency(done: pd.DataFrame) -> int:
    return int((done["complete_ns"] - done["issue_ns"]).sum())


def _one(seen: Watched, table: str) -> int:
    """A map without keys."""
    found: Any = seen.oracle.get(table, 0)
    return int(found)


def _times(lab: Lab, seen: Watched, *, module: bool) -> Said:
    """Noise does not repeat: what is apart is loaded again, and the closest round counts."""
    first: dict[str, list[Row]] = {}
    for load in _whole(seen):
        first[load["strategy"]] = list(_spent(seen, load))
    suspects = [name for name, found in first.items() if not all(row.good for row in found)]
    if suspects:
        again = _watched(lab, suspects, module=module, rounds=_AGAIN)
        for load in _whole(again):
            old = first[load["strategy"]]
            first[load["strategy"]] = [
                min(pair, key=lambda row: (not row.good, abs(row.difference)))
                for pair in zip(old, _spent(again, load), strict=True)
            ]
    for found in first.values():
        yield from found


def _spent(seen: Watched, load: Load) -> Iterator[Row]:
    name = _name(load)
    yield from clocks.closure(name, load["threads"])
    yield from clocks.schedstat(name, load["threads"])
    marked = [thread for thread in load["threads"] if thread["clock"] == "loader"]
    yield Row("threads.wall_ns", name, "bpftrace, between the marks", "ns",
              sum(thread["wall_ns"] for thread in marked),
              seen.oracle["@wall"].get(str(load["load_id"]), 0), within=0.02,
              floor=sum(thread["mark_ns"] for thread in marked),
              rule="2 %, or the time between its clock and its mark")  # fmt: skip
    if _by_workers(load):
        return  # where a worker's wait begins and ends, each has its own mark
    ours = sum(
        clocks.sums(thread)[kind] for thread in load["threads"] for kind in ("blocked", "runnable")
    )
    wall = sum(thread["wall_ns"] for thread in load["threads"])
    theirs = seen.oracle["@off_cpu"].get(str(load["load_id"]), 0)
    yield Row("threads.phases.blocked_ns and runnable_ns", name, "bpftrace, sched_switch", "ns",
              ours, theirs, floor=max(law.SCHED_WITHIN * wall, law.SCHED_FLOOR_NS),
              rule=clocks.OF_WALL)  # fmt: skip
