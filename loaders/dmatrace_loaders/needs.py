"""What strategies need of the machine, tested by presence before anything is allocated.

Each need raises LoadError (code 3: this machine cannot do it) with the cause
and what to do.  ``size`` is the buffer's, in bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dmatrace_loaders import kernel, limits
from dmatrace_loaders.errors import LoadError, Unseen

Need = Callable[[int], None]

_MEMINFO = Path("/proc/meminfo")
_HEADROOM = 64 << 20  # what the loader, the tracer and the kernel need beside the buffer


def dma_heap(size: int) -> None:
    """A system dma-heap."""
    _device(
        kernel.HEAP,
        "no system dma-heap",
        "boot a kernel with CONFIG_DMABUF_HEAPS_SYSTEM=y",
    )


def udmabuf(size: int) -> None:
    """/dev/udmabuf, and a limit above ``size``."""
    _device(
        kernel.UDMABUF,
        "no udmabuf",
        "modprobe udmabuf, or boot a kernel with CONFIG_UDMABUF",
    )
    most, wanted = limits.udmabuf_most(), limits.UDMABUF.wanted(size)
    if most is not None and wanted is not None:
        limit = limits.UDMABUF_SIZE.read_text().strip()
        raise LoadError(
            f"udmabuf takes at most {most >> 20} MiB a buffer (size_limit_mb={limit})",
            do=f"use --raise-limits, or echo {wanted} > {limits.UDMABUF_SIZE}",
            code=3,
        )


def huge_pages(size: int) -> None:
    """Enough free huge pages of 2 MiB."""
    missing = limits.huge_pages_missing(size)
    if missing is None:
        raise LoadError(
            f"no huge pages of 2 MiB: {limits.HUGE_PAGES} is missing",
            do="boot a kernel with CONFIG_HUGETLBFS",
            code=3,
        )
    if missing:
        raise LoadError(
            f"{missing} more free huge pages of 2 MiB are needed",
            do=f"use --raise-limits, or raise {limits.HUGE.path}",
            code=3,
        )


def memory(size: int) -> None:
    """Enough memory for the buffer without pushing others out."""
    for line in _MEMINFO.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
            if size + _HEADROOM > available:
                raise LoadError(
                    f"the buffer needs {size >> 20} MiB, {available >> 20} MiB are available",
                    do="load a smaller file, or free memory",
                    code=3,
                )


#: Needs that all buffers of a load have together; the others are of each by itself.
OF_ALL: frozenset[Need] = frozenset({huge_pages, memory})


def _device(path: str, what: str, do: str) -> None:
    if not os.path.exists(path):
        raise LoadError(f"{what}: {path} is missing", do=do, code=3)
    if not os.access(path, os.R_OK | os.W_OK):
        raise Unseen(f"{path} may not be opened")
