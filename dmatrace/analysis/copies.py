"""Bytes the CPU copied, from the return values of the functions that copy."""

from __future__ import annotations

from collections.abc import Mapping

COPYING = (
    "copy_read_bytes",  # filemap_read
    "copy_write_bytes",  # generic_perform_write: also what leaves a pipe into a file
    "copy_shmem_read_bytes",  # shmem_file_read_iter
    "copy_stream_bytes",  # dmatrace_loader_stream_write
)


def copies(counters: Mapping[str, int], size: int) -> dict[str, int | float]:
    """The contract's ``copies`` object; ``size`` is the load's bytes."""
    copied = sum(counters.get(name, 0) for name in COPYING)
    return {"cpu_bytes": copied, "per_byte": round(copied / size, 6) if size > 0 else 0.0}
