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

# Counters of bytes that came through the page cache, and how.
BUFFERED = {
    "copy_read_bytes": "from its read path",
    "copy_shmem_read_bytes": "from a file in memory",
    "splice_cache_bytes": "into a pipe, by reference",
    "splice_shmem_bytes": "from a file in memory into a pipe, by reference",
}
MAPPED = "mapped by page faults"


def direct(
    counters: Mapping[str, int],
    strategy: str,
    refused: str,
    memory: Mapping[str, Any],
    size: int,
) -> dict[str, Any]:
    """The contract's ``direct`` object of one load of ``size`` bytes; ``why`` is the evidence.

    What was spliced counts by how it came to the pipe: references to page-cache folios
    are buffered, pages of the pipe's own that a direct read filled are direct.  Of a
    mapped file, what is mapped at the end was taken from the page cache.  ``memory``'s
    ``page_cache_added`` is None where it is not known.
    """
    direct_bytes = counters.get("dio_bytes", 0)
    paths = {how: counters.get(name, 0) for name, how in BUFFERED.items()}
    # The last page is mapped whole.
    paths[MAPPED] = min(int(memory["mapped"]), size)
    buffered = sum(paths.values())
    verdict, why = _decide(direct_bytes, paths, memory, strategy.endswith("-dio"), refused)
    faults = [name for name in ("filemap_map_pages", "filemap_fault") if _hits(counters, name)]
    if paths[MAPPED] and faults:
        why += "; " + ", ".join(f"{_hits(counters, name)} calls of {name}" for name in faults)
    errors = counters.get("dio_errors", 0)
    if errors and not refused:
        why += f"; direct I/O failed {errors} times"
    return {
        "verdict": verdict,
        "direct_bytes": direct_bytes,
        "buffered_bytes": buffered,
        "why": why,
    }


def _hits(counters: Mapping[str, int], hook: str) -> int:
    return counters.get(f"hits:{hook}", 0)


def _decide(
    direct_bytes: int,
    paths: Mapping[str, int],
    memory: Mapping[str, Any],
    asked: bool,
    refused: str,
) -> tuple[str, str]:
    buffered = sum(paths.values())
    seen = direct_bytes + buffered
    added = memory["page_cache_added"]
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
    how = ", ".join(f"{format_size(bytes_)} {name}" for name, bytes_ in paths.items() if bytes_)
    cache = _cache(memory)
    if direct_bytes < MINOR * seen:
        return "buffered", f"through the page cache: {how}{fell_back}{cache}"
    if buffered <= MINOR * seen:
        return "direct", f"{format_size(direct_bytes)} came from the direct read path{cache}"
    return (
        "mixed",
        f"{format_size(direct_bytes)} came from the direct read path, through the page cache"
        f" {how}{fell_back}{cache}",
    )


def _cache(memory: Mapping[str, Any]) -> str:
    added, removed = memory["page_cache_added"], memory["page_cache_removed"]
    if added is None:
        return ""
    lost = f" and lost {format_size(removed)}" if removed else ""
    return f"; the page cache gained {format_size(added)}{lost}"
