"""Which figures a missing hook hides: what they would be is not 0, it is not known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: Figure -> the hooks without which it is not known, or too low.
HIDDEN_BY = {
    "cached": ("page-cache ledger",),
    "requests": ("block requests",),
    "copies": ("filemap_read", "generic_perform_write", "shmem_file_read_iter"),
    "dmabuf": ("dma_buf_export",),
    "release": ("dma_buf_release",),
    "shmem": ("shmem_alloc_and_add_folio",),
    "pinned": ("pin_user_pages_fast",),
    "direct": ("__iomap_dio_rw",),
    "workers": ("io_wq_submit_work", "dmatrace_loader_gather_work"),
}

#: Rows of a load's memory -> the figure that they belong to.
OF_MEMORY = {
    "page_cache_added": "cached",
    "page_cache_removed": "cached",
    "page_cache_peak": "cached",
    "page_cache_end": "cached",
    "dmabuf": "dmabuf",
    "shmem": "shmem",
    "pinned_peak": "pinned",
}


def missing(hooks: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of a recording's ``hooks`` that hide something, for they are not attached."""
    return [h for h in hooks if h.get("attached") in (None, "null") and h.get("hides")]


def hidden(hooks: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """{figure: the missing hooks that hide it}; nothing of a figure that is known."""
    gone = {hook.get("name") for hook in missing(hooks)}
    found = {what: tuple(n for n in names if n in gone) for what, names in HIDDEN_BY.items()}
    return {what: names for what, names in found.items() if names}
