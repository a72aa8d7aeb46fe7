"""The ledger's C files event by event: who removed a folio, runs, refaults, pins over time."""

from __future__ import annotations

import ctypes
from typing import Any

import bpf_host
import pytest

from dmatrace.bpf import layout
from dmatrace.bpf.constants import hook_number
from dmatrace.bpf.hooks import HOOKS
from dmatrace.bpf.hooks_ledger import HEAP, REMOVERS
from dmatrace.bpf.program import cookie
from dmatrace.bpf.resolve import Attachment
from dmatrace.phases import PHASE_ID

PAGE = 4096
DEV, INO = 0xFE00001, 77
OURS, OTHER, TGID = 10, 99, 7
PF_MEMALLOC, PF_KSWAPD = 0x800, 0x20000
_BY_NAME = {hook.name: hook for hook in HOOKS}
_REMOVER = {hook.name: hook for hook in REMOVERS}


class _Event(ctypes.Structure):
    """struct filemap_event of dialect.h."""

    _fields_ = (
        ("ino", ctypes.c_uint64), ("dev", ctypes.c_uint64), ("index", ctypes.c_uint64),
        ("order", ctypes.c_uint8),
    )  # fmt: skip


class Kernel:
    """A machine with one traced thread, and tasks that have flags."""

    def __init__(self, backend: str = "fentry") -> None:
        self.backend = backend
        self.machine = bpf_host.Machine()
        self._kept: list[Any] = []
        self.machine.follow(layout.Thread(type=layout.EV_SNAPSHOT, tid=OURS, tgid=TGID, last=100))
        self.become(OURS)

    def become(self, tid: int, flags: int = 0, clock: int = 100) -> None:
        self.machine.at(clock, tid, TGID)
        self.machine.task(self.struct("task_struct", flags=flags))

    def struct(self, name: str, /, **members: int) -> int:
        found = self.machine.struct(name, **members)
        self._kept.append(found)
        return ctypes.addressof(found)

    def _event(self, name: str, index: int, order: int, ino: int, dev: int = DEV) -> None:
        event = _Event(ino, dev, index, order)
        assert getattr(self.machine.lib, name)(ctypes.byref(event)) == 0

    def add(self, index: int = 0, order: int = 0, ino: int = INO) -> None:
        self._event("mm_filemap_add_to_page_cache", index, order, ino)

    def remove(self, index: int = 0, order: int = 0, ino: int = INO) -> None:
        self._event("mm_filemap_delete_from_page_cache", index, order, ino)

    def hook(self, name: str, *arguments: int) -> None:
        remover = _REMOVER.get(name)
        hook = remover or _BY_NAME[name]
        item = Attachment(hook, 0 if remover else hook_number(name))
        self.machine.hook(self.backend, cookie(item), *arguments, program=hook.program)

    def unhook(self, name: str, returned: int = 0) -> None:
        remover = _REMOVER.get(name)
        hook = remover or _BY_NAME[name]
        item = Attachment(hook, 0 if remover else hook_number(name))
        self.machine.unhook(self.backend, cookie(item), returned, program=hook.program)

    def mapping(self, ino: int = INO) -> int:
        host = self.struct("inode", i_ino=ino, i_sb=self.struct("super_block", s_dev=DEV))
        return self.struct("address_space", host=host)

    @property
    def thread(self) -> layout.Thread:
        found = self.machine.thread(OURS)
        assert found
        return found

    @property
    def file(self) -> layout.FilePages:
        found = self.machine.file(INO, DEV)
        assert found
        return found

    def counter(self, name: str) -> int:
        return int(self.thread.counters[layout.COUNTERS.index(name)])

    def runs(self) -> list[tuple[str, int, int]]:
        """(kind, first page, behind the last) of what was reported."""
        return [
            (layout.RUN_KINDS[record.kind], record.start // PAGE, record.end // PAGE)
            for record in self.machine.records()
            if isinstance(record, layout.Run)
        ]


def _by(found: layout.FilePages) -> dict[str, int]:
    return {name: found.by[n] for n, name in enumerate(layout.REMOVALS) if found.by[n]}


def test_folios_of_hugetlb_are_not_the_page_cache() -> None:
    """Not even where another file system has as large ones."""
    kernel = Kernel()
    huge = DEV + 1
    assert kernel.machine.lib.host_memory_dev(huge, layout.DEV_HUGETLB) == 0
    for name in ("mm_filemap_add_to_page_cache", "mm_filemap_delete_from_page_cache"):
        kernel._event(name, 0, 9, INO, huge)
    assert kernel.machine.file(INO, huge) is None
    assert (kernel.counter("cache_added_bytes"), kernel.counter("cache_removed_bytes")) == (0, 0)
    kernel.add(0, 9)
    assert kernel.counter("cache_added_bytes") == 512 * PAGE


def test_two_first_folios_of_a_file() -> None:
    """On two CPUs: both find no entry, and each counts."""
    kernel = Kernel()
    kernel.add(0)
    kernel.machine.blind("files")
    kernel.add(1)
    assert (kernel.file.added, kernel.file.peak) == (2 * PAGE, 2 * PAGE)


@pytest.mark.parametrize("backend", ["fentry", "kprobe"])
def test_who_removed_a_folio(backend: str) -> None:
    """Sizes are primes times the page, so that no two can be taken for each other."""
    kernel = Kernel(backend)
    for index in range(64):
        kernel.add(index)
    cases = [
        (OTHER, PF_MEMALLOC | PF_KSWAPD, "", "kswapd", 2),
        (OTHER, PF_MEMALLOC, "", "reclaim", 3),
        (OTHER, 0, "drop_caches", "drop_caches", 5),
        (OTHER, 0, "truncate", "truncate", 7),
        (OURS, 0, "invalidate", "invalidate", 11),
        (OTHER, 0, "inode eviction", "unlink", 13),
        (OTHER, 0, "", "other", 17),
    ]
    for tid, flags, inside, _, pages in cases:
        kernel.become(tid, flags)
        if inside:
            kernel.hook(inside)
        for _ in range(pages):
            kernel.remove()
        if inside:
            kernel.unhook(inside)
    assert _by(kernel.file) == {how: pages * PAGE for *_, how, pages in cases}
    assert kernel.file.removed == 58 * PAGE
    assert kernel.file.removed_self == 11 * PAGE
    assert kernel.file.self_by[layout.REMOVALS.index("invalidate")] == 11 * PAGE
    assert kernel.counter("cache_removed_bytes") == 11 * PAGE


def test_what_leaves_a_file_in_memory_left_no_page_cache() -> None:
    """Its folios are counted by file, and in no thread's page cache."""
    kernel = Kernel()
    kernel.add(0)
    kernel.file.shmem = 1
    kernel.hook("shmem inode eviction")
    kernel.remove()
    kernel.unhook("shmem inode eviction")
    assert kernel.file.removed == kernel.file.removed_self == PAGE
    assert kernel.counter("cache_removed_bytes") == 0
    kernel.file.shmem = 0
    kernel.add(1)
    kernel.remove()
    assert kernel.counter("cache_removed_bytes") == PAGE
    # Of one that the ledger does not know the device says it.
    assert kernel.machine.lib.host_memory_dev(DEV + 1, layout.DEV_SHMEM) == 0
    kernel._event("mm_filemap_delete_from_page_cache", 0, 0, INO, DEV + 1)
    assert kernel.counter("cache_removed_bytes") == PAGE
    kernel._event("mm_filemap_delete_from_page_cache", 0, 0, INO, DEV + 2)
    assert kernel.counter("cache_removed_bytes") == 2 * PAGE


def test_the_outermost_function_says_what_it_is() -> None:
    """drop_caches invalidates, evicting truncates; reclaim goes before both."""
    kernel = Kernel()
    kernel.add()
    kernel.hook("drop_caches")
    kernel.hook("invalidate")
    kernel.remove()
    kernel.unhook("invalidate")
    kernel.remove()  # still in drop_caches
    kernel.unhook("drop_caches")
    kernel.hook("inode eviction")
    kernel.hook("truncate")
    kernel.remove()
    kernel.become(OURS, PF_MEMALLOC)
    kernel.remove()
    kernel.become(OURS)
    kernel.unhook("truncate")
    kernel.unhook("inode eviction")
    kernel.remove()
    assert _by(kernel.file) == {
        "drop_caches": 2 * PAGE, "unlink": PAGE, "reclaim": PAGE, "other": PAGE,
    }  # fmt: skip


def test_files_that_no_traced_thread_added_to_are_elsewhere() -> None:
    kernel = Kernel()
    kernel.become(OTHER)
    kernel.add(ino=5)
    assert kernel.machine.file(5, DEV) is None
    kernel.become(OTHER, PF_KSWAPD)
    kernel.remove(order=4, ino=5)
    lost = [kernel.machine.lib.host_elsewhere(n) for n in range(layout.REMOVED_MAX)]
    assert lost == [16 * PAGE * (n == layout.REMOVALS.index("kswapd")) for n in range(8)]


def test_readahead_is_a_run_however_many_folios() -> None:
    kernel = Kernel()
    kernel.hook("page_cache_sync_ra")
    for index in range(0, 64, 4):
        kernel.add(index, order=2)
    kernel.add(100)  # elsewhere in the file
    kernel.unhook("page_cache_sync_ra")
    kernel.add(200)  # not by readahead
    assert kernel.file.added == kernel.file.added_self == 66 * PAGE
    assert kernel.file.readahead == kernel.counter("readahead_bytes") == 65 * PAGE
    assert kernel.runs() == [("readahead", 0, 64)]
    assert (kernel.thread.runs[0].start, kernel.thread.runs[0].end) == (100 * PAGE, 101 * PAGE)


def test_a_run_lasts_no_longer_than_a_tenth_of_a_second() -> None:
    kernel = Kernel()
    kernel.thread.phase = PHASE_ID["readahead"]
    kernel.add(0)
    kernel.thread.last += 99_999_999
    kernel.add(1)
    kernel.thread.last += 1
    kernel.add(2)
    assert kernel.runs() == [("readahead", 0, 2)]


@pytest.mark.parametrize("backend", ["fentry", "kprobe"])
def test_reads_of_a_file(backend: str) -> None:
    kernel = Kernel(backend)
    file = kernel.struct("file", f_mapping=kernel.mapping())

    def read(at: int, bytes_: int, already: int = 0) -> None:
        kernel.hook("filemap_read", kernel.struct("kiocb", ki_filp=file, ki_pos=at), 0, already)
        kernel.unhook("filemap_read", bytes_)

    read(0, 2 * PAGE)
    read(2 * PAGE, PAGE + 5, already=5)  # what direct I/O left of it
    read(3 * PAGE, -11)
    read(8 * PAGE, PAGE)
    assert kernel.runs() == [("read", 0, 3)]
    run = kernel.thread.runs[1]
    assert (run.ino, run.dev, run.start, run.end) == (INO, DEV, 8 * PAGE, 9 * PAGE)
    position = (ctypes.c_uint64 * 1)(9 * PAGE)
    kernel.hook("filemap_splice_read", file, ctypes.addressof(position))
    kernel.unhook("filemap_splice_read", 3 * PAGE)
    assert kernel.thread.runs[1].end == 12 * PAGE


@pytest.mark.parametrize("backend", ["fentry", "kprobe"])
def test_faults_use_a_page_and_map_others(backend: str) -> None:
    kernel = Kernel(backend)
    vma = kernel.struct("vm_area_struct", vm_file=kernel.struct("file", f_mapping=kernel.mapping()))
    kernel.hook("filemap_map_pages", kernel.struct("vm_fault", vma=vma, pgoff=21), 16, 31)
    kernel.unhook("filemap_map_pages")
    kernel.hook("filemap_fault", kernel.struct("vm_fault", vma=vma, pgoff=40))
    kernel.unhook("filemap_fault")
    assert kernel.runs() == [("read", 21, 22)]
    assert [(run.start // PAGE, run.end // PAGE) for run in kernel.thread.runs] == [
        (0, 0), (40, 41), (16, 32),
    ]  # fmt: skip


def test_a_mark_ends_the_runs() -> None:
    kernel = Kernel()
    kernel.thread.phase = PHASE_ID["readahead"]
    kernel.add(3)
    regs = kernel.machine.registers(kernel.machine.constants["MARKER"], 2, 1, 0)
    kernel.machine.raw("sys_enter", ctypes.addressof(regs), kernel.machine.constants["NR_PRCTL"])
    assert kernel.runs() == [("readahead", 3, 4)]
    assert kernel.thread.runs[0].end == 0


def test_refaults_per_file_and_thread() -> None:
    kernel = Kernel()
    kernel.add()
    kernel.hook("workingset_refault", kernel.struct("folio", mapping=kernel.mapping()))
    kernel.unhook("workingset_refault")
    kernel.hook("workingset_refault", kernel.struct("folio", mapping=0x1001))  # anonymous
    kernel.unhook("workingset_refault")
    assert kernel.file.refaulted == PAGE
    assert kernel.counter("refault_bytes") == 2 * PAGE
    assert kernel.thread.depth == 0


def test_shmem_comes_by_its_own_way_and_goes_by_the_usual_one() -> None:
    kernel = Kernel()
    kernel.hook("shmem_alloc_and_add_folio")
    kernel.unhook("shmem_alloc_and_add_folio", kernel.struct("folio", mapping=kernel.mapping()))
    assert (kernel.file.shmem, kernel.file.added, kernel.file.peak) == (1, PAGE, PAGE)
    kernel.become(OTHER)
    kernel.hook("shmem inode eviction")
    kernel.remove()
    assert _by(kernel.file) == {"unlink": PAGE}


@pytest.mark.parametrize("backend", ["fentry", "kprobe"])
def test_the_heap_that_a_buffer_came_from(backend: str) -> None:
    kernel = Kernel(backend)
    name = ctypes.create_string_buffer(b"system")
    exporter = ctypes.create_string_buffer(b"system_exp")
    heap = kernel.struct("dma_heap", name=ctypes.addressof(name))
    file = kernel.struct("file", private_data=heap)
    buffer = kernel.struct("dma_buf", size=PAGE, exp_name=ctypes.addressof(exporter))
    kernel.hook("dma_heap_buffer_alloc", file)
    kernel.machine.hook(backend, cookie(Attachment(HEAP, 0)), file, program="heap") if (
        backend == "fentry"
    ) else kernel.machine.lib.kprobe_heap_entry(kernel.machine.registers(file))
    for _ in range(2):
        kernel.hook("dma_buf_export")
        kernel.unhook("dma_buf_export", buffer)
        if kernel.thread.depth:
            kernel.unhook("dma_heap_buffer_alloc")
    found = [r for r in kernel.machine.records() if isinstance(r, layout.Buffer)]
    # The second one came from nothing that asked a heap.
    assert [(r.exporter, r.heap) for r in found] == [
        (b"system_exp", b"system"),
        (b"system_exp", b""),
    ]


def test_pins_over_time() -> None:
    """3 pages for 2 ms, 2 more for 1 ms of it, and nothing for a while."""
    kernel = Kernel()

    def change(at: int, name: str, *arguments: int, returned: int = 0) -> None:
        kernel.machine.at(at, OURS, TGID)
        kernel.hook(name, *arguments)
        kernel.unhook(name, returned)

    ms = 1_000_000
    change(5 * ms, "pin_user_pages_fast", returned=3)
    change(6 * ms, "pin_user_pages_fast", returned=2)
    lib = kernel.machine.lib
    slots = {name: getattr(layout, f"PINNED_{name}") for name in ("MOMENT", "SINCE", "NS")}
    assert lib.host_pinned(slots["SINCE"]) == 5 * ms
    assert kernel.machine.pinned == (5 * PAGE, 5 * PAGE)
    unpin = bpf_unpin(kernel)
    unpin(7 * ms, 5)
    assert lib.host_pinned(slots["NS"]) == 2 * ms
    assert lib.host_pinned(slots["SINCE"]) == 0
    assert lib.host_pinned(slots["MOMENT"]) == 3 * 2000 + 2 * 1000


def bpf_unpin(kernel: Kernel) -> Any:
    """Release pages as the end of a udmabuf does."""
    exporter = ctypes.create_string_buffer(b"udmabuf")
    kernel._kept.append(exporter)

    def unpin(at: int, pages: int) -> None:
        kernel.machine.at(at, OURS, TGID)
        buffer = kernel.struct("dma_buf", size=pages * PAGE, exp_name=ctypes.addressof(exporter))
        kernel.hook("dma_buf_release", kernel.struct("dentry", d_fsdata=buffer))
        kernel.unhook("dma_buf_release")

    return unpin
