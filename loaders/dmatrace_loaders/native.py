"""The ioctls of /dev/dmatrace_loader, the module in native/.

What each does, and why some cannot work, stands in
native/uapi/dmatrace_loader.h; the layouts here are those of its structures.
Sizes and offsets are bytes, times nanoseconds of CLOCK_MONOTONIC; failures
raise OSError with the kernel's errno.
"""

from __future__ import annotations

import enum
import fcntl
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dmatrace_loaders.errors import LoadError, ModuleMissing, Unseen

DEVICE = "/dev/dmatrace_loader"
VERSION = 1
#: The exporter's name in the buffers of ``alloc`` and ``alloc_read``.
EXPORTER = "dmatrace_loader"

#: Bytes of a gathered batch: what the proposal takes, and the limits; batches side by side.
DEFAULT_GATHER, MIN_GATHER, MAX_GATHER, MAX_JOBS = 128 << 20, 1 << 20, 1 << 30, 16

_SYSFS = Path("/sys/module/dmatrace_loader")
_RELOAD = "rmmod dmatrace_loader, then use --load-module, or make -C native load"

_QUERY = struct.Struct("=IIQQQ32x")
_RW_FILE = struct.Struct("=iiI4xQQQQQQQQ16x")
_ALLOC = struct.Struct("=QIIi4xQQ16x")
_ALLOC_READ = struct.Struct("=iIIiQQQQII9Q16x")
_STREAM = struct.Struct("=iIQQi4x16x")

_RW_DIRECT = 1 << 0
_ALLOC_DIRECT = 1 << 8
_ALLOC_VMAP = 1 << 9
_ALLOC_GATHER = 1 << 10
_ALLOC_NOZERO = 1 << 11


def _iowr(number: int, layout: struct.Struct) -> int:
    """asm-generic/ioctl.h: _IOWR(0xDB, number, layout)."""
    return 3 << 30 | layout.size << 16 | 0xDB << 8 | number


QUERY = _iowr(0, _QUERY)
RW_FILE = _iowr(1, _RW_FILE)
ALLOC = _iowr(2, _ALLOC)
ALLOC_READ = _iowr(3, _ALLOC_READ)
STREAM = _iowr(4, _STREAM)


class Feature(enum.IntFlag):
    """DMATRACE_LOADER_FEATURE_*: what a build can do on the running kernel."""

    MEMFD = 1 << 0
    SG_TABLE = 1 << 1
    VMAP_DIRECT = 1 << 2
    MMAP_INSERT = 1 << 3
    MMAP_INSERT_NO_RSS = 1 << 4
    CGROUP = 1 << 5


#: Why a feature may be missing, for users.
WHY_MISSING = {
    Feature.MEMFD: "the kernel has no memfd_pin_folios() (it came with Linux 6.11)",
    Feature.SG_TABLE: "the kernel hides buffers' pages from importers (CONFIG_DMABUF_DEBUG)",
    Feature.VMAP_DIRECT: "direct reads into vmap()ed memory fail on this kernel",
    Feature.MMAP_INSERT: "the module was built without it",
    Feature.MMAP_INSERT_NO_RSS: "no module can keep vm_insert_pages() out of RSS",
    Feature.CGROUP: "the kernel has no memory or no I/O cgroups",
}


class Mmap(enum.IntEnum):
    """DMATRACE_LOADER_MMAP_*: how mmap(2) of a buffer maps its pages."""

    PFN = 0  # as the system heap: not in RSS, no direct I/O into it
    INSERT = 1  # vm_insert_pages(): in RSS, direct I/O into it works
    INSERT_NO_RSS = 2  # refused: EOPNOTSUPP


@dataclass(frozen=True)
class Abilities:
    """DMATRACE_LOADER_QUERY; ``max_length`` is the largest buffer in bytes."""

    version: int
    page_size: int
    features: Feature
    missing: Feature
    max_length: int


@dataclass(frozen=True)
class FileRead:
    """DMATRACE_LOADER_RW_FILE: ``bytes`` read (short where the file ends), and times in ns."""

    bytes: int
    map_ns: int
    read_ns: int
    total_ns: int


@dataclass(frozen=True)
class Allocated:
    """DMATRACE_LOADER_ALLOC: a zeroed dma-buf's fd, and times in ns."""

    fd: int
    alloc_ns: int
    total_ns: int


@dataclass(frozen=True)
class Loaded:
    """DMATRACE_LOADER_ALLOC_READ: a dma-buf's fd with the file in it.

    ``bytes`` were read into ``buffer_length`` bytes, the rest is 0.  Times are
    ns; ``read_ns`` is the time with at least one read under way (gathered and
    mapped: including the mapping), ``overlap_ns`` that in which pages were
    allocated as well, ``wait_ns`` what the caller waited for workers.
    """

    fd: int
    batches: int
    buffer_length: int
    bytes: int
    alloc_ns: int
    vmap_ns: int
    read_ns: int
    zero_ns: int
    overlap_ns: int
    wait_ns: int
    total_ns: int


#: What the module reports of a call that allocates or reads.
Told = FileRead | Allocated | Loaded


