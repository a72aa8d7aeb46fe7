"""The ways that bytes take, event by event: what names them, sizes, depth, and what takes them."""

from __future__ import annotations

import ctypes

import pytest
from bpf_process import MIB, TGID, TID, TMPFS, Process

from dmatrace.bpf import layout
from dmatrace.bpf.constants import hook_number

WORKER = 70
EIOCBQUEUED, EAGAIN = 529, 11
pytestmark = pytest.mark.skipif(
    __import__("platform").machine() != "x86_64", reason="kernel lacks: x86's call numbers"
)


@pytest.mark.parametrize("backend", ["fentry", "kprobe"])
def test_reads_into_each_kind_of_memory(backend: str) -> None:
    """By the address alone, of mappings that were seen; what is unmapped is anonymous again."""
    process = Process(backend)
    model = process.file(50, "file", size=8 * MIB)
    for ino, file in (
        (60, process.dmabuf(60, 4 * MIB)),
        (61, process.file(61, "file", magic=TMPFS)),
        (62, process.file(62, "device", magic=TMPFS)),
    ):
        process.mmap(process.open(file), ino * 16 * MIB, 4 * MIB)
    # A private mapping of it is copied on write: its pages are anonymous.
    process.mmap(4, 80 * 16 * MIB, 4 * MIB, flags=2)
    for ino, size in ((60, 4096), (61, 8192), (62, 12288), (63, 5000), (80, 6000)):
        process.read(model, ino * 16 * MIB + 4096, size)
    process.end(process.call("munmap", 61 * 16 * MIB, 4 * MIB))
    process.read(model, 61 * 16 * MIB + 4096, 777)
    found = {(row["target"], row["to_ino"]): row for row in process.ways()}
    assert {key: row["bytes"] for key, row in found.items()} == {
        ("dmabuf", 60): 4096, ("shmem", 61): 8192, ("device", 62): 12288,
        ("anonymous", 0): 5000 + 6000 + 777,
    }  # fmt: skip
    row = found["dmabuf", 60]
    assert (row["way"], row["call"], row["calls"], row["size"]) == (
        "buffered",
        "pread64",
        1,
        8 * MIB,
    )
    assert (row["dev"], row["ino"], row["tgid"]) == (1, 50, TGID)
    assert found["anonymous", 0]["sizes"] == "[1, 2" + ", 0" * 14 + "]"
    said = [(row["what"], row["target"], row["ino"], row["exporter"]) for row in process.calls()]
    assert said == [
        ("mmap", "dmabuf", 60, "udmabuf"), ("mmap", "shmem", 61, ""), ("mmap", "device", 62, ""),
        ("mmap", "shmem", 61, ""), ("munmap", "unknown", 0, ""),
    ]  # fmt: skip


def test_more_mappings_than_there_is_room_for() -> None:
    """What lies in one of those that were not noted is unknown, not anonymous."""
    process = Process()
    model = process.file(50, "file", size=8 * MIB)
    fd = process.open(process.file(61, "file", magic=TMPFS))
    for number in range(layout.REGIONS_MAX):
        process.mmap(fd, (number + 1) * 16 * MIB, MIB)
    process.read(model, 1000 * 16 * MIB, 4096)
    process.mmap(fd, 1000 * 16 * MIB, MIB)
    process.read(model, 1000 * 16 * MIB, 8192)
    process.read(model, 16 * MIB, 100)
    found = {row["target"]: row["bytes"] for row in process.ways()}
    assert found == {"anonymous": 4096, "unknown": 8192, "shmem": 100}


def test_mappings_that_are_cut_or_moved() -> None:
    """What is left of one is still it; where that is not known nothing is called anonymous."""
    process = Process()
    model = process.file(50, "file", size=8 * MIB)
    fd = process.open(process.file(61, "file", magic=TMPFS))
    for place in (1, 2, 3, 4):
        process.mmap(fd, place << 40, 4 * MIB)
    for address, length in ((1 << 40, MIB), ((2 << 40) + 3 * MIB, MIB)):
        process.end(process.call("munmap", address, length))
    # Something else takes its place, without a munmap().
    process.end(process.call("mmap", 3 << 40, 4 * MIB, 3, 0x32, -1 & 0xFFFFFFFF, 0), 3 << 40)
    for address in (1 << 40, (2 << 40) + 3 * MIB, 3 << 40):
        process.read(model, address, 100)
    for address in ((1 << 40) + MIB, 2 << 40, 4 << 40):
        process.read(model, address, 1000)
    found = {row["target"]: row["bytes"] for row in process.ways()}
    assert found == {"anonymous": 300, "shmem": 3000}
    process.end(process.call("munmap", (4 << 40) + MIB, MIB))  # a hole
    process.read(model, 4 << 40, 1000)
    process.end(process.call("mremap", 2 << 40, 3 * MIB, 8 * MIB, 1))
    process.read(model, 2 << 40, 5)
    process.read(model, (4 << 40) + 2 * MIB, 7)
    found = {row["target"]: row["bytes"] for row in process.ways()}
    assert found == {"anonymous": 300, "shmem": 4000, "unknown": 12}


