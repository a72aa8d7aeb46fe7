"""The file systems of huge pages, whose folios no figure of the page cache may count.

hugetlb adds its folios to a mapping as files do (hugetlb_add_to_page_cache() in
mm/hugetlb.c), so the tracepoint is theirs, too; but they are memory that was set
aside, and NR_FILE_PAGES, which is Cached in /proc/meminfo, leaves them out
(__filemap_add_folio() in mm/filemap.c).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from dmatrace.bpf import layout

_SIZES = Path("/sys/kernel/mm/hugepages")
_SHIFT = 26  # MFD_HUGE_SHIFT


def devices() -> set[int]:
    """The kernel's dev_t of each: one is the kernel's own for every size, others are mounted."""
    found = set()
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            if after.startswith("hugetlbfs "):
                major, minor = before.split()[2].split(":")
                found.add(layout.kernel_dev(int(major), int(minor)))
    for size in _SIZES.glob("hugepages-*kB"):
        kib = int(size.name.removeprefix("hugepages-").removesuffix("kB"))
        order = (kib << 10).bit_length() - 1
        # Empty, it takes no page.
        with suppress(OSError):
            fd = os.memfd_create("dmatrace", os.MFD_CLOEXEC | os.MFD_HUGETLB | order << _SHIFT)
            dev = os.fstat(fd).st_dev
            os.close(fd)
            found.add(layout.kernel_dev(os.major(dev), os.minor(dev)))
    return found
