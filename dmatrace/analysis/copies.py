"""Bytes the CPU copied, from the return values of the functions that copy."""

from __future__ import annotations

from collections.abc import Mapping

COPYING = (
    "copy_read_bytes",  # filemap_read
    "copy_write_bytes",  # generic_perform_write
    "copy_shmem_read_bytes",
    "copy_pipe_bytes",
)


def copies(counters: Mapping[str, int], size: int) -> dict[str, int | float]:
    """The contract's ``copies`` object; ``size`` is the load's bytes."""
    copied = sum(counters.get(name, 0) for name in COPYING)
    return {"cpu_bytes": copied, "per_byte": round(copied / size, 6) if size > 0 else 0.0}
