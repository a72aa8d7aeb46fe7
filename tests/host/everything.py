"""A small recording that has rows in every table, and paths, names and commands to hide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import synthetic
from synthetic import DEV, SIZE

from dmatrace.recording import Writer

SECRETS = ("secret-model", "secret-tool", "secret-host", "secret-word", "secret-dir")
COMM = "secret-comm"
MODEL = "/data/secret-model one.gguf"
OTHER = "/srv/secret-dir/tokens.txt"
PID = 777
_US = 1000

META: dict[str, Any] = {
    "target": {
        "kind": "command",
        "strategies": ["dmabuf-bio", "udmabuf-dio"],
        "command": ["/opt/secret-tool", "--key", "secret-word"],
        "host": "secret-host",
    },
    "ledger": {"interval_ns": 200 * _US, "unavailable": {}},
    "delay_kinds": ["cpu", "blkio"],
    "sample_hz": 997,
    "devices": [{"dev": DEV, "name": "vda1", "disk": "vda", "label": ""}],
}


def write(path: Path) -> Path:
    """Two loads by strategies, 1 and 2, and an observed process, 3, at ``path``."""
    with Writer.create(path, {**synthetic.META, **META}) as writer:
        for load_id, strategy in enumerate(("dmabuf-bio", "udmabuf-dio"), start=1):
            synthetic.write_load(
                writer, load_id, strategy, file=MODEL, inventory="debugfs",
                create_ns=200_000, io_ns=400_000, wall_ns=1_000_000,
            )  # fmt: skip
            _tables(writer, load_id, buffered=strategy.endswith("-bio"))
        synthetic.write_load(
            writer, 3, "observed", file="", dev=0, ino=0, pid=PID, comm=COMM, cache_before="",
            command="/opt/secret-tool --key secret-word", ended="exit code 0",
            failed=f"it could not open {OTHER} on secret-host",
        )  # fmt: skip
        snapshots = []
        for at, kind, spent in ((3_100_000, "fork", 0), (3_900_000, "exit", 400_000)):
            cells = {"user": (spent, 0, 0, 1)}
            snapshots += synthetic.snapshot((3, PID, at, -1, kind), cells, tgid=PID, comm=COMM)
        writer.append("snapshots", snapshots)
    return path


def _tables(writer: Writer, load_id: int, *, buffered: bool) -> None:
    start = 1_000_000 * load_id
    here = {"load_id": load_id}
    file = {"dev": DEV, "ino": 12}
    cached = SIZE if buffered else 0
    ledger: list[dict[str, Any]] = []
    pages: list[dict[str, Any]] = []
    for n in range(4):
        at = start + n * 200 * _US
        pinned = 0 if buffered else (0, SIZE // 2, SIZE, 0)[n]
        values = {
            ("sample", "mark"): int(n in (0, 3)), ("pinned", "now"): pinned,
            ("pinned", "page_us"): 0, ("pinned", "held_ns"): 0,
            ("psi", "memory.some"): 50_000 + n * 10_000, ("psi", "memory.full"): n * 1_000,
            ("psi", "io.some"): n * 20_000, ("psi", "io.full"): 0,
            ("vmstat", "pgsteal_anon"): n,
        }  # fmt: skip
        ledger += [
            {"t_ns": at, **here, "what": what, "name": name, "value": value}
            for (what, name), value in values.items()
        ]
        pages.append(
            {
                "t_ns": at, **here, **file, "kind": "file", "based": True,
                "added": cached * n // 3, "added_self": cached * n // 3, "removed": 0,
                "removed_self": 0, "current": cached * n // 3, "peak": cached * n // 3,
                "readahead": cached * n // 3,
            }
        )  # fmt: skip
    writer.append("ledger", ledger)
    # Of another file kswapd takes what there was.
    pages += [
        {
            "t_ns": start + at, **here, "dev": DEV, "ino": 99, "kind": "file", "based": True,
            "added": 0, "removed": gone, "removed_kswapd": gone, "current": 8192 - gone,
            "peak": 8192, "removed_self": 0,
        }
        for at, gone in ((0, 0), (300 * _US, 8192))
    ]  # fmt: skip
    writer.append("page_cache", pages)
    paths = {12: MODEL, 99: OTHER}
    writer.append(
        "files",
        [
            {"t_ns": start, **here, "dev": DEV, "ino": ino, "path": path}
            for ino, path in paths.items()
        ],
    )
    writer.append(
        "waits",
        [
            {
                **here, "tid": 100, "tgid": 100, "phase": "copy" if buffered else "gup",
                "start_ns": start + 300 * _US, "woken_ns": start + 600 * _US,
                "end_ns": start + 700 * _US,
            }
        ],
    )  # fmt: skip
    direct = 0 if buffered else SIZE
    writer.append(
        "file_reads",
        [
            {
                **here, **file, "path": MODEL, "direct": direct, "direct_calls": direct and 4,
                "einval": 0, "efault": 0, "errors": 0, "buffered": SIZE - direct, "fallback": 0,
                "spliced": 0, "offsets": 4096, "memory": 4096, "fs": "ext4",
            }
        ],
    )  # fmt: skip
    if buffered:
        run = {**here, "tid": 100, "tgid": 100, **file, "start": 0, "end": SIZE}
        times = {"since_ns": start + 100 * _US, "until_ns": start + 500 * _US}
        writer.append("runs", [{**run, "kind": "readahead", **times}])
        writer.append("runs", [{**run, "kind": "read", "end": SIZE // 2, **times}])
    writer.append(
        "delays",
        [
            {
                **here, "tid": 100, "tgid": 100, "comm": "loader", "full": 1, "cpu_count": 3,
                "cpu_ns": 100_000, "blkio_count": 4, "blkio_ns": 200_000,
            }
        ],
    )  # fmt: skip
    writer.append(
        "samples",
        [
            {
                "t_ns": start + 50 * _US, **here, "tid": 100, "tgid": 100, "cell": "user",
                "phase": "user", "functions": "do_syscall_64;vfs_read", "count": 1,
            }
        ],
    )  # fmt: skip
    way = {"tgid": 100, **file, "size": SIZE, "to_dev": 7, "to_ino": 5 + load_id}
    writer.append(
        "ways",
        [
            {
                "t_ns": start + 800 * _US, **here, **way, "path": MODEL, "format": "GGUF",
                "way": "buffered" if buffered else "direct", "call": "pread64",
                "target": "dmabuf", "o_direct": not buffered, "dontcache": False, "fixed": False,
                "worker": False, "late": 0, "calls": 8, "bytes": SIZE,
                "first_ns": start + 100 * _US,
                "last_ns": start + 500 * _US, "begun": 8, "depth": 8, "deepest": 1,
                "largest": SIZE // 8, "sizes": "[0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]",
            }
        ],
    )  # fmt: skip
    call = {
        **here, "tid": 100, "tgid": 100, "address": 0, "length": 0, "flags": 0, "prot": 0, "fd": 3,
        "exporter": "", "other": 0, "other_dev": 0, "path": "",
    }  # fmt: skip
    model = {"target": "file", **file, "size": SIZE}
    dmabuf = {"target": "dmabuf", "dev": 7, "ino": 5 + load_id, "size": SIZE}
    address = {"address": 0x7F0000000000, "length": SIZE, "flags": 1, "prot": 3}
    writer.append(
        "calls",
        [
            {"t_ns": start + 50 * _US, **call, **model, "what": "open", "path": MODEL},
            {"t_ns": start + 150 * _US, **call, **dmabuf, "what": "mmap", **address, "fd": 4}
            | {"exporter": "system"},
            {"t_ns": start + 700 * _US, **call, **model, "what": "close"},
        ],
    )
    buffer = {"ino": 5 + load_id, "size": SIZE, "exporter": "system", "tid": 100, "tgid": 100}
    events = (("export", 100), ("release", 950))
    writer.append(
        "buffers",
        [
            {"t_ns": start + at * _US, **here, "event": event, **buffer, "heap": "system"}
            for event, at in events
        ],
    )
    writer.append(
        "inventory",
        [
            {
                "t_ns": start + 700 * _US, **here, "ino": 5 + load_id, "size": SIZE,
                "exporter": "system", "name": "", "pid": 100, "comm": COMM, "fds": 1,
                "mapped": SIZE, "devices": "[]",
            },
            {
                "t_ns": start + 700 * _US, **here, "ino": 4, "size": -1, "exporter": "drm",
                "name": "scanout", "pid": 0, "comm": "", "fds": 0, "mapped": 0,
            },
        ],
    )  # fmt: skip
