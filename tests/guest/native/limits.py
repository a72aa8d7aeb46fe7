"""Limits hit: memory cgroups, huge pages; and that nothing is lost over many loads."""

from __future__ import annotations

import errno
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dmatrace_loaders import kernel, native
from tests.guest.native.harness import (
    DATA,
    HOW,
    MIB,
    TARGETS,
    Lacks,
    buffers,
    child_of,
    device,
    need_feature,
    opened,
    pattern,
    refused,
    shell,
    targets,
    write_file,
)

CASES: dict[str, Callable[[], None]] = {}

# -- memory cgroups ------------------------------------------------------------


@contextmanager
def _cgroup(limit: str) -> Iterator[Path]:
    root = Path("/sys/fs/cgroup")
    if "memory" not in (root / "cgroup.controllers").read_text().split():
        raise Lacks("memory cgroups")
    (root / "cgroup.subtree_control").write_text("+memory +io")
    group = root / "dmatrace-native"
    group.mkdir()
    try:
        (group / "memory.max").write_text(limit)
        (group / "memory.swap.max").write_text("0")
        yield group
    finally:
        deadline = time.monotonic() + 60
        while True:
            try:
                group.rmdir()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


def _inside(group: Path, call: Callable[[], None]) -> int:
    """Runs ``call`` in a child in the cgroup; its exit status."""

    def enter() -> None:
        (group / "cgroup.procs").write_text("0")
        call()
        os._exit(0)

    return os.waitpid(child_of(enter), 0)[1]


def _value(path: Path, key: str) -> int:
    for line in path.read_text().splitlines():
        words = line.split()
        if words[0] == key:
            return int(words[1])
    raise AssertionError(f"no {key} in {path}")


def _cgroup_limit() -> None:
    """At the limit: ENOMEM for the caller, no OOM kill, nothing kept."""
    path = write_file(DATA / "limit", pattern(96 * MIB))

    def call() -> None:
        with device() as found, opened(path) as file:
            # A buffer larger than the cgroup.
            for name in ("alloc", *HOW):
                for direct in (False, True):
                    if name == "alloc":
                        load: Callable[[], object] = partial(found.alloc, 96 * MIB)
                    else:
                        load = partial(found.alloc_read, file, direct=direct, **HOW[name])
                    refused(errno.ENOMEM, load, f"{name} {direct}")
            # One that would fit, were there not another.
            other = found.alloc(40 * MIB).fd
            refused(errno.ENOMEM, partial(found.alloc, 48 * MIB), "beside another")
            for name, options in HOW.items():
                for direct in (False, True):
                    if "gather" in options and not direct:
                        continue  # its page cache may be what does not fit: an OOM kill
                    load = partial(
                        found.alloc_read, file, direct=direct, length=48 * MIB, **options
                    )
                    refused(errno.ENOMEM, load, f"beside another: {name} {direct}")
            os.close(other)
            # What fits is still allocated, so it was the limit and nothing else.
            os.close(found.alloc(48 * MIB).fd)

    with _cgroup("64M") as group:
        assert _inside(group, call) == 0
        assert _value(group / "memory.events", "oom_kill") == 0
        assert buffers() == []
        shell("echo 3 > /proc/sys/vm/drop_caches")
        assert int((group / "memory.current").read_text()) < 16 * MIB


CASES["cgroup-limit"] = _cgroup_limit


def _cgroup_charges() -> None:
    """Workers read at the expense of the caller's cgroup: page cache and I/O."""
    size = 32 * MIB
    path = write_file(DATA / "charge", pattern(size))

    def call() -> None:
        with device() as found, opened(path) as file:
            need_feature(found, native.Feature.CGROUP)
            loaded = found.alloc_read(file, gather=4 * MIB)
            group = Path("/sys/fs/cgroup/dmatrace-native")
            # What CPUs counted of late and is little is added up every two seconds.
            deadline = time.monotonic() + 60
            while _value(group / "memory.stat", "file") < size and time.monotonic() < deadline:
                time.sleep(0.1)
            assert _value(group / "memory.stat", "file") >= size
            assert _value(group / "memory.stat", "kernel") >= 0
            assert int((group / "memory.current").read_text()) >= 2 * size
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(loaded.fd)
            os.close(found.alloc_read(file, gather=4 * MIB, direct=True).fd)
            read = sum(
                int(word.removeprefix("rbytes="))
                for word in (group / "io.stat").read_text().split()
                if word.startswith("rbytes=")
            )
            assert read >= 2 * size, read

    with _cgroup("1G") as group:
        assert _inside(group, call) == 0


