"""Direct reads through io_uring, several in flight, by liburing's own C library.

The library is the one that distributions ship for languages without C's
inline functions: liburing-ffi (since liburing 2.4).
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import lru_cache

from dmatrace_loaders.errors import LoadError, Unseen
from dmatrace_loaders.reading import Source, ended
from dmatrace_loaders.udmabuf import UdmabufRead

LIBRARY = "liburing-ffi.so.2"
_DISABLED = "/proc/sys/kernel/io_uring_disabled"
_RING = 1024  # struct io_uring is 216 bytes in liburing 2.9, and may grow


class _Cqe(ctypes.Structure):
    """struct io_uring_cqe of include/uapi/linux/io_uring.h."""

    _fields_ = (
        ("user_data", ctypes.c_uint64),
        ("res", ctypes.c_int32),
        ("flags", ctypes.c_uint32),
    )


@lru_cache
def _library() -> ctypes.CDLL:
    lib = ctypes.CDLL(LIBRARY)
    ring, sqe = ctypes.c_void_p, ctypes.c_void_p
    lib.io_uring_get_sqe.restype = sqe
    lib.io_uring_get_sqe.argtypes = [ring]
    lib.io_uring_prep_read.restype = None
    lib.io_uring_prep_read.argtypes = [
        sqe, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint64
    ]  # fmt: skip
    lib.io_uring_sqe_set_data64.restype = None
    lib.io_uring_sqe_set_data64.argtypes = [sqe, ctypes.c_uint64]
    lib.io_uring_wait_cqe.argtypes = [ring, ctypes.POINTER(ctypes.POINTER(_Cqe))]
    lib.io_uring_cqe_seen.restype = None
    lib.io_uring_cqe_seen.argtypes = [ring, ctypes.POINTER(_Cqe)]
    lib.io_uring_submit.argtypes = [ring]
    lib.io_uring_queue_init.argtypes = [ctypes.c_uint, ring, ctypes.c_uint]
    lib.io_uring_queue_exit.restype = None
    lib.io_uring_queue_exit.argtypes = [ring]
    return lib


def needed(_size: int) -> None:
    """liburing-ffi, and a kernel that lets us have a ring.  Raises LoadError."""
    try:
        _library()
    except (OSError, AttributeError):
        raise LoadError(
            f"no {LIBRARY}", do="apt install liburing2 (2.4 or later)", code=3
        ) from None
    try:
        _Ring(1).close()
    except OSError as error:
        if error.errno == errno.EPERM and os.geteuid() != 0:
            raise Unseen("io_uring is not open to this user") from None
        raise LoadError(
            f"no io_uring: {error.strerror}", do=f"see {_DISABLED} (0: for everyone)", code=3
        ) from None


class _Ring:
    """One io_uring; failures raise OSError with the kernel's errno."""

    def __init__(self, depth: int) -> None:
        self._ring = ctypes.create_string_buffer(_RING)
        self._lib = _library()
        _checked(self._lib.io_uring_queue_init(depth, self._ring, 0))

    def read(self, fd: int, address: int, size: int, offset: int, name: int) -> None:
        """Queue a read of ``size`` bytes at ``offset``; ``wait`` gives its ``name``."""
        sqe = self._lib.io_uring_get_sqe(self._ring)
        self._lib.io_uring_prep_read(sqe, fd, address, size, offset)
        self._lib.io_uring_sqe_set_data64(sqe, name)

    def submit(self) -> None:
        """Hand what is queued to the kernel."""
        _checked(self._lib.io_uring_submit(self._ring))

    def wait(self) -> tuple[int, int]:
        """(name, bytes or -errno) of the next read that is done."""
        cqe = ctypes.POINTER(_Cqe)()
        while (got := self._lib.io_uring_wait_cqe(self._ring, ctypes.byref(cqe))) == -errno.EINTR:
            pass
        _checked(got)
        done = (cqe.contents.user_data, cqe.contents.res)
        self._lib.io_uring_cqe_seen(self._ring, cqe)
        return done

    def close(self) -> None:
        """Give the ring back."""
        self._lib.io_uring_queue_exit(self._ring)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


class UdmabufUring(UdmabufRead):
    """As udmabuf's read, with ``depth`` reads in flight from one thread."""

    def load(self) -> None:
        """Keep the ring full until the file has been asked for, then drain it."""
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.mapping))
        ring = _Ring(self.settings.depth)
        try:
            _read_all(ring, self.source, address, self.settings.depth)
        finally:
            ring.close()


def _read_all(ring: _Ring, source: Source, address: int, depth: int) -> None:
    """Every block to its place; on an error, whatever is in flight is waited for first."""
    flying: dict[int, int] = {}  # where the block began: where this read of it ends
    at = 0
    error: Exception | None = None
    while flying or (at < source.size and error is None):
        while error is None and at < source.size and len(flying) < depth:
            end = min(at + source.block, source.size)
            asked = source.asked(at, end)
            ring.read(source.fd, address + at, asked, source.start + at, at)
            flying[at] = end
            at = end
        ring.submit()
        start, got = ring.wait()
        end = flying.pop(start)
        reached = min(start + got, source.size)
        if got < 0:
            error = error or OSError(-got, os.strerror(-got))
        elif got == 0 or source.cut(reached, end):
            error = error or ended(source, reached)
        elif reached < end and error is None:
            asked = source.asked(reached, end)
            ring.read(source.fd, address + reached, asked, source.start + reached, reached)
            flying[reached] = end
    if error is not None:
        raise error
