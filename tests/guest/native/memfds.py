"""memfds as targets: what they refuse, and memory that they have promised but not filled."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dmatrace_loaders import kernel, native
from tests.guest.native.harness import (
    DATA,
    MIB,
    PAGE,
    content,
    device,
    huge_memfd,
    need_feature,
    opened,
    pattern,
    refused,
    same,
    write_file,
)

CASES: dict[str, Callable[[], None]] = {}


def _memfd_sealed() -> None:
    with device() as found, opened(write_file(DATA / "memfd", pattern(MIB + 100))) as file:
        need_feature(found, native.Feature.MEMFD)
        for seal in (fcntl.F_SEAL_WRITE, 0x10):  # F_SEAL_FUTURE_WRITE
            memory = kernel.memfd("sealed", MIB)
            os.write(memory, b"kept")
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, seal)
            refused(errno.EPERM, partial(found.rw_file, file, memory, PAGE), f"seal {seal}")
            same(os.pread(memory, PAGE, 0), b"kept".ljust(PAGE, b"\0"), "sealed memfd")
            os.close(memory)
        memory = kernel.memfd("later", MIB)
        found.rw_file(file, memory, PAGE)
        # A read leaves nothing that keeps a memfd from being sealed.
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        os.close(memory)


def _memfd_read_only() -> None:
    with device() as found, opened(write_file(DATA / "memfd", pattern(MIB + 100))) as file:
        need_feature(found, native.Feature.MEMFD)
        memory = kernel.memfd("read-only", MIB)
        with opened(f"/proc/self/fd/{memory}") as again:
            refused(errno.EBADF, partial(found.rw_file, file, again, PAGE))
        refused(errno.EINVAL, partial(found.rw_file, file, memory, MIB + 1), "beyond the end")
        refused(errno.EINVAL, partial(found.stream, memory), "stream")
        os.close(memory)


def _memfd_not_tmpfs() -> None:
    """A file on a mounted tmpfs is a file, not a memfd."""
    path = Path("/dev/shm/native")
    path.write_bytes(bytes(MIB))
    with (
        device() as found,
        opened(write_file(DATA / "memfd", pattern(MIB + 100))) as file,
        opened(path, os.O_RDWR) as target,
    ):
        refused(errno.EINVAL, partial(found.rw_file, file, target, PAGE))
    same(path.read_bytes(), bytes(MIB), "tmpfs file")
    path.unlink()


CASES["memfd-sealed"] = _memfd_sealed
CASES["memfd-read_only"] = _memfd_read_only
CASES["memfd-not_tmpfs"] = _memfd_not_tmpfs


def _fallocated(direct: bool) -> None:
    """Pages of fallocate(2), which are cleared when first looked at: not after a read."""
    size = MIB + 100
    data = pattern(size)
    with device() as found, opened(write_file(DATA / "memfd", data)) as file:
        need_feature(found, native.Feature.MEMFD)
        for start in (0, 5 * PAGE):
            memory = kernel.memfd("fallocated", 2 * MIB)
            os.posix_fallocate(memory, 0, 2 * MIB)
            assert found.rw_file(file, memory, size, buffer_offset=start, direct=direct).bytes
            wanted = bytes(start) + data
            wanted += bytes(2 * MIB - len(wanted))
            same(content(memory, 2 * MIB), wanted, "mapping")
            same(os.pread(memory, 2 * MIB, 0), wanted, "read(2)")
            os.close(memory)


def _huge_untouched() -> None:
    """Huge pages that nobody has touched come zeroed, and no one else's are taken."""
    size = MIB + 100
    data = pattern(size)
    with (
        device() as found,
        opened(write_file(DATA / "memfd", data)) as file,
        huge_memfd(4 * MIB) as memory,
    ):
        need_feature(found, native.Feature.MEMFD)
        try:
            found.rw_file(file, memory, size, buffer_offset=PAGE)
        except OSError as error:
            # Before "mm/memfd: reserve hugetlb folios before allocation" the kernel
            # itself takes such pages only where a mapping has reserved them.
            if error.errno != errno.ENOMEM:
                raise
            return
        wanted = bytes(PAGE) + data
        same(content(memory, 4 * MIB), wanted.ljust(4 * MIB, b"\0"), "memfd")
        counts = Path("/proc/meminfo").read_text()
        assert "HugePages_Rsvd:        0" in counts, counts


CASES["memfd-fallocated_buffered"] = partial(_fallocated, False)
CASES["memfd-fallocated_direct"] = partial(_fallocated, True)
CASES["memfd-huge_untouched"] = _huge_untouched


def _resized() -> None:
    """A memfd that shrinks and grows while it is read into: EINVAL at worst."""
    size = 4 * MIB
    ended: dict[int, int] = {}
    with device() as found, opened(write_file(DATA / "memfd", pattern(size))) as file:
        need_feature(found, native.Feature.MEMFD)
        memory = os.memfd_create("resized", os.MFD_CLOEXEC)
        stop = threading.Event()

        def change() -> None:
            while not stop.is_set():
                os.ftruncate(memory, size // 3)
                os.ftruncate(memory, size)

        thread = threading.Thread(target=change)
        thread.start()
        try:
            for turn in range(150):
                try:
                    found.rw_file(file, memory, size, direct=bool(turn % 2), chunk=16 * PAGE)
                    ended[0] = ended.get(0, 0) + 1
                except OSError as error:
                    ended[error.errno or 0] = ended.get(error.errno or 0, 0) + 1
        finally:
            stop.set()
            thread.join()
        assert set(ended) <= {0, errno.EINVAL}, ended
        found.rw_file(file, memory, size)
        same(content(memory, size), pattern(size), "after it all")
        os.close(memory)


CASES["memfd-resized"] = _resized
