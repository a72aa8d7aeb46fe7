"""The system calls and ioctls that loaders need and Python does not have.

Sizes and offsets are bytes; failures raise OSError with the kernel's errno.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from dataclasses import dataclass

PAGE = mmap.PAGESIZE
HEAP = "/dev/dma_heap/system"
UDMABUF = "/dev/udmabuf"
HUGE_PAGE = 2 << 20

_libc = ctypes.CDLL(None, use_errno=True)

# include/uapi/linux/dma-heap.h: _IOWR('H', 0, struct dma_heap_allocation_data)
_HEAP_ALLOC = 0xC0184800
_HEAP_DATA = struct.Struct("=QIIQ")  # len, fd, fd_flags, heap_flags

# include/uapi/linux/udmabuf.h: _IOW('u', 0x42, struct udmabuf_create)
_UDMABUF_CREATE = 0x40187542
_UDMABUF_DATA = struct.Struct("=IIQQ")  # memfd, flags, offset, size
_UDMABUF_CLOEXEC = 1
_NO_FD = 0xFFFFFFFF

# include/uapi/linux/dma-buf.h: _IOW('b', 0, struct dma_buf_sync)
_DMA_BUF_SYNC = 0x40086200
_SYNC_READ, _SYNC_WRITE, _SYNC_END = 1, 2, 4

# The same number on every architecture since 5.x (the common table).
_SYS_CACHESTAT = 451
_SYS_STATX = {"x86_64": 332, "aarch64": 291}
_STATX_DIOALIGN = 0x2000
_AT_EMPTY_PATH = 0x1000
# include/uapi/linux/fs.h, since Linux 6.14
RWF_DONTCACHE = 0x80
# include/uapi/asm-generic/mman-common.h, since Linux 5.14
_MADV_POPULATE_READ = 22
_TMPFS_MAGIC, _RAMFS_MAGIC = 0x01021994, 0x858458F6


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def map_own_code() -> None:
    """Read in and map all of this program and its libraries.

    What is mapped stays in memory when the page cache is dropped; code that runs for the
    first time in a load would be read from disk as part of that load.  Kernels before
    5.14 cannot (EINVAL), and a file that ends before its mapping is left there (EFAULT).
    """
    with open("/proc/self/maps") as lines:
        for line in lines:
            place, mode, _, _, inode, *_ = line.split(maxsplit=5)
            if mode[0] == "r" and mode[3] == "p" and inode != "0":
                start, end = (int(address, 16) for address in place.split("-"))
                size = ctypes.c_size_t(end - start)
                _libc.madvise(ctypes.c_void_p(start), size, _MADV_POPULATE_READ)


def page_round(size: int) -> int:
    """``size`` rounded up to whole pages."""
    return -(-size // PAGE) * PAGE


def heap_alloc(size: int, heap: str = HEAP) -> int:
    """DMA_HEAP_IOCTL_ALLOC: a new dma-buf's fd."""
    fd = os.open(heap, os.O_RDWR | os.O_CLOEXEC)
    try:
        data = bytearray(_HEAP_DATA.pack(size, 0, os.O_RDWR | os.O_CLOEXEC, 0))
        fcntl.ioctl(fd, _HEAP_ALLOC, data)
        return int(_HEAP_DATA.unpack(data)[1])
    finally:
        os.close(fd)


def udmabuf_create(memfd: int, size: int) -> int:
    """UDMABUF_CREATE over the first ``size`` bytes (whole pages): a new dma-buf's fd."""
    fd = os.open(UDMABUF, os.O_RDWR | os.O_CLOEXEC)
    try:
        # A mutable buffer, because ioctl() then returns the kernel's int: the new fd.
        data = bytearray(_UDMABUF_DATA.pack(memfd, _UDMABUF_CLOEXEC, 0, size))
        return int(fcntl.ioctl(fd, _UDMABUF_CREATE, data))
    finally:
        os.close(fd)


