"""File systems whose folios are memory, and no figure of the page cache may count them.

hugetlb adds its folios to a mapping as files do (hugetlb_add_to_page_cache() in
mm/hugetlb.c), so the tracepoint is theirs, too; but they are memory that was set
aside, and NR_FILE_PAGES, which is Cached in /proc/meminfo, leaves them out
(__filemap_add_folio() in mm/filemap.c).  shmem's have a way in of their own
(shmem_add_to_page_cache() in mm/shmem.c) and the tracepoint on their way out.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from dmatrace.bpf import layout

_SIZES = Path("/sys/kernel/mm/hugepages")
_MOUNTS = Path("/proc/self/mountinfo")
_SHIFT = 26  # MFD_HUGE_SHIFT
_KINDS = {"hugetlbfs": layout.DEV_HUGETLB, "tmpfs": layout.DEV_SHMEM}


def devices() -> dict[int, int]:
    """{the kernel's dev_t: DEV_HUGETLB or DEV_SHMEM}, the kernel's own first.

    One is the kernel's own for memfds, and one for each size of huge pages; others are mounted
    where this process sees them.
    """
    found: dict[int, int] = {}
    flags = {0: layout.DEV_SHMEM}
    for size in _SIZES.glob("hugepages-*kB"):
        kib = int(size.name.removeprefix("hugepages-").removesuffix("kB"))
        order = (kib << 10).bit_length() - 1
        flags[os.MFD_HUGETLB | order << _SHIFT] = layout.DEV_HUGETLB
    for flag, kind in flags.items():
        # Empty, it takes no page.
        with suppress(OSError):
            fd = os.memfd_create("dmatrace", os.MFD_CLOEXEC | flag)
            dev = os.fstat(fd).st_dev
            os.close(fd)
            found[layout.kernel_dev(os.major(dev), os.minor(dev))] = kind
    with suppress(OSError):
        for line in _MOUNTS.read_text().splitlines():
            before, _, after = line.partition(" - ")
            name = after.partition(" ")[0]
            if name in _KINDS:
                major, minor = before.split()[2].split(":")
                found[layout.kernel_dev(int(major), int(minor))] = _KINDS[name]
    return found
