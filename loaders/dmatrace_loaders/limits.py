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

    udmabuf_create() compares pages with (size_limit_mb * 1024 * 1024) >> PAGE_SHIFT, as
    unsigned numbers.  It multiplied ints before commit 021ba7f1babd ("udmabuf: fix a buf
    size overflow issue during udmabuf creation"), which stable kernels have too: so the
    kernel is asked where that makes a difference.
    """
    try:
        limit = int(UDMABUF_SIZE.read_text())
    except OSError:
        return None
    meant = limit << 20
    wrapped = (meant + (1 << 31)) % (1 << 32) - (1 << 31)
    # Negative numbers are none: as unsigned ones they are larger than any buffer.
    wide, narrow = (None if product < 0 else product for product in (meant, wrapped))
    if wide == narrow:
        return wide
    least = min(most for most in (wide, narrow) if most is not None)
    try:
        takes = kernel.udmabuf_takes(least + kernel.PAGE)
    except OSError:  # nobody who could make one asks
        return wide
    if not takes:
        return least
    return wide if least == narrow else narrow


def _udmabuf_wanted(size: int) -> int | None:
    most = udmabuf_most()
    if most is None or size <= most:
        return None
    wanted = (size >> 20) + 1
    # Enough in 64 bits; in an int, too, up to 2047, and where 2048 up to 4095 (modulo 4096)
    # come out negative: no limit.
    if wanted >= 2048 and wanted % 4096 < 2048:
        wanted += 2048 - wanted % 4096
    return wanted


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