def test_a_small_file_is_no_load_and_a_full_map_is_lost() -> None:
    process = Process()
    process.read(process.file(50, "file", size=MIB - 1), 4096, 4096)
    assert process.ways() == []
    for number in range(65):
        process.read(process.file(100 + number, "file", size=MIB), 4096, 4096)
    assert len(process.ways()) == 64
    assert process.machine.lost >= 1


def _direct(process: Process, iocb: int, file: int, iter_: int) -> None:
    process.hook("__iomap_dio_rw", iocb, iter_, 0)
    process.at(process.clock + 10)


def test_direct_reads_wait_or_complete_later() -> None:
    """A synchronous one ends with its bytes; three asynchronous ones fly at once."""
    process = Process()
    model = process.file(50, "file", size=8 * MIB, f_flags=process.machine.constants["O_DIRECT"])
    iocb = process.struct("kiocb", ki_filp=model)
    dio = process.struct("iomap_dio", iocb=iocb)
    registers = process.call("preadv", 3, 0, 1)
    _direct(process, iocb, model, process.user(1 << 40))
    process.unhook("__iomap_dio_rw", dio)
    process.hook("iomap_dio_complete", dio)
    process.unhook("iomap_dio_complete", MIB)
    process.end(registers, MIB)
    registers = process.call("preadv", 3, 0, 1)
    for returned in (0, -22):  # at the end of the file, and refused
        _direct(process, iocb, model, process.user(1 << 40))
        process.unhook("__iomap_dio_rw", returned)
    process.end(registers, -22)

    registers = process.call("io_uring_enter", 4, 3, 0)
    flying = [process.struct("kiocb", ki_filp=model, ki_complete=1) for _ in range(4)]
    for each in flying[:3]:
        _direct(process, each, model, process.user(1 << 40))
        process.unhook("__iomap_dio_rw", -EIOCBQUEUED)
    # This one finds no room, and is not read.
    _direct(process, flying[3], model, process.user(1 << 40))
    process.unhook("__iomap_dio_rw", -EAGAIN)
    process.end(registers, 3)
    process.machine.at(process.clock + 500, 0, 0, b"swapper")
    for each in flying[:3]:
        process.machine.raw("iomap_dio_complete", each, 0, 65536)
    found = {row["call"]: row for row in process.ways()}
    assert set(found) == {"preadv", "io_uring_enter"}
    alone, ring = found["preadv"], found["io_uring_enter"]
    assert (alone["way"], alone["bytes"], alone["o_direct"]) == ("direct", MIB, True)
    assert (alone["calls"], alone["begun"], alone["depth"], alone["deepest"]) == (1, 3, 3, 1)
    assert (ring["calls"], ring["bytes"], ring["begun"]) == (3, 3 * 65536, 4)
    assert (ring["depth"], ring["deepest"], ring["largest"]) == (1 + 2 + 3 + 4, 4, 65536)
    assert all(way.flying == 0 for _, way in process.machine.ways())
    assert ring["last_ns"] == process.clock + 500


def test_registered_buffers_by_their_first_page() -> None:
    """Anonymous pages, a memfd's, and pages of no file."""
    process = Process()
    model = process.file(50, "file", size=8 * MIB)
    memfd = process.file(61, "file", magic=TMPFS)
    mapping = ctypes.c_uint64.from_address(
        memfd + process.machine.constants["OFF_file_f_mapping"]
    ).value
    for word, size in ((mapping, 100), (4097, 200), (0, 300)):
        folio = process.struct("folio", mapping=word)
        tail = process.struct("page", compound=folio | 1)
        vec = process.struct("bio_vec", bv_page=tail)
        bvec = process.machine.constants["ITER_BVEC"]
        iter_ = process.struct("iov_iter", type=bvec, iov=vec)
        registers = process.call("io_uring_enter")
        process.hook("filemap_read", process.struct("kiocb", ki_filp=model), iter_, 0)
        process.unhook("filemap_read", size)
        process.end(registers)
    found = {(row["target"], row["to_ino"], row["fixed"]): row["bytes"] for row in process.ways()}
    assert found == {
        ("shmem", 61, True): 100, ("anonymous", 0, True): 200, ("kernel", 0, True): 300,
    }  # fmt: skip


def test_passed_on_by_splice_and_sendfile() -> None:
    """sendfile names both ends; splice knows the pipe, on either side of it."""
    process = Process()
    model, memfd = process.file(50, "file", size=8 * MIB), process.file(61, "file", magic=TMPFS)
    pipe = process.file(70, "fifo")
    fds = {name: process.open(file) for name, file in (("m", model), ("s", memfd), ("p", pipe))}

    def write(size: int) -> None:
        process.hook("generic_perform_write", process.struct("kiocb", ki_filp=memfd), 0)
        process.unhook("generic_perform_write", size)

    position = process.struct("kiocb", ki_pos=0)
    registers = process.call("sendfile", fds["s"], fds["m"], 0, 4096)
    process.hook("filemap_splice_read", model, position, pipe)
    process.unhook("filemap_splice_read", 4096)
    write(4096)
    process.end(registers, 4096)
    registers = process.call("splice", fds["m"], 0, fds["p"], 0)
    process.hook("filemap_splice_read", model, position, pipe)
    process.unhook("filemap_splice_read", 8192)
    process.end(registers, 8192)
    registers = process.call("splice", fds["p"], 0, fds["s"], 0)
    write(8192)
    process.end(registers, 8192)
    registers = process.call("write", fds["s"], 0, 0)
    write(500)
    process.end(registers, 500)
    found = [
        (row["way"], row["call"], row["ino"], row["target"], row["to_ino"], row["bytes"])
        for row in process.ways()
    ]
    assert found == [
        ("spliced", "sendfile", 50, "shmem", 61, 4096),
        ("spliced", "splice", 50, "pipe", 70, 8192),
        ("written", "splice", 70, "shmem", 61, 8192),
        ("written", "write", 0, "shmem", 61, 500),
    ]


