"""Rows of the hook table that only the memory ledger needs.

They open no phase: they say which heap a dma-buf came from, and which function
a folio was removed by.
"""

from __future__ import annotations

from dmatrace.bpf.hook import Hook

HEAP = Hook(
    "heap name",
    None,
    ("dma_heap_ioctl",),
    "which heap a dma-buf came from (only its exporter is known)",
    program="heap",
    entry_only=True,
    members=("dma_heap_name",),
)


def _remover(name: str, functions: tuple[str, ...], how: str) -> Hook:
    return Hook(
        name,
        None,
        functions,
        f"that folios left the page cache by {how} (shown as other)",
        on_entry=f"remove_{how.replace(' ', '_')}",
        program="remover",
    )


# Of whichever task, so they fire for every inode that is evicted.
REMOVERS: tuple[Hook, ...] = (
    _remover("drop_caches", ("drop_caches_sysctl_handler",), "drop_caches"),
    _remover("inode eviction", ("truncate_inode_pages_final",), "unlink"),
    _remover("shmem inode eviction", ("shmem_evict_inode",), "unlink"),
    _remover("truncate", ("truncate_inode_pages_range",), "truncate"),
    _remover("shmem truncate", ("shmem_undo_range",), "truncate"),
    _remover(
        "invalidate",
        # What invalidate_mapping_pages() and fadvise(DONTNEED) call, by its newer name first.
        ("mapping_try_invalidate", "invalidate_mapping_pagevec"),
        "invalidate",
    ),
    _remover("invalidate range", ("invalidate_inode_pages2_range",), "invalidate"),
)
