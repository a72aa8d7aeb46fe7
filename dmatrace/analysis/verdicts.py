"""Did the read bypass the page cache?  Decided by bytes seen, never by O_DIRECT alone.

A file system may fall back to buffered reads without a word, so the verdict
rests on which kernel path returned the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmatrace.sizes import format_size

# Below this share of the bytes, the other path is the unaligned tail or metadata.
MINOR = 0.01


def direct(
    counters: Mapping[str, int], strategy: str, refused: str, memory: Mapping[str, Any]
) -> dict[str, Any]:
    """The contract's ``direct`` object of one load; ``why`` is the evidence."""
    direct_bytes = counters.get("dio_bytes", 0)
    buffered = counters.get("copy_read_bytes", 0) + counters.get("copy_shmem_read_bytes", 0)
    added = int(memory["page_cache_added"])
    verdict, why = _decide(direct_bytes, buffered, added, strategy.endswith("-dio"), refused)
    errors = counters.get("dio_errors", 0)
    if errors and not refused:
        why += f"; direct I/O failed {errors} times"
    return {
        "verdict": verdict,
        "direct_bytes": direct_bytes,
        "buffered_bytes": buffered,
        "why": why,
    }


def _decide(
    direct_bytes: int, buffered: int, added: int, asked: bool, refused: str
) -> tuple[str, str]:
    seen = direct_bytes + buffered
    if refused and not seen:
        return "none", f"the direct read was refused: {refused}"
    if not seen and added:
        return (
            "buffered",
            f"no read call returned bytes, but the page cache gained {format_size(added)}",
        )
    if not seen:
        return "none", "no read of the file was seen in a hooked path"
    fell_back = ", although O_DIRECT was asked for" if asked else ""
    if direct_bytes < MINOR * seen:
        return (
            "buffered",
            f"{format_size(buffered)} came from the page cache's read path{fell_back}",
        )
    cache = f"the page cache gained {format_size(added)}"
    if buffered <= MINOR * seen:
        return "direct", f"{format_size(direct_bytes)} came from the direct read path; {cache}"
    return (
        "mixed",
        f"{format_size(direct_bytes)} came from the direct read path and "
        f"{format_size(buffered)} from the page cache's{fell_back}; {cache}",
    )