def test_faults_by_the_call_that_they_are_in() -> None:
    process = Process()
    model = process.file(50, "file", size=8 * MIB)
    vma = process.struct("vm_area_struct", vm_file=model)
    vmf = process.struct("vm_fault", vma=vma, pgoff=3)
    process.hook("filemap_fault", vmf)
    process.unhook("filemap_fault")
    registers = process.call("mmap", 0, 8 * MIB, 1, 2, 3, 0)
    process.hook("filemap_map_pages", vmf, 0, 15)
    process.unhook("filemap_map_pages")
    process.end(registers, 1 << 40)
    found = [(r["way"], r["call"], r["calls"], r["bytes"], r["target"]) for r in process.ways()]
    assert found == [("fault", "", 1, 4096, "mapping"), ("fault", "mmap", 1, 65536, "mapping")]


def test_a_worker_reads_for_its_process() -> None:
    process = Process()
    model = process.file(50, "file", size=8 * MIB)
    fd = process.open(process.file(61, "file", magic=TMPFS))
    process.mmap(fd, 1 << 40, MIB)
    thread = layout.Thread(type=layout.EV_SNAPSHOT, tid=WORKER, tgid=TGID, owner=TID, depth=1)
    thread.stack[0].hook = hook_number("io_wq_submit_work")
    process.machine.follow(thread)
    process.at(3000, WORKER)
    iocb = process.struct("kiocb", ki_filp=model, ki_flags=0x80)
    process.hook("filemap_read", iocb, process.user(1 << 40), 0)
    process.unhook("filemap_read", 4096)
    (row,) = process.ways()
    assert (row["call"], row["worker"], row["dontcache"], row["to_ino"]) == (
        "worker",
        True,
        True,
        61,
    )


def test_what_prepares_a_load_is_told() -> None:
    """Opens with their paths, advice, closes, and which memfd a udmabuf is made of."""
    process = Process()
    model, memfd = process.file(50, "file", size=8 * MIB), process.file(61, "file", magic=TMPFS)
    small, buffer = process.file(51, "file", size=100), process.dmabuf(60, 4 * MIB)
    path = ctypes.create_string_buffer(b"/data/model.gguf")
    for file in (model, small):
        registers = process.call("openat", 0, ctypes.addressof(path), 0)
        process.end(registers, process.open(file))
    process.end(process.call("openat", 0, ctypes.addressof(path), 0), -2)
    process.end(process.call("fadvise64", 3, 0, 4096, 2))
    process.end(process.call("madvise", 1 << 40, 2 * MIB, 3))
    process.end(process.call("madvise", 1 << 40, 2 * MIB, 4))
    fd = process.open(memfd)
    asked = (ctypes.c_uint64 * 3)(fd, 0, 4 * MIB)
    registers = process.call("ioctl", 9, 0x40187542, ctypes.addressof(asked))
    process.end(registers, process.open(buffer))
    process.end(process.call("close", 3))
    process.end(process.call("close", 4))
    found = process.calls()
    assert [(row["what"], row["target"], row["ino"], row["flags"]) for row in found] == [
        ("open", "file", 50, 0), ("fadvise", "file", 50, 2), ("madvise", "unknown", 0, 3),
        ("udmabuf", "dmabuf", 60, 0), ("close", "file", 50, 0),
    ]  # fmt: skip
    assert (found[0]["path"], found[0]["size"]) == ("/data/model.gguf", 8 * MIB)
    made = found[3]
    assert (made["other"], made["other_dev"], made["length"], made["size"]) == (
        61,
        2,
        4 * MIB,
        4 * MIB,
    )


def test_a_child_has_its_parents_mappings_until_it_execs() -> None:
    process = Process()
    fd = process.open(process.file(61, "file", magic=TMPFS))
    process.mmap(fd, 1 << 40, MIB)
    parent = process.struct("task_struct", pid=TID, tgid=TGID)
    child = process.struct("task_struct", pid=30, tgid=30)
    process.machine.raw("sched_process_fork", parent, child)
    copied = process.machine.regions(30)
    assert copied is not None
    assert copied.at[0].ino == 61
    process.machine.at(5000, 30, 30, b"child")
    process.machine.raw("sched_process_exec", child, 30)
    assert process.machine.regions(30) is None
    assert process.machine.regions(TGID) is not None