class Device:
    """An open /dev/dmatrace_loader; use as a context manager or call ``close``.

    All calls may raise EBADF (a fd is not open as needed), EINVAL (a range,
    size, alignment, flag or kind of fd), ENOMEM (no memory, or the memory
    cgroup's limit) and EOPNOTSUPP (kernel, buffer or file cannot do it).
    """

    def __init__(self) -> None:
        self._fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the device; what came from it stays."""
        os.close(self._fd)

    def _call(self, number: int, layout: struct.Struct, *values: int) -> tuple[int, ...]:
        data = bytearray(layout.pack(*values))
        fcntl.ioctl(self._fd, number, data)
        return layout.unpack(data)

    def query(self) -> Abilities:
        """What this build can do on this kernel."""
        version, page, features, missing, longest = self._call(QUERY, _QUERY, 0, 0, 0, 0, 0)
        return Abilities(version, page, Feature(features), Feature(missing), longest)

    def rw_file(
        self,
        file: int,
        buffer: int,
        length: int,
        *,
        file_offset: int = 0,
        buffer_offset: int = 0,
        direct: bool = False,
        chunk: int = 0,
    ) -> FileRead:
        """Reads a range of a file into a range of a dma-buf or memfd.

        ``chunk``: bytes of one read (0: 32 MiB); SIGKILL takes effect between two.
        EBUSY: a device is attached to the dma-buf; EPERM: a sealed memfd; EIO
        and others from the file.
        """
        flags = _RW_DIRECT if direct else 0
        values = (file, buffer, flags, file_offset, buffer_offset, length, chunk, 0, 0, 0, 0)
        return FileRead(*self._call(RW_FILE, _RW_FILE, *values)[7:])

    def alloc(
        self, length: int, *, mmap: Mmap = Mmap.PFN, fd_flags: int = os.O_RDWR | os.O_CLOEXEC
    ) -> Allocated:
        """A zeroed dma-buf of ``length`` bytes, rounded up to whole pages."""
        found = self._call(ALLOC, _ALLOC, length, mmap, fd_flags, 0, 0, 0)
        return Allocated(*found[3:])

    def alloc_read(
        self,
        file: int,
        *,
        length: int = 0,
        file_offset: int = 0,
        direct: bool = False,
        vmap: bool = False,
        zero: bool = True,
        gather: int | None = None,
        jobs: int = 0,
        chunk: int = 0,
        mmap: Mmap = Mmap.PFN,
        fd_flags: int = os.O_RDWR | os.O_CLOEXEC,
    ) -> Loaded:
        """A dma-buf with ``length`` bytes of a file in it (0: to its end).

        ``gather``: bytes of a batch that a worker reads while the next is being
        allocated (0: 128 MiB; None: one read after all is allocated); ``jobs``
        batches are read side by side (0: 1).  ``vmap``: read through a mapping
        of the pages, as the proposal does.  ``zero=False``: do not ask for
        zeroed pages; what the file does not fill is zeroed all the same.
        """
        flags = int(mmap)
        flags |= _ALLOC_DIRECT if direct else 0
        flags |= _ALLOC_VMAP if vmap else 0
        flags |= _ALLOC_GATHER if gather is not None else 0
        flags |= 0 if zero else _ALLOC_NOZERO
        values = (file, flags, fd_flags, 0, file_offset, length, chunk, gather or 0, jobs)
        found = self._call(ALLOC_READ, _ALLOC_READ, *values, *[0] * 10)
        return Loaded(found[3], *found[9:])

    def stream(self, buffer: int, *, offset: int = 0, length: int = 0) -> int:
        """A write-only fd into a range of a dma-buf (0: to its end).

        It takes write(2), pwrite(2), sendfile(2) and splice(2); ENOSPC at its
        end.  EBUSY: a device is attached to the dma-buf.
        """
        return self._call(STREAM, _STREAM, buffer, os.O_CLOEXEC, offset, length, 0)[4]


def module(size: int = 0) -> None:
    """A need: the module is loaded, may be used, and speaks this version."""
    _abilities()


def feature(wanted: Feature) -> Callable[[int], None]:
    """A need: the module, and ``wanted`` among its features on this kernel."""

    def need(size: int) -> None:
        lacking = wanted & ~_abilities().features
        for bit in Feature:
            if bit & lacking:
                raise LoadError(
                    f"the loader module cannot do {bit.name} here: {WHY_MISSING[bit]}",
                    do="take a strategy that does not need it",
                    code=3,
                )

    return need


def _abilities() -> Abilities:
    if not _SYSFS.is_dir():
        raise ModuleMissing
    try:
        with Device() as device:
            found = device.query()
    except FileNotFoundError:
        raise LoadError(f"{DEVICE} is missing", do="mount devtmpfs on /dev", code=3) from None
    except PermissionError:
        raise Unseen(f"{DEVICE} may not be opened") from None
    except OSError as error:
        raise LoadError(f"{DEVICE}: {error.strerror}", do=_RELOAD, code=3) from None
    if found.version != VERSION:
        raise LoadError(
            f"the loader module is version {found.version}, this program needs {VERSION}",
            do=_RELOAD,
            code=3,
        )
    return found
