"""What a bio is said to read, whose bytes a call returned, when a thread was off its CPU.

The C code is the one that the kernel runs, over structures made by hand; the guest tests
do the same with real ones.
"""

from __future__ import annotations

import ctypes
import os
from itertools import pairwise
from typing import Any

import pytest
from bpf_host import Machine
from hypothesis import given, settings
from hypothesis import strategies as st

from dmatrace.bpf import layout
from dmatrace.bpf.constants import hook_number
from dmatrace.bpf.hooks import HOOKS
from dmatrace.bpf.program import cookie
from dmatrace.bpf.resolve import Attachment

TID, TGID, STRANGER = 10, 9, 99
BACKENDS = ("fentry", "kprobe")
FILE_DEV, DISK, LOWER = 0x800001, 0x800000, 0x700003
IFREG, IFBLK = 0x8000, 0x6000
TMPFS_MAGIC = 0x01021994
_BY_NAME = {hook.name: hook for hook in HOOKS}


class Kernel:
    """A thread, and structures that stay for the test."""

    def __init__(self, backend: str = "fentry", *, twice: bool = False) -> None:
        self.machine = Machine(twice=twice)
        self.backend = backend
        self._kept: list[Any] = []
        self.machine.follow(layout.Thread(type=layout.EV_SNAPSHOT, tid=TID, tgid=TGID, last=1))
        self.at(100)
        self.task = self.struct("task_struct")
        self.machine.task(self.task)
        self.disk_sb = self.struct("super_block", s_dev=FILE_DEV, s_bdev=1)

    def at(self, clock: int, tid: int = TID) -> None:
        self.machine.at(clock, tid, TGID)

    def struct(self, name: str, **members: int) -> int:
        found = self.machine.struct(name, **members)
        self._kept.append(found)
        return ctypes.addressof(found)

    def put(self, address: int, name: str, value: int) -> None:
        """Set a member behind the fact."""
        where = address + self.machine.constants[f"OFF_{name}"]
        ctypes.c_uint64.from_address(where).value = value

    def inode(self, ino: int, *, sb: int = 0, mode: int = IFREG, rdev: int = 0) -> tuple[int, int]:
        """(inode, its mapping)."""
        mapping = self.struct("address_space")
        inode = self.struct(
            "inode", i_ino=ino, i_sb=sb or self.disk_sb, i_mode=mode, i_rdev=rdev, i_mapping=mapping
        )
        self.put(mapping, "address_space_host", inode)
        return inode, mapping

    def folio(self, mapping: int) -> int:
        """A page that is a folio of its own."""
        page = self.struct("page")
        self.put(page, "folio_mapping", mapping)
        return page

    def tail_of(self, page: int) -> int:
        return self.struct("page", compound=page | 1)

    def bio(self, page: int, flags: int = 0, size: int = 4096, index: int = 0) -> int:
        vec = (ctypes.c_uint64 * 16)()
        vec[(16 * index + self.machine.constants["OFF_bio_vec_bv_page"]) // 8] = page
        self._kept.append(vec)
        bdev = self.struct("block_device", bd_dev=LOWER)
        return self.struct(
            "bio", bi_io_vec=ctypes.addressof(vec), bi_idx=index, bi_opf=flags, bi_bdev=bdev,
            bi_size=size,
        )  # fmt: skip

    def file(self, mapping: int, flags: int = 0) -> int:
        return self.struct("file", f_mapping=mapping, f_flags=flags)

    def iocb(self, file: int, *, pos: int = 0) -> int:
        return self.struct("kiocb", ki_filp=file, ki_pos=pos)

    def iter(self, address: int, count: int, *, write: bool = False) -> int:
        kind = self.machine.constants["ITER_UBUF"]
        return self.struct("iov_iter", type=kind, ubuf=address, count=count, data_source=int(write))

    def enter(self, name: str, *arguments: int) -> None:
        self.machine.hook(
            self.backend, self._cookie(name), *arguments, program=_BY_NAME[name].program
        )

    def leave(self, name: str, returned: int = 0) -> None:
        self.machine.unhook(
            self.backend, self._cookie(name), returned, program=_BY_NAME[name].program
        )

    def _cookie(self, name: str) -> int:
        return cookie(Attachment(_BY_NAME[name], hook_number(name)))

    def flag(self, name: str) -> int:
        return self.machine.constants[f"REQ_{name}"]

    def request(self, bio: int) -> layout.Request:
        """What is reported of a bio that is queued now, issued and completed."""
        self.machine.raw("block_bio_queue", bio)
        size = ctypes.c_uint32.from_address(bio + self.machine.constants["OFF_bio_bi_size"]).value
        rq = self.struct("request", bio=bio, __data_len=size)
        self.machine.raw("block_rq_issue", rq)
        self.machine.raw("block_rq_complete", rq, 0, size)
        (found,) = (r for r in self.machine.records() if isinstance(r, layout.Request))
        return found

    def counters(self) -> dict[str, int]:
        thread = self.machine.thread(TID)
        assert thread is not None
        return dict(zip(layout.COUNTERS, thread.counters, strict=False))


def _said(request: layout.Request) -> tuple[str, int, int]:
    return layout.REQUEST_KINDS[request.kind], request.file_dev, request.ino


@pytest.mark.parametrize("backend", BACKENDS)
def test_kinds(backend: str) -> None:
    kernel = Kernel(backend)
    _, mapping = kernel.inode(12)
    _, other = kernel.inode(13)
    _, device = kernel.inode(0, mode=IFBLK, rdev=DISK)
    memory_sb = kernel.struct("super_block", s_dev=0x1, s_magic=TMPFS_MAGIC)
    _, memfd = kernel.inode(14, sb=memory_sb)
    page, iocb = kernel.folio(mapping), kernel.iocb(kernel.file(mapping))
    mine, nobody = (FILE_DEV, 12), (0, 0)

    # Outside any call that reads, a page alone says nothing.
    assert _said(kernel.request(kernel.bio(page))) == ("unknown", *nobody)
    found = kernel.request(kernel.bio(page, kernel.flag("RAHEAD")))
    assert _said(found) == ("readahead", *mine)
    assert (found.dev, found.tid, found.bytes) == (LOWER, TID, 4096)

    kernel.enter("filemap_read", iocb, 0, 0)
    kernel.enter("page_cache_sync_ra", 0, 0)
    for at in (page, kernel.tail_of(page)):
        assert _said(kernel.request(kernel.bio(at))) == ("page-cache", *mine)
    assert _said(kernel.request(kernel.bio(page, index=3))) == ("page-cache", *mine)
    # ext4 reads its extents through the device's own pages, with or without the flag.
    found = kernel.request(kernel.bio(kernel.folio(device)))
    assert _said(found) == ("metadata", DISK, 0)
    assert _said(kernel.request(kernel.bio(kernel.struct("page"), kernel.flag("META")))) == (
        "metadata", *nobody,
    )  # fmt: skip
    assert _said(kernel.request(kernel.bio(page, kernel.flag("SWAP")))) == ("swap", *nobody)
    # Memory that is no folio: the word that is a folio's mapping is something else.
    stray = kernel.struct("address_space", host=kernel.struct("inode", i_mapping=1))
    assert _said(kernel.request(kernel.bio(kernel.folio(stray)))) == ("page-cache", *nobody)
    kernel.leave("page_cache_sync_ra")
    kernel.leave("filemap_read")

    kernel.enter("__iomap_dio_rw", iocb, kernel.iter(0x1000, 4096))
    # The buffer's pages are its own, a memfd's, or mapped from another file.
    for pages in (kernel.struct("page"), kernel.folio(memfd), kernel.folio(other)):
        assert _said(kernel.request(kernel.bio(pages))) == ("direct", *mine)
    assert _said(kernel.request(kernel.bio(kernel.folio(device)))) == ("metadata", DISK, 0)
    # Pinning the buffer faults another file in.
    kernel.enter("pin_user_pages_fast")
    kernel.enter("handle_mm_fault")
    kernel.enter("filemap_fault")
    assert _said(kernel.request(kernel.bio(kernel.folio(other)))) == ("page-cache", FILE_DEV, 13)
    # Swapped-in pages of a memfd have a file, and no disk of their own.
    assert _said(kernel.request(kernel.bio(kernel.folio(memfd)))) == ("unknown", *nobody)
    for name in ("filemap_fault", "handle_mm_fault", "pin_user_pages_fast", "__iomap_dio_rw"):
        kernel.leave(name)


def test_an_address_that_another_thread_s_bio_has_now_is_not_ours() -> None:
    """A loop device's worker reads what lies beneath it, with bios that were ours before."""
    kernel = Kernel()
    bio = kernel.bio(0)
    assert kernel.request(bio).bytes == 4096
    kernel.at(200, STRANGER)
    kernel.machine.raw("block_bio_queue", bio)
    request = kernel.struct("request", bio=bio, __data_len=4096)
    kernel.machine.raw("block_rq_issue", request)
    kernel.machine.raw("block_rq_complete", request, 0, 4096)
    assert kernel.machine.records() == []


_ISSUED = ("block_bio_queue", "block_rq_issue")


@pytest.mark.parametrize("missed", ["", "first", "second"])
def test_where_it_preempts_one_of_two_programs_is_enough(missed: str) -> None:
    """Each is attached twice; one that was preempted elsewhere hears of nothing on this CPU."""
    kernel = Kernel(twice=True)
    machine, sizes = kernel.machine, [4096, 8192, 12288]
    # The same address over and over, as bios of a pool are.
    bio = kernel.bio(0)
    request = kernel.struct("request", bio=bio)
    for number, size in enumerate(sizes):
        kernel.put(bio, "bio_bi_size", size)
        kernel.put(request, "request___data_len", size)
        kernel.put(request, "request___sector", 8 * number)
        for name, address in zip(_ISSUED, (bio, request), strict=True):
            for copy in ("first", "second"):
                kernel.at(1000 * number + (100 if copy == "first" else 200))
                if not (number == 1 and missed == copy):
                    machine.raw(name, address)
        kernel.at(1000 * number + 900)
        machine.raw("block_rq_complete", request, 0, size)
    found = [r for r in machine.records() if isinstance(r, layout.Request)]
    assert [r.bytes for r in found] == sizes
    late = {1: 1200} if missed == "first" else {}
    assert [r.queue_ns for r in found] == [late.get(n, 1000 * n + 100) for n in range(3)]
    assert [r.issue_ns for r in found] == [late.get(n, 1000 * n + 100) for n in range(3)]
    assert kernel.counters()["bio_read_bytes"] == sum(sizes)


def test_a_block_device_that_is_read_is_no_metadata() -> None:
    kernel = Kernel()
    _, device = kernel.inode(0, mode=IFBLK, rdev=DISK)
    _, another = kernel.inode(0, mode=IFBLK, rdev=LOWER)
    kernel.enter("filemap_read", kernel.iocb(kernel.file(device)), 0, 0)
    kernel.enter("page_cache_sync_ra", 0, 0)
    assert _said(kernel.request(kernel.bio(kernel.folio(device)))) == ("page-cache", DISK, 0)
    assert _said(kernel.request(kernel.bio(kernel.folio(another)))) == ("metadata", LOWER, 0)


def test_masks_of_compound_pages() -> None:
    """Since 7.x a tail page may hold the mask that makes its head's address of its own."""
    kernel = Kernel()
    pages = (ctypes.c_uint64 * 64)()  # 8 pages of 64 bytes, wherever they lie
    base = -(-ctypes.addressof(pages) // 256) * 256  # 4 of them, aligned to their size
    _, mapping = kernel.inode(12)
    kernel.put(base, "folio_mapping", mapping)
    kernel.put(base + 192, "page_compound", (1 << 64) - 256 | 1)
    kernel.enter("page_cache_sync_ra", 0, 0)
    assert _said(kernel.request(kernel.bio(base + 192))) == ("page-cache", FILE_DEV, 12)


def test_what_is_cut_off_a_bio_was_queued_with_it() -> None:
    kernel = Kernel()
    whole = kernel.bio(0, size=8192)
    kernel.machine.raw("block_bio_queue", whole)
    cut = kernel.bio(0, size=4096)
    kernel.put(cut, "bio_bi_private", whole)
    kernel.at(300)
    kernel.machine.raw("block_split", cut)
    kernel.at(400)
    request = kernel.struct("request", bio=cut, __data_len=4096)
    kernel.machine.raw("block_rq_issue", request)
    kernel.machine.raw("block_rq_complete", request, 0, 4096)
    (found,) = kernel.machine.records()
    assert (found.queue_ns, found.issue_ns, found.tid) == (100, 400, TID)


def test_bios_of_a_stacked_device_are_asked_for_once() -> None:
    kernel = Kernel()
    bio = kernel.bio(0, size=8192)
    kernel.machine.raw("block_bio_queue", bio)
    kernel.put(kernel.task, "task_struct_bio_list", 1)  # its driver's submit_bio runs
    kernel.machine.raw("block_bio_queue", kernel.bio(0, size=8192))
    assert kernel.counters()["bio_read_bytes"] == 8192
    kernel.put(kernel.task, "task_struct_bio_list", 0)
    kernel.machine.raw("block_bio_queue", kernel.bio(0, 1, size=4096))  # a write
    kernel.at(100, STRANGER)
    kernel.machine.raw("block_bio_queue", bio)
    assert kernel.counters()["bio_read_bytes"] == 8192


@pytest.mark.parametrize("backend", BACKENDS)
def test_bytes_of_a_file_by_path(backend: str) -> None:
    kernel = Kernel(backend)
    _, mapping = kernel.inode(12)
    plain, direct = kernel.file(mapping), kernel.file(mapping, os.O_DIRECT)

    def call(name: str, first: int, second: int = 0, third: int = 0, returned: int = 0) -> None:
        kernel.enter(name, first, second, third)
        kernel.leave(name, returned)

    call("filemap_read", kernel.iocb(plain), 0, 0, returned=1000)
    call("filemap_read", kernel.iocb(direct), 0, 300, returned=1000)  # 700 after a direct part
    call("filemap_read", kernel.iocb(direct), 0, 0, returned=-5)
    call("filemap_splice_read", plain, returned=50)
    buffer = kernel.iter(0x7000, 4096)
    call("__iomap_dio_rw", kernel.iocb(direct, pos=8192), buffer, returned=0xFFFF_8000_0000_0000)
    dio = kernel.struct("iomap_dio", iocb=kernel.iocb(direct))
    call("iomap_dio_complete", dio, returned=4096)
    call("__iomap_dio_rw", kernel.iocb(direct, pos=1), buffer, returned=-22)
    call("__iomap_dio_rw", kernel.iocb(direct), buffer, returned=-14)
    call("__iomap_dio_rw", kernel.iocb(direct), buffer, returned=-28)
    call("__blockdev_direct_IO", kernel.iocb(direct), returned=512)
    # What is written is not read.
    source = kernel.iter(0x7001, 4096, write=True)
    written = kernel.iocb(direct)
    call("__iomap_dio_rw", written, source, returned=-22)
    call("iomap_dio_complete", kernel.struct("iomap_dio", iocb=written), returned=4096)
    call("blkdev_direct_IO", written, source, returned=4096)
    call("__blockdev_direct_IO", kernel.iocb(kernel.file(mapping, os.O_RDWR)), returned=512)
    # The same kiocb, on the stack of the same system call, then reads.
    call("__iomap_dio_rw", written, buffer, returned=0xFFFF_8000_0000_0000)
    call("iomap_dio_complete", kernel.struct("iomap_dio", iocb=written), returned=100)
    found = kernel.machine.file_io(12, FILE_DEV)
    assert found is not None
    assert {name: getattr(found, name) for name in layout.FILE_IO} == {
        "direct": 4096 + 512 + 100, "direct_calls": 6, "einval": 1, "efault": 1, "errors": 1,
        "buffered": 1700, "fallback": 700, "spliced": 50, "offsets": 8192 | 4096 | 1,
        "memory": 0x7000,
    }  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pipe_before_6_3_takes_what_filemap_read_passes(backend: str) -> None:
    kernel = Kernel(backend)
    _, mapping = kernel.inode(12)
    file = kernel.file(mapping)
    kernel.enter("generic_file_splice_read", file)
    kernel.enter("filemap_read", kernel.iocb(file), 0, 0)
    kernel.leave("filemap_read", 4096)
    kernel.leave("generic_file_splice_read", 4096)
    found = kernel.machine.file_io(12, FILE_DEV)
    assert found is not None
    assert (found.spliced, found.buffered) == (4096, 0)
    counted = kernel.counters()
    assert (counted["copy_read_bytes"], counted["splice_cache_bytes"]) == (0, 4096)


@pytest.mark.parametrize("backend", BACKENDS)
def test_copies_by_what_is_around_them(backend: str) -> None:
    kernel = Kernel(backend)
    _, mapping = kernel.inode(12)
    memory = kernel.struct("super_block", s_magic=TMPFS_MAGIC)
    _, shmem = kernel.inode(13, sb=memory)
    read = kernel.iocb(kernel.file(mapping))

    def write(into: int, size: int) -> None:
        kernel.enter("generic_perform_write", kernel.iocb(kernel.file(into)))
        kernel.leave("generic_perform_write", size)

    kernel.enter("filemap_read", read, 0, 0)
    kernel.leave("filemap_read", 1)
    write(mapping, 10)
    write(shmem, 100)
    kernel.enter("iter_file_splice_write")
    write(mapping, 1000)
    write(shmem, 10000)
    kernel.leave("iter_file_splice_write")
    counted = {name: n for name, n in kernel.counters().items() if name.startswith("copy_") and n}
    assert counted == {
        "copy_read_bytes": 1, "copy_write_bytes": 11110, "copy_write_shmem_bytes": 10100,
        "copy_write_pipe_bytes": 11000, "copy_pipe_shmem_bytes": 10000,
    }  # fmt: skip


_STEPS = st.lists(
    st.tuples(st.sampled_from(["sleep", "preempt", "wake", "run"]), st.integers(10_000, 50_000)),
    max_size=30,
)


@given(_STEPS)
@settings(max_examples=60, deadline=None)
def test_waits_are_the_cells_in_time(steps: list[tuple[str, int]]) -> None:
    """Sums of blocked and runnable spans equal the thread's cells, whatever happens."""
    kernel = Kernel()
    me, other = kernel.struct("task_struct", pid=TID), kernel.struct("task_struct", pid=STRANGER)
    clock, running, asleep = 1, True, False
    for what, after in steps:
        clock += after
        kernel.at(clock)
        if what in ("sleep", "preempt") and running:
            kernel.machine.raw("sched_switch", 0, me, other, int(what == "sleep"))
            running, asleep = False, what == "sleep"
        elif what == "wake" and asleep:
            kernel.machine.raw("sched_wakeup", me)
            asleep = False
        elif what == "run" and not running:
            kernel.machine.raw("sched_switch", 0, other, me, 0)
            running = True
    if not running:
        clock += 10_000
        kernel.at(clock)
        kernel.machine.raw("sched_switch", 0, other, me, 0)
    waits = [record for record in kernel.machine.records() if isinstance(record, layout.Wait)]
    thread = kernel.machine.thread(TID)
    assert thread is not None
    cells = [sum(cell.ns[mode] for cell in thread.cells) for mode in range(3)]
    assert sum(wait.woken - wait.start for wait in waits) == cells[layout.MODE_BLOCKED]
    assert sum(wait.end - wait.woken for wait in waits) == cells[layout.MODE_RUNNABLE]
    assert all((wait.tid, wait.tgid) == (TID, TGID) for wait in waits)
    ends = [(wait.start, wait.end) for wait in waits]
    assert all(one[1] <= two[0] for one, two in pairwise(ends))


def test_short_waits_stay_in_the_cells() -> None:
    kernel = Kernel()
    me, other = kernel.struct("task_struct", pid=TID), kernel.struct("task_struct", pid=STRANGER)
    for length in (9_999, 10_000):
        kernel.at(1000)
        kernel.machine.raw("sched_switch", 0, me, other, 0)
        kernel.at(1000 + length)
        kernel.machine.raw("sched_switch", 0, other, me, 0)
    (wait,) = kernel.machine.records()
    assert isinstance(wait, layout.Wait)
    assert (wait.end - wait.start, wait.woken) == (10_000, wait.start)
