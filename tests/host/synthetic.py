"""A small recording of two strategies, written through the Writer, for tests of its readers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dmatrace.recording import Recording, Writer, schema

SIZE = 1 << 20
DEV = 0xFE00000

META: dict[str, Any] = {
    "dmatrace": "0.1.0",
    "kernel": "6.12.48-test",
    "machine": "x86_64",
    "target": {"kind": "strategy", "strategies": ["dmabuf-bio", "udmabuf-dio"]},
    "started": "2026-11-21T00:00:00+00:00",
    "detail": "exact",
    "hooks_mode": "fentry",
    "hooks": [
        {"name": "filemap_read", "phase": "copy", "attached": "fentry", "hides": None},
        {
            "name": "dma_heap_buffer_alloc",
            "phase": "heap-alloc",
            "attached": None,
            "hides": "the heap's own share of dma_heap_ioctl",
        },
    ],
    "lost_events": 0,
    "skipped": [
        {
            "strategy": "dmabuf-rwfile-dio",
            "why": "the dmatrace_loader module is not loaded",
            "do": "build it with make -C native and load it",
        }
    ],
    "self": {
        "bpf_ns": 4_200_000,
        "bpf_runs": 12345,
        "recorder_cpu_ns": 31_000_000,
        "recorder_rss": 90 << 20,
        "ab": [],
    },
    "cache": "cold",
}


def snapshot(
    key: tuple[int, int, int, int, str],
    phases: Mapping[str, tuple[int, int, int, int]],
    *,
    tgid: int = 100,
    comm: str = "loader",
) -> list[dict[str, Any]]:
    """Rows of one snapshot: key is (load_id, tid, t_ns, window, kind)."""
    load_id, tid, t_ns, window, kind = key
    base = {
        "t_ns": t_ns,
        "load_id": load_id,
        "window": window,
        "kind": kind,
        "tid": tid,
        "tgid": tgid,
        "comm": comm,
    }
    values = dict(phases) or {"user": (0, 0, 0, 0)}
    return [
        base
        | {"phase": phase}
        | dict(zip(("cpu_ns", "blocked_ns", "runnable_ns", "count"), cells, strict=True))
        for phase, cells in values.items()
    ]


def counters(
    key: tuple[int, int, int, int, str], values: Mapping[str, int], *, tgid: int = 100
) -> list[dict[str, Any]]:
    """Rows of the counters that go with a snapshot."""
    load_id, tid, t_ns, window, kind = key
    return [
        {
            "t_ns": t_ns,
            "load_id": load_id,
            "window": window,
            "kind": kind,
            "tid": tid,
            "tgid": tgid,
            "counter": name,
            "value": value,
        }
        for name, value in values.items()
    ]


def load(load_id: int, strategy: str, round_: int = 1, **values: Any) -> dict[str, Any]:
    """A row of the loads table: a clean, cold, verified load of SIZE bytes."""
    bio = strategy.endswith("-bio")
    cached = SIZE if bio else 0
    return {
        "load_id": load_id,
        "strategy": strategy,
        "round": round_,
        "file": "/data/model.bin",
        "dev": DEV,
        "ino": 12,
        "bytes": SIZE,
        "cache_before": "cold",
        "verified": True,
        "refused": "",
        "create_ns": 300_000,
        "io_ns": 600_000,
        "close_ns": 100_000,
        "wall_ns": 1_000_000,
        "cachestat_before": '{"nr_cache": 0}',
        "cachestat_after": f'{{"nr_cache": {cached // 4096}}}',
        "pinned_peak": 0 if bio else SIZE,
        "page_cache_added": cached,
        "page_cache_removed": 0,
        "page_cache_peak": cached,
        "page_cache_end": cached,
        "dmabuf": SIZE,
        "shmem": 0 if bio else SIZE,
        "start_ns": 1_000_000 * load_id,
        "end_ns": 1_000_000 * load_id + 950_000,
        "failed": "",
    } | values


def write_load(writer: Writer, load_id: int, strategy: str, round_: int = 1, **values: Any) -> None:
    """One load of 900 us (window 0) and 100 us (window 1) by one thread, tid 100.

    It obeys all five laws, unless ``values`` (columns of the loads table) say otherwise.
    """
    start = 1_000_000 * load_id
    before = 1_000_000 * (load_id - 1)
    bio = strategy.endswith("-bio")
    busy = "copy" if bio else "gup"
    ends = [
        ((load_id, 100, start, 0, "begin"), 0, 0, 0),
        ((load_id, 100, start + 900_000, 0, "end"), 500_000, 300_000, 100_000),
        ((load_id, 100, start + 900_000, 1, "begin"), 500_000, 300_000, 100_000),
        ((load_id, 100, start + 1_000_000, 1, "end"), 600_000, 300_000, 100_000),
    ]
    for key, cpu, blocked, runnable in ends:
        cells = {
            "user": (before + cpu // 10, 0, 0, 3),
            busy: (before + cpu - cpu // 10, before + blocked, before + runnable, 7),
        }
        writer.append("snapshots", snapshot(key, cells))
        done = SIZE * load_id if cpu else SIZE * (load_id - 1)
        names = ("copy_read_bytes",) if bio else ("dio_bytes",)
        writer.append("counters", counters(key, dict.fromkeys(names, done)))
    writer.append(
        "threads",
        [
            {
                "load_id": load_id,
                "window": window,
                "tid": 100,
                "comm": "loader",
                "start_ns": start + first,
                "end_ns": start + last,
                "sched_run_ns": run,
                "sched_wait_ns": wait,
            }
            for window, first, last, run, wait in (
                (0, 0, 900_000, 500_000, 100_000),
                (1, 900_000, 1_000_000, 100_000, 0),
            )
        ],
    )
    writer.append(
        "requests",
        [
            {
                "load_id": load_id,
                "tid": 100,
                "tgid": 100,
                "dev": DEV,
                "sector": 2048 + i * 512,
                "bytes": SIZE // 4,
                "op": "read",
                "queue_ns": start + 200_000 + i * 50_000,
                "issue_ns": start + 210_000 + i * 50_000,
                "complete_ns": start + 300_000 + i * 60_000,
            }
            for i in range(4)
        ],
    )
    writer.append(
        "intervals",
        [
            {
                "load_id": load_id,
                "tid": 100,
                "phase": "heap-alloc" if bio else "udmabuf",
                "start_ns": start,
                "end_ns": start + 300_000,
            }
        ],
    )
    writer.append("loads", [load(load_id, strategy, round_, **values)])


def write(
    path: Path,
    strategies: tuple[str, ...] = ("dmabuf-bio", "udmabuf-dio"),
    rounds: int = 1,
    meta: Mapping[str, Any] | None = None,
) -> Path:
    """A whole recording at ``path``."""
    with Writer.create(path, {**META, **(meta or {})}) as writer:
        load_id = 0
        for round_ in range(1, rounds + 1):
            for strategy in strategies:
                load_id += 1
                write_load(writer, load_id, strategy, round_)
    return path


class InMemory(Recording):
    """A recording from rows, without files: for tests that try many."""

    def __init__(
        self, tables: Mapping[str, list[dict[str, Any]]], meta: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(Path("in-memory"), {**META, "complete": True, **(meta or {})})
        self._rows = tables

    def _read(self, name: str) -> pd.DataFrame:
        columns = schema.TABLES[name]
        rows = [
            {column.name: row.get(column.name, column.default) for column in columns}
            for row in self._rows.get(name, [])
        ]
        kinds = {"int64": "int64", "uint64": "uint64", "bool": "boolean", "str": "object"}
        frame = pd.DataFrame(rows, columns=[column.name for column in columns])
        return frame.astype({column.name: kinds[column.kind] for column in columns})
