"""The memory bill of a load: what the recorder's ledgers say, in bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

LEDGER = (
    "page_cache_added",
    "page_cache_removed",
    "page_cache_peak",
    "page_cache_end",
    "mapped",
    "dmabuf",
    "shmem",
    "pinned_peak",
)


def memory(load: Mapping[str, Any]) -> dict[str, Any]:
    """The contract's ``memory`` object from a row of the loads table."""
    return {
        **{name: int(load[name]) for name in LEDGER},
        "cachestat_before": _cachestat(load["cachestat_before"]),
        "cachestat_after": _cachestat(load["cachestat_after"]),
    }


def cached_bytes(cachestat: Mapping[str, Any], page_size: int) -> int | None:
    """Bytes in the page cache by cachestat(2), whose fields count pages; None if absent.

    ``nr_cache`` is struct cachestat's name; ``cached`` is taken as bytes.
    """
    if "cached" in cachestat:
        return int(cachestat["cached"])
    if "nr_cache" in cachestat:
        return int(cachestat["nr_cache"]) * page_size
    return None


def _cachestat(text: str) -> dict[str, Any]:
    """{} where the kernel has none (before 6.5) or the text is no JSON object."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
