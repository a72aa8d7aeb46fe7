"""Rows of the hook table for whoever follows every process that uses dma-bufs."""

from __future__ import annotations

from dmatrace.bpf.hook import Hook


def _asking(name: str, function: str, what: str) -> Hook:
    return Hook(
        name, None, (function,), f"processes that ask for {what} (followed only by their number)",
        program="newcomer", entry_only=True,
    )  # fmt: skip


NEWCOMERS: tuple[Hook, ...] = (
    _asking("who asks a dma-heap", "dma_heap_ioctl", "a buffer of a dma-heap"),
    _asking("who asks udmabuf", "udmabuf_ioctl", "a udmabuf"),
)
