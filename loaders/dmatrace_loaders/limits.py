"""System limits that strategies meet, and what to set them to for a buffer to fit.

Nothing here changes anything: whoever raises a limit restores it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dmatrace_loaders import kernel

UDMABUF_SIZE = Path("/sys/module/udmabuf/parameters/size_limit_mb")
HUGE_PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")


@dataclass(frozen=True)
class Limit:
    """A number in sysfs; ``wanted(size)`` is what it must be for ``size`` bytes, None if it is."""

    path: Path
    wanted: Callable[[int], int | None]


def udmabuf_most() -> int | None:
    """The largest udmabuf in bytes, None for any.

    udmabuf_create() computes (size_limit_mb * 1024 * 1024) >> PAGE_SHIFT in an int and
    compares it as an unsigned number: a negative one is no limit.
    """
    try:
        limit = int(UDMABUF_SIZE.read_text())
    except OSError:
        return None
    product = (limit * (1 << 20) + (1 << 31)) % (1 << 32) - (1 << 31)
    return None if product < 0 else product


def _udmabuf_wanted(size: int) -> int | None:
    most = udmabuf_most()
    if most is None or size <= most:
        return None
    # 2048 wraps to a negative number and so to no limit at all, 4096 would wrap to zero.
    return min((size >> 20) + 1, 2048)


def huge_pages_missing(size: int) -> int | None:
    """How many 2 MiB pages ``size`` bytes want beyond the free ones, None without hugetlb."""
    try:
        free = int((HUGE_PAGES / "free_hugepages").read_text())
        reserved = int((HUGE_PAGES / "resv_hugepages").read_text())
    except OSError:
        return None
    return max(0, -(-size // kernel.HUGE_PAGE) - (free - reserved))


def _huge_wanted(size: int) -> int | None:
    missing = huge_pages_missing(size)
    if not missing:
        return None
    return int((HUGE_PAGES / "nr_hugepages").read_text()) + missing


UDMABUF = Limit(UDMABUF_SIZE, _udmabuf_wanted)
HUGE = Limit(HUGE_PAGES / "nr_hugepages", _huge_wanted)
