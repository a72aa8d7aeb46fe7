"""Mappings of the module's own buffers: what is in them, who counts them, what may be done."""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path

from dmatrace_loaders import kernel, native
from tests.guest.native.harness import (
    DATA,
    MIB,
    PAGE,
    TARGETS,
    content,
    device,
    forget,
    opened,
    pattern,
    refusal,
    same,
    shell,
    write_file,
)

CASES: dict[str, Callable[[], None]] = {}


def _direct_into(buffer: int, size: int, path: Path) -> None:
    with opened(path, os.O_RDONLY | os.O_DIRECT) as file:
        forget(path)
        with mmap.mmap(buffer, size) as memory:
            assert os.preadv(file, [memory], 0) == size
        cached = kernel.cachestat(file)
        assert cached is None or cached["nr_cache"] == 0


def _mmap_insert_direct() -> None:
    """read(2) with O_DIRECT into a mapping: MMAP_INSERT alone takes it."""
    data = pattern(4 * MIB, seed=3)
    path = write_file(DATA / "map", data)
    with device() as found:
        with TARGETS["own_insert"](found, 4 * MIB) as buffer:
            _direct_into(buffer, 4 * MIB, path)
            same(content(buffer, 4 * MIB), data, "buffer")
        refused = refusal(errno.EFAULT, "direct read into remap_pfn_range() memory")
        with TARGETS["own"](found, 4 * MIB) as buffer, refused:
            _direct_into(buffer, 4 * MIB, path)


CASES["mmap-insert_direct"] = _mmap_insert_direct


def _rss() -> int:
    with open("/proc/self/status") as status:
        lines = [line.split() for line in status if line.startswith(("RssFile", "RssShmem"))]
    return sum(int(line[1]) * 1024 for line in lines)


def _mmap_rss() -> None:
    """MMAP_INSERT is in RSS from mmap() to munmap(), MMAP_PFN is not."""
    size = 32 * MIB
    with device() as found:
        for name, counted in (("own", 0), ("own_insert", size)):
            with TARGETS[name](found, size) as buffer:
                before = _rss()
                with mmap.mmap(buffer, size) as memory:
                    grown = _rss() - before
                    memory[0] = 1
                assert abs(grown - counted) < MIB, f"{name}: {grown}"
                assert abs(_rss() - before) < MIB, name


CASES["mmap-rss"] = _mmap_rss


def _mmap_dontneed() -> None:
    """Pages taken out of the mapping are still the buffer's."""
    data = pattern(MIB, seed=4)
    with (
        device() as found,
        TARGETS["own_insert"](found, MIB) as buffer,
        mmap.mmap(buffer, MIB) as memory,
    ):
        memory[:] = data
        memory.madvise(mmap.MADV_DONTNEED)
        same(memory[:], data, "mapping")


CASES["mmap-dontneed"] = _mmap_dontneed


def _mmap_part_and_fork() -> None:
    """A mapping of the middle shows the middle, in a child too, after the fd is closed."""
    for name in ("own", "own_insert"):
        with device() as found:
            with TARGETS[name](found, MIB) as buffer:
                with mmap.mmap(buffer, MIB) as memory:
                    memory[:] = pattern(MIB, seed=5)
                part = mmap.mmap(buffer, 8 * PAGE, offset=16 * PAGE)
            same(part[:], pattern(MIB, seed=5)[16 * PAGE : 24 * PAGE], "part")
            child = os.fork()
            if not child:
                part[0] = 77
                wanted = pattern(MIB, seed=5)[16 * PAGE + 1 : 24 * PAGE]
                os._exit(0 if part[1:] == wanted else 1)
            assert os.waitpid(child, 0)[1] == 0
            assert part[0] == 77
            part.close()


CASES["mmap-part_and_fork"] = _mmap_part_and_fork


def _mmap_pinned_beyond_close() -> None:
    """A page given to a pipe (vmsplice) outlives the mapping and the buffer."""
    data = pattern(MIB, seed=6)
    reader, writer = os.pipe()
    with device() as found, TARGETS["own_insert"](found, MIB) as buffer:
        memory = mmap.mmap(buffer, MIB)
        memory[:] = data
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        vector = (ctypes.c_size_t * 2)(start, 2 * PAGE)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.vmsplice(writer, vector, ctypes.c_ulong(1), 0) == 2 * PAGE
        gc.collect()
        memory.close()
    same(os.read(reader, 2 * PAGE), data[: 2 * PAGE], "pipe")
    os.close(reader)
    os.close(writer)


CASES["mmap-pinned_beyond_close"] = _mmap_pinned_beyond_close


# -- what the pages are --------------------------------------------------------

_COMPOUND_HEAD, _COMPOUND_TAIL = 1 << 15, 1 << 16


def _page_flags(memory: mmap.mmap, pages: int) -> list[int]:
    """/proc/kpageflags of each page of a mapping."""
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    with open("/proc/self/pagemap", "rb") as table, open("/proc/kpageflags", "rb") as flags:
        table.seek(start // PAGE * 8)
        found = []
        for (entry,) in struct.iter_unpack("=Q", table.read(pages * 8)):
            assert entry >> 63, "a page is not there"
            flags.seek((entry & (1 << 55) - 1) * 8)
            found.append(struct.unpack("=Q", flags.read(8))[0])
    return found


def _large_pages() -> None:
    """Batches that are no multiple of 1 MiB do not end the use of large pages."""
    shell("echo 3 > /proc/sys/vm/drop_caches; echo 1 > /proc/sys/vm/compact_memory")
    path = write_file(DATA / "orders", pattern(12 * MIB))
    with device() as found, opened(path) as file:
        buffer = found.alloc_read(file, gather=3 * MIB // 2, mmap=native.Mmap.INSERT).fd
    memory = mmap.mmap(buffer, 12 * MIB)
    memory[0] = memory[0]
    flags = _page_flags(memory, 12 * MIB // PAGE)
    gc.collect()
    memory.close()
    os.close(buffer)
    runs = []
    for flag in flags:
        if flag & _COMPOUND_HEAD or not flag & _COMPOUND_TAIL:
            runs.append(1)
        else:
            runs[-1] += 1
    # Each of the 8 batches: 1 MiB in one piece, then eight of 64 KiB.
    assert runs == [256, *[16] * 8] * 8, runs


CASES["pages-large"] = _large_pages
