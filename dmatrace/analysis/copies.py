"""Bytes the CPU copied, from the return values of the functions that copy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COPYING = (
    "copy_read_bytes",  # filemap_read
    "copy_write_bytes",  # generic_perform_write: also what leaves a pipe into a file
    "copy_shmem_read_bytes",  # shmem_file_read_iter
    "copy_stream_bytes",  # dmatrace_loader_stream_write
)


def copies(counters: Mapping[str, int], size: int, *, known: bool = True) -> dict[str, Any]:
    """The contract's ``copies`` object; ``size`` is the load's bytes.

    Not ``known``: a copying function was not hooked.  How much was copied is None then, and
    ``paths`` are those that were seen.
    ``paths`` divides ``cpu_bytes``: from where to where, bytes; paths that copied
    nothing are left out.  What reads into the loader module's target is told by the call
    it is in, what leaves a pipe likewise, a file in memory by its file system.
    """
    copied = sum(counters.get(name, 0) for name in COPYING)
    per_byte = round(copied / size, 6) if size > 0 else 0.0
    return {
        "cpu_bytes": copied if known else None,
        "per_byte": per_byte if known else None,
        "paths": {path: n for path, n in _paths(counters).items() if n},
    }


def _paths(counters: Mapping[str, int]) -> dict[str, int]:
    def count(name: str) -> int:
        return counters.get(f"copy_{name}_bytes", 0)

    shmem, pipe, both = count("write_shmem"), count("write_pipe"), count("pipe_shmem")
    return {
        "page cache -> user": count("read") - count("read_module"),
        "page cache -> module": count("read_module"),
        "shmem -> user": count("shmem_read"),
        "user -> shmem": shmem - both,
        "user -> page cache": count("write") - shmem - pipe + both,
        "pipe -> shmem": both,
        "pipe -> page cache": pipe - both,
        "pipe -> dma-buf": count("stream"),
    }