def udmabuf_takes(size: int) -> bool:
    """Whether a udmabuf of ``size`` bytes (whole pages) is within the limit; none is made.

    Asked for without a memfd: udmabuf_create() looks at the size first (EINVAL), and
    takes no page before it has the memfd (EBADF, EBADFD).  Raises OSError where the
    kernel does not come to that.
    """
    try:
        os.close(udmabuf_create(_NO_FD, size))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EBADFD):
            raise
        return error.errno != errno.EINVAL
    return True


def sync_start(dmabuf: int, *, write: bool) -> None:
    """DMA_BUF_IOCTL_SYNC before the CPU touches the mapping."""
    _sync(dmabuf, _SYNC_WRITE if write else _SYNC_READ)


def sync_end(dmabuf: int, *, write: bool) -> None:
    """DMA_BUF_IOCTL_SYNC after the CPU touched the mapping."""
    _sync(dmabuf, (_SYNC_WRITE if write else _SYNC_READ) | _SYNC_END)


def _sync(dmabuf: int, flags: int) -> None:
    fcntl.ioctl(dmabuf, _DMA_BUF_SYNC, struct.pack("=Q", flags))


def memfd(name: str, size: int, *, huge: bool = False) -> int:
    """A memfd of ``size`` bytes (whole pages) that cannot shrink, as udmabuf demands.

    ``huge`` takes pages of 2 MiB from hugetlb.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    if huge:
        flags |= os.MFD_HUGETLB | os.MFD_HUGE_2MB
    fd = os.memfd_create(name, flags)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    except OSError:
        os.close(fd)
        raise
    return fd


def cachestat(fd: int) -> dict[str, int] | None:
    """cachestat(2) of a whole file, in pages, plus "cached" in bytes; None before Linux 6.5."""
    span = (ctypes.c_uint64 * 2)(0, 0)  # length 0: to the end
    found = (ctypes.c_uint64 * 5)()
    if _libc.syscall(_SYS_CACHESTAT, fd, ctypes.byref(span), ctypes.byref(found), 0) < 0:
        if ctypes.get_errno() == errno.ENOSYS:
            return None
        _checked(-1)
    names = ("nr_cache", "nr_dirty", "nr_writeback", "nr_evicted", "nr_recently_evicted")
    result = dict(zip(names, found, strict=True))
    result["cached"] = result["nr_cache"] * PAGE
    return result


@dataclass(frozen=True)
class DirectIo:
    """What O_DIRECT wants of a file, in bytes; zeros where it is not supported."""

    memory: int
    offset: int
    known: bool


def dio_alignment(fd: int) -> DirectIo:
    """statx(STATX_DIOALIGN); ``known`` is False where kernel or file system do not say."""
    number = _SYS_STATX.get(os.uname().machine)
    buffer = ctypes.create_string_buffer(256)
    if number is None or (
        _libc.syscall(number, fd, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, buffer) < 0
    ):
        return DirectIo(512, 512, False)
    (mask,) = struct.unpack_from("=I", buffer, 0)
    if not mask & _STATX_DIOALIGN:
        return DirectIo(512, 512, False)
    memory, offset = struct.unpack_from("=II", buffer, 0x98)
    return DirectIo(memory, offset, True)


def in_memory_only(fd: int) -> bool:
    """Whether a file lies on tmpfs or ramfs, which accept O_DIRECT and copy all the same.

    Linux kernel commit e88e0d366f9c "tmpfs: trivial support for direct IO" (in v6.6).
    """
    buffer = ctypes.create_string_buffer(256)
    _checked(_libc.fstatfs(fd, buffer))
    (kind,) = struct.unpack_from("l", buffer, 0)
    # f_type is as wide as a long; where that is 32 bits, ramfs's number comes out negative.
    return kind & 0xFFFFFFFF in (_TMPFS_MAGIC, _RAMFS_MAGIC)


def die_with_parent() -> None:
    """PR_SET_PDEATHSIG: SIGKILL when the recorder is gone, however it went."""
    _checked(_libc.prctl(1, 9, 0, 0, 0))
