"""Exported dma-bufs are told once: by the kernel's tracepoint, else by the hooked function."""

from __future__ import annotations

import pytest

from dmatrace.bpf.hook import EXIT_HANDLERS, Hook
from dmatrace.bpf.hooks import DMABUF_TAP, HOOKS
from dmatrace.bpf.program import cookie
from dmatrace.bpf.resolve import Attachment, describe, without_double

(EXPORT,) = (hook for hook in HOOKS if hook.name == "dma_buf_export")
OTHERS = [(hook, n) for n, hook in enumerate(HOOKS, start=1) if hook is not EXPORT]


def _export(present: bool, without: tuple[str, ...] = ()) -> Hook:
    hooks = [(EXPORT, 99), *OTHERS]
    found = without_double(hooks, [(DMABUF_TAP, present)], without)
    # The others are left alone.
    assert found[1:] == OTHERS
    return found[0][0]


def _said(present: bool, backend: str | None, without: tuple[str, ...] = ()) -> dict[str, object]:
    item = Attachment(_export(present, without), 99, "dma_buf_export", backend)
    rows = describe([item], [(DMABUF_TAP, present)])
    (row,) = (row for row in rows if row["name"] == DMABUF_TAP.name)
    return row


@pytest.mark.parametrize(
    ("present", "without", "handler"),
    [(True, (), "none"), (False, (), "export"), (False, (DMABUF_TAP.name,), "none")],
)
def test_who_tells(present: bool, without: tuple[str, ...], handler: str) -> None:
    item = Attachment(_export(present, without), 99, "dma_buf_export", "fentry")
    assert EXIT_HANDLERS[cookie(item) >> 32 & 0xFF] == handler
    assert item.hook.phase == "export"


def test_what_the_recording_says() -> None:
    assert _said(True, "fentry")["attached"] == "tracepoint"
    assert _said(True, None)["attached"] == "tracepoint"
    instead = _said(False, "kprobe")
    assert (instead["attached"], instead["function"]) == ("kprobe", "dma_buf_export")
    assert instead["hides"] is None
    for row in (_said(False, None), _said(False, "fentry", (DMABUF_TAP.name,))):
        assert (row["attached"], row["hides"]) == (None, DMABUF_TAP.hides)
