"""A made-up process that is followed and loads two files, for tests of the live view."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import synthetic

from dmatrace.recording import Writer

MIB = 1 << 20
MS = 1_000_000
BEGIN = 1000 * MS
SECOND = 1_000 * MS
#: A process with no such file stands beside it.
PID, IDLE = 4711, 4712
MODEL, TOKENS, SMALL = (0xFE00001, 50), (0xFE00001, 51), (0xFE00001, 52)
_NAMES = {
    MODEL: ("/models/llama-3-8b-instruct-q4_k_m.gguf", "GGUF", 64 * MIB),
    TOKENS: ("/models/tokenizer.bin", "", 8 * MIB),
    SMALL: ("/models/config.db", "", 2 * MIB),
}

Row = dict[str, Any]


def way(file: tuple[int, int], at: int, done: int, **more: Any) -> Row:
    """A row of ways: ``done`` bytes by pread64(2) of 1 MiB each, until ``at`` ns."""
    path, label, size = _NAMES[file]
    return {
        "t_ns": at, "load_id": 1, "tgid": PID, "dev": file[0], "ino": file[1], "size": size,
        "path": path, "format": label, "way": "buffered", "call": "pread64",
        "target": "anonymous", "to_dev": 0, "to_ino": 0, "o_direct": False, "dontcache": False,
        "fixed": False, "worker": False, "late": 0, "calls": done // MIB, "bytes": done,
        "first_ns": BEGIN + 100 * MS, "last_ns": at, "begun": done // MIB, "depth": done // MIB,
        "deepest": 1, "largest": MIB, "sizes": f"[{'0, ' * 9}{done // MIB}{', 0' * 6}]",
    } | more  # fmt: skip


def call(what: str, file: tuple[int, int], **more: Any) -> Row:
    """A row of calls: the whole file, mapped at an address of its own."""
    path, _, size = _NAMES[file]
    return {
        "t_ns": BEGIN + 50 * MS, "load_id": 1, "tid": PID, "tgid": PID, "what": what,
        "target": "file", "dev": file[0], "ino": file[1], "size": size,
        "address": file[1] << 32, "length": size, "flags": 1, "prot": 1, "fd": 3,
        "exporter": "", "other": 0, "other_dev": 0, "path": path,
    } | more  # fmt: skip


def run(file: tuple[int, int], start: int, end: int, at: int, kind: str = "mapped") -> Row:
    """A row of runs: ``start`` to ``end`` were mapped around faults."""
    return {
        "load_id": 1, "tid": PID, "tgid": PID, "kind": kind, "dev": file[0], "ino": file[1],
        "start": start, "end": end, "since_ns": at - MS, "until_ns": at,
    }  # fmt: skip


def cached(file: tuple[int, int], at: int, current: int) -> Row:
    """A row of page_cache."""
    return {
        "t_ns": at, "load_id": 1, "dev": file[0], "ino": file[1], "added": current, "removed": 0,
        "removed_self": 0, "current": current, "peak": current, "based": True, "kind": "file",
    }  # fmt: skip


def faulted(file: tuple[int, int], at: int, most: int) -> Row:
    """A row of ways: faults that could map ``most`` bytes."""
    return way(file, at, most, way="fault", call="", target="mapping", begun=0, depth=0, deepest=0,
               largest=0, sizes="[]")  # fmt: skip


def process(load_id: int, pid: int, comm: str, **more: Any) -> Row:
    """A row of loads."""
    return synthetic.load(
        load_id, "observed", file="", dev=0, ino=0, pid=pid, comm=comm, verified=None,
        command=f"/usr/bin/{comm} -m /models", bytes=0, start_ns=BEGIN, end_ns=0, wall_ns=0,
        ended="", create_ns=0, io_ns=0, close_ns=0, cache_before="", dmabuf=0, shmem=0,
        pinned_peak=0, page_cache_added=0, page_cache_peak=0, page_cache_end=0,
    ) | more  # fmt: skip


def tables(*, ended: bool = True) -> dict[str, list[Row]]:
    """Two files: one by faults to three quarters, then to its end; one by reads, twice in all.

    Of a third file less is read than the classifier's scale.
    """
    half, over = BEGIN + 500 * MS, BEGIN + SECOND
    spent = {"fault": (400 * MS, 300 * MS, 0, 900), "copy": (200 * MS, 0, 100 * MS, 16)}
    rows: dict[str, list[Row]] = {
        "loads": [process(1, PID, "llama-cli"), process(2, IDLE, "sleep")],
        "snapshots": [], "counters": [],
        "calls": [
            call("open", MODEL), call("mmap", MODEL),
            call("madvise", MODEL, ino=0, dev=0, target="unknown", path="", flags=3,
                 address=MODEL[1] << 32),
            call("open", TOKENS),
        ],
        "ways": [
            faulted(MODEL, half, 60 * MIB), way(TOKENS, half, 4 * MIB),
            faulted(MODEL, over, 80 * MIB), way(TOKENS, over, 16 * MIB),
            way(SMALL, over, MIB // 2),
        ],
        "runs": [
            run(MODEL, 0, 32 * MIB, half - 20 * MS), run(MODEL, 16 * MIB, 48 * MIB, half),
            run(MODEL, 48 * MIB, 64 * MIB, over), run(MODEL, 0, 64 * MIB, over, "readahead"),
        ],
        "page_cache": [
            cached(MODEL, half, 48 * MIB), cached(TOKENS, half, 4 * MIB),
            cached(MODEL, over, 64 * MIB), cached(TOKENS, over, 8 * MIB),
        ],
    }  # fmt: skip
    for load_id, pid, comm in ((1, PID, "llama-cli"), (2, IDLE, "sleep")):
        mine = spent if pid == PID else {"user": (5 * MS, 995 * MS, 0, 1)}
        for at, part in ((BEGIN, 0), (half, 2), (over, 1)):
            cells = {name: tuple(v // part for v in c) for name, c in mine.items()} if part else {}
            kind = "exit" if ended and at == over else "poll"
            key = (load_id, pid, at, -1, kind)
            copied = {"copy_read_bytes": (0, 4 * MIB, 16 * MIB)[(at - BEGIN) // (500 * MS)]}
            if pid == PID:
                rows["counters"] += synthetic.counters(key, copied, tgid=pid)  # type: ignore[arg-type]
            rows["snapshots"] += synthetic.snapshot(key, cells, tgid=pid, comm=comm)  # type: ignore[arg-type]
    if ended:
        last = {"end_ns": over, "wall_ns": SECOND, "ended": "exit code 0"}
        rows["loads"] += [
            process(
                1,
                PID,
                "llama-cli",
                bytes=16 * MIB,
                page_cache_added=72 * MIB,
                page_cache_peak=72 * MIB,
                page_cache_end=72 * MIB,
                **last,
            ),
            process(2, IDLE, "sleep", **last),
        ]
    return rows


def write(path: Path, meta: Mapping[str, Any] | None = None, *, ended: bool = True) -> Path:
    """A recording of both processes."""
    with Writer.create(
        path,
        {**synthetic.META, "skipped": [], "target": {"kind": "pid"}, "hooks": [], **(meta or {})},
    ) as writer:
        for table, rows in tables(ended=ended).items():
            writer.append(table, rows)
    return path
