"""What strategies need of the machine, tested by presence before anything is allocated.

Each need raises LoadError (code 3: this machine cannot do it) with the cause
and what to do.  ``size`` is the buffer's, in bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dmatrace_loaders import kernel
from dmatrace_loaders.errors import LoadError

Need = Callable[[int], None]

_PARAMETERS = Path("/sys/module/udmabuf/parameters")
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
    try:
        limit = int((_PARAMETERS / "size_limit_mb").read_text())
    except OSError:
        return
    # udmabuf_create() computes (size_limit_mb * 1024 * 1024) >> PAGE_SHIFT in an int and
    # compares it as an unsigned number: a negative one is no limit.
    product = (limit * (1 << 20) + (1 << 31)) % (1 << 32) - (1 << 31)
    if 0 <= product < size:
        raise LoadError(
            f"udmabuf takes at most {product >> 20} MiB a buffer (size_limit_mb={limit})",
            do="record with --raise-limits, or echo"
            f" {min((size >> 20) + 1, 2048)} > {_PARAMETERS}/size_limit_mb",
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


def _device(path: str, what: str, do: str) -> None:
    if not os.path.exists(path):
        raise LoadError(f"{what}: {path} is missing", do=do, code=3)
    if not os.access(path, os.R_OK | os.W_OK):
        raise LoadError(f"{what}: {path} may not be opened", do="run as root", code=3)