CASES["cgroup-charges"] = _cgroup_charges


# -- huge pages ----------------------------------------------------------------


def _no_huge_pages() -> None:
    """A memfd of huge pages that there are none of: ENOMEM."""
    path = Path("/proc/sys/vm/nr_hugepages")
    before = path.read_text()
    path.write_text("0")
    try:
        with device() as found, opened(write_file(DATA / "huge", pattern(MIB))) as file:
            need_feature(found, native.Feature.MEMFD)
            memory = os.memfd_create("huge", os.MFD_CLOEXEC | os.MFD_HUGETLB)
            os.ftruncate(memory, 2 * MIB)
            for direct in (False, True):
                call = partial(found.rw_file, file, memory, MIB, direct=direct)
                refused(errno.ENOMEM, call, f"direct {direct}")
            os.close(memory)
    finally:
        path.write_text(before)


CASES["no-huge_pages"] = _no_huge_pages


# -- leaks ---------------------------------------------------------------------


def _free() -> int:
    """Bytes that nothing holds, once caches are dropped.

    NR_FREE_PAGES and what each processor's page lists hold: these grow by what was freed in
    one go and shrink with time (mm/page_alloc.c, nr_pcp_free() and decay_pcp_high()), and
    count as used meanwhile.
    """
    shell("sync; echo 3 > /proc/sys/vm/drop_caches; echo 1 > /proc/sys/vm/compact_memory")
    with open("/proc/zoneinfo") as lines:
        words = [line.split() for line in lines]
    pages = sum(int(line[-1]) for line in words if line[:2] == ["pages", "free"])
    pages += sum(int(line[1]) for line in words if line[:1] == ["count:"])
    return pages * mmap.PAGESIZE


def _lost(rounds: Callable[[int], None], count: int) -> list[int]:
    """Bytes gone after each of some times so many rounds, until hardly any are.

    What is lost must be lost each time; what comes back late (RCU, deferred work) is waited for.
    """
    lost = []
    for _ in range(3):
        before = _free()
        rounds(count)
        for _ in range(15):
            lost.append(before - _free())
            if lost[-1] < MIB:
                return lost
            time.sleep(1)
    return lost


def _loops() -> None:
    """As much memory is free after hundreds of loads, good and bad ones, as before."""
    size = 8 * MIB + 100
    path = write_file(DATA / "loop", pattern(size))

    def rounds(count: int) -> None:
        with device() as found, opened(path) as file:
            for turn in range(count):
                for options in HOW.values():
                    loaded = found.alloc_read(file, direct=bool(turn % 2), **options)
                    os.close(loaded.fd)
                with TARGETS["own_insert"](found, size) as buffer:
                    found.rw_file(file, buffer, size, direct=bool(turn % 2))
                    stream = found.stream(buffer)
                    os.write(stream, bytes(MIB))
                    os.close(stream)
                for target in targets(found):
                    if "huge" not in target:
                        with TARGETS[target](found, size) as buffer:
                            found.rw_file(file, buffer, size, direct=bool(turn % 2))
                refused(errno.EINVAL, partial(found.alloc_read, file, file_offset=size))

    # The first rounds fill caches, so they do not count.
    rounds(10)
    lost = _lost(rounds, 25)
    assert buffers() == []
    assert min(lost) < MIB, f"{lost} bytes are gone"


CASES["leak-loops"] = _loops


def _first_looks() -> None:
    """First reads into fresh udmabufs side by side: begin_cpu_udmabuf() leaks if two race."""
    size = 16 * MIB
    path = write_file(DATA / "first", pattern(MIB))

    def rounds(count: int) -> None:
        with device() as found, opened(path) as file:
            memory = kernel.memfd("first", size)
            for _ in range(count):
                buffer = kernel.udmabuf_create(memory, size)
                gate = threading.Barrier(4)

                def read(buffer: int = buffer, gate: threading.Barrier = gate) -> None:
                    gate.wait()
                    found.rw_file(file, buffer, 4096)

                threads = [threading.Thread(target=read) for _ in range(4)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                os.close(buffer)
            os.close(memory)

    if not os.path.exists(kernel.UDMABUF):
        raise Lacks("udmabuf")
    rounds(10)
    lost = _lost(rounds, 60)
    # One scatter list is 128 KiB (4096 entries of 32 bytes).
    assert min(lost) < MIB, f"{lost} bytes are gone"


CASES["leak-first_looks"] = _first_looks
