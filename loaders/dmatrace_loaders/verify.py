"""Comparing a loaded buffer with its file, without disturbing the page cache."""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Iterator

from dmatrace_loaders import kernel

_BLOCK = 1 << 20
SAMPLES = 16
_SECTOR = 512


def blocks(size: int, how: str, samples: int = SAMPLES) -> list[int]:
    """Offsets of the blocks to compare: all, or the first, the last and some in between."""
    every = range(0, size, _BLOCK)
    if how == "full" or len(every) <= samples + 2:
        return list(every)
    chosen = random.Random(size).sample(every[1:-1], samples)
    return sorted({every[0], *chosen, every[-1]})


def difference(
    path: str, size: int, view: memoryview, how: str, start: int = 0, samples: int = SAMPLES
) -> str | None:
    """Where ``view`` differs from ``size`` bytes of the file from ``start`` on, or None.

    What lies behind them in ``view`` must be zero.  ``how`` is "sampled" or
    "full".  The file is read with O_DIRECT where that works, so that comparing
    adds nothing to the page cache.
    """
    if len(view) < size:
        return f"the buffer holds {len(view)} of {size} bytes"
    for offset, data in _read(path, start, size, blocks(size, how, samples)):
        mine = view[offset : offset + len(data)]
        if mine != data:
            at = next(i for i, (a, b) in enumerate(zip(mine, data, strict=True)) if a != b)
            return f"byte {start + offset + at} of {start + size} differs"
        if len(data) < min(_BLOCK, size - offset):
            return f"the file ends at {start + offset + len(data)} of {start + size} bytes now"
    tail = bytes(view[size:])
    if tail.strip(b"\0"):
        return f"the {len(tail)} bytes behind the end of the file are not zero"
    return None


def _read(path: str, start: int, size: int, offsets: list[int]) -> Iterator[tuple[int, memoryview]]:
    """(offset, block) for each offset from ``start``; a shorter block is where the file ends."""
    fd = _open(path)
    try:
        with mmap.mmap(-1, _BLOCK) as buffer, memoryview(buffer) as view:
            for offset in offsets:
                got = 0
                want = min(_BLOCK, size - offset)
                while got < want:
                    more = os.preadv(fd, [view[got:]], start + offset + got)
                    got += more
                    # Direct reads end between two blocks of the disk only where the file ends.
                    if more == 0 or got % _SECTOR:
                        break
                with view[: min(got, want)] as data:
                    yield offset, data
    finally:
        os.close(fd)


def _open(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    found = kernel.dio_alignment(fd)
    if found.known and not 0 < found.offset <= _BLOCK:
        os.close(fd)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return fd
