"""dma-bufs over time, from the events of their exports and releases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def buffers_live(buffers: pd.DataFrame) -> Iterator[tuple[int, int]]:
    """(moment, bytes of dma-bufs exported and not yet released), at each change.

    A release of a buffer whose export was not seen changes nothing.
    """
    held: dict[int, int] = {}
    total = 0
    ordered = buffers.sort_values("t_ns", kind="stable")
    names = ("t_ns", "event", "ino", "size")
    for at, event, ino, size in zip(*(ordered[name].tolist() for name in names), strict=True):
        if event == "export":
            total += size - held.get(ino, 0)
            held[ino] = size
        else:
            total -= held.pop(ino, 0)
        yield at, total
