"""What the loaders need: buffers, files, and calls that only some kernels have."""

from __future__ import annotations

import os
from collections.abc import Iterator

from dmatrace.session.doctor.check import (
    SUDO,
    Finding,
    Machine,
    degraded,
    missing,
    ok,
    unknown,
)
from dmatrace.sizes import format_size
from dmatrace_loaders import kernel, limits

_UDMABUF = "sys/module/udmabuf/parameters"
_INT = 1 << 32


def heaps(machine: Machine) -> Iterator[Finding]:
    """Each dma-heap."""
    directory = machine.root / "dev/dma_heap"
    try:
        names = sorted(os.listdir(directory))
    except PermissionError:
        yield unknown()
        return
    except OSError:
        names = []
    if not names:
        yield missing(
            "no /dev/dma_heap",
            "boot a kernel with CONFIG_DMABUF_HEAPS_SYSTEM=y",
            hides="the strategies dmabuf-* without the loader module",
        )
    for name in names:
        path = directory / name
        if os.access(path, os.R_OK | os.W_OK):
            yield ok(f"/dev/dma_heap/{name}", name=name)
        else:
            yield unknown(f"/dev/dma_heap/{name} may not be opened", SUDO, name=name)


def udmabuf(machine: Machine) -> Finding:
    """The device that makes dma-bufs of memfds."""
    path = machine.root / "dev/udmabuf"
    if not os.path.lexists(path):
        return missing(
            "no /dev/udmabuf",
            "modprobe udmabuf, or boot a kernel with CONFIG_UDMABUF=y",
            hides="the strategies udmabuf-*",
        )
    if not os.access(path, os.R_OK | os.W_OK):
        return unknown("/dev/udmabuf may not be opened", SUDO)
    return ok("/dev/udmabuf")


def size_limit(machine: Machine) -> Finding:
    """udmabuf's largest buffer, as this kernel computes it."""
    value = machine.number(f"{_UDMABUF}/size_limit_mb")
    if value is None:
        return missing("no udmabuf")
    return size_finding(value, limits.udmabuf_most())


def size_finding(value: int, most: int | None) -> Finding:
    """``value`` is size_limit_mb, ``most`` the bytes it comes to (None: any).

    The kernel multiplies by 1 MiB, in an int or in 64 bits.
    """
    text = f"size_limit_mb={value}"
    if most is None:
        if value < 0 or value << 20 < _INT // 2:
            return ok(f"{text}: any size")
        return degraded(f"{text} comes out negative in this kernel's int: any size", "")
    said = f"{text}: up to {format_size(most)} a buffer"
    if most != value << 20:
        return degraded(
            f"{said}, because it overflows this kernel's int",
            f"echo 2047 > /{_UDMABUF}/size_limit_mb, or use --raise-limits",
        )
    if value <= 64:
        return degraded(said, "use --raise-limits for larger files")
    return ok(said)


def list_limit(machine: Machine) -> Finding:
    """udmabuf's most items in UDMABUF_CREATE_LIST: an int compared as an unsigned number."""
    value = machine.number(f"{_UDMABUF}/list_limit")
    if value is None:
        return missing("no udmabuf")
    if value < 0:
        return ok(f"list_limit={value}: any number of items (it is compared as unsigned)")
    if value == 0:
        return degraded("list_limit=0: UDMABUF_CREATE_LIST is refused", f"raise /{_UDMABUF}")
    return ok(f"list_limit={value} memfd ranges a buffer")


def memfd(_machine: Machine) -> Finding:
    """A memfd that can be sealed."""
    try:
        os.close(os.memfd_create("dmatrace", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    except OSError as error:
        return missing(f"memfd_create: {error.strerror}", "boot a kernel with CONFIG_MEMFD_CREATE")
    return ok("memfd_create(2), sealing")


def huge_pages(machine: Machine) -> Finding:
    """Free huge pages of 2 MiB."""
    place = "sys/kernel/mm/hugepages/hugepages-2048kB"
    free = machine.number(f"{place}/free_hugepages")
    if free is None:
        return missing("no huge pages of 2 MiB", "boot a kernel with CONFIG_HUGETLBFS=y")
    free -= machine.number(f"{place}/resv_hugepages") or 0
    if free <= 0:
        return degraded("none is free", "use --raise-limits, which reserves and returns them")
    return ok(f"{free} free, {format_size(free * kernel.HUGE_PAGE)}")


def io_uring(machine: Machine) -> Finding:
    """kernel.io_uring_disabled: 1 leaves it to a group, 2 to nobody."""
    value = machine.number("proc/sys/kernel/io_uring_disabled")
    if value == 2:
        return missing("io_uring_disabled=2", "sysctl kernel.io_uring_disabled=0")
    if value == 1:
        return degraded("io_uring_disabled=1", "sysctl kernel.io_uring_disabled=0")
    return ok("not disabled")


def cachestat(_machine: Machine) -> Finding:
    """cachestat(2), which the page cache's figures are compared with."""
    try:
        with open(__file__, "rb") as own:
            found = kernel.cachestat(own.fileno())
    except OSError as error:
        return missing(f"cachestat(2): {error.strerror}")
    if found is None:
        return missing(
            "no cachestat(2)",
            "boot Linux 6.5 or later",
            hides="a second opinion on what the page cache holds, and what it held before a load",
        )
    return ok("cachestat(2)")


def drop_caches(machine: Machine) -> Finding:
    """What makes a load cold."""
    path = machine.root / "proc/sys/vm/drop_caches"
    if not path.exists():
        return missing("no /proc/sys/vm/drop_caches", "use --cache warm")
    if machine.uid and not os.access(path, os.W_OK):
        return unknown(do=SUDO)
    if not os.access(path, os.W_OK):
        return missing("/proc/sys/vm/drop_caches may not be written", "use --cache warm")
    return ok("/proc/sys/vm/drop_caches")


def direct_io(machine: Machine) -> Finding:
    """What O_DIRECT wants of the file that was named."""
    if machine.file is None:
        return unknown("no file was named", "use --file PATH")
    fd = os.open(machine.file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if kernel.in_memory_only(fd):
            return missing(
                "its file system lies in memory: O_DIRECT is accepted and copies all the same",
                "put the file on a disk",
            )
        return alignment(kernel.dio_alignment(fd))
    finally:
        os.close(fd)


def alignment(found: kernel.DirectIo) -> Finding:
    """What statx(STATX_DIOALIGN) says."""
    if not found.known:
        return degraded(
            "the kernel or its file system does not say (statx, STATX_DIOALIGN): 512 is tried",
            "boot Linux 6.1 or later, and use ext4, xfs, btrfs or f2fs",
        )
    if not found.offset or not found.memory:
        return missing("this file takes no direct I/O", "use the strategies *-bio, or another disk")
    return ok(f"memory {found.memory} bytes, offset and length {found.offset} bytes")
