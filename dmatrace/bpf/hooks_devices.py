"""Rows of the hook table for devices that use a dma-buf; they open no phase."""

from __future__ import annotations

from dmatrace.bpf.hook import Hook

_MEMBERS = (
    "dma_buf_attachment_dmabuf", "dma_buf_attachment_dev", "device_init_name", "device_name",
)  # fmt: skip
DEVICES: tuple[Hook, ...] = (
    Hook(
        "device attach",
        None,
        # dma_buf_attach() is a call of it.
        ("dma_buf_dynamic_attach",),
        "which devices attach to dma-bufs (their waterfalls have none)",
        program="device_attach",
        exit_only=True,
        members=_MEMBERS,
    ),
    Hook(
        "device detach",
        None,
        ("dma_buf_detach",),
        "when devices detach from dma-bufs (their waterfalls do not say it)",
        program="device_detach",
        entry_only=True,
        members=_MEMBERS,
    ),
)
