"""Runs in the guest: reads that are easily counted wrong, each by a child of its own.

usage: hard_reads.py DIRECTORY

DIRECTORY has the files; what a case needs and is not there skips it.  On stdout, as JSON:
{case: what its processes and others say of it}.  Clocks are CLOCK_MONOTONIC, in ns.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator

# Not by a child: its file would be added to the page cache.
from concurrent.futures.thread import ThreadPoolExecutor
from pathlib import Path
from typing import Any

MIB = 1 << 20
PAGE = mmap.PAGESIZE
SHORT, CALLS = 128, 10_000
POOL = 8
READERS = 3
HUGE = 6 * MIB
BUSY_S = 1.5
CPU = Path("/sys/devices/system/cpu/cpu1/online")
_ASYNC = 1 << 4  # IOSQE_ASYNC, include/uapi/linux/io_uring.h
_COMPOUND = 1 << 15 | 1 << 16  # KPF_COMPOUND_HEAD and _TAIL, include/uapi/linux/kernel-page-flags.h
_PFN = (1 << 55) - 1  # Documentation/admin-guide/mm/pagemap.rst
_libc = ctypes.CDLL(None, use_errno=True)

Said = dict[str, Any]
Work = Callable[[], Any]


# --- what the children do


def memory(size: int) -> mmap.mmap:
    """Anonymous; what is shared would be shmem."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def whole(path: Path, flags: int = 0, block: int = MIB, forget: bool = True) -> int:
    """Bytes that read(2) returned, in blocks, from start to end."""
    fd, total = os.open(path, os.O_RDONLY | flags), 0
    if forget:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    with memory(block) as buffer:
        while got := os.preadv(fd, [buffer], total):
            total += got
    os.close(fd)
    return total


def mapped(path: Path) -> int:
    """Touch every page of a mapping."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as pages:
        size = len(pages)
        for offset in range(0, size, PAGE):
            pages[offset]
    os.close(fd)
    return size


def pool(path: Path) -> int:
    """A MiB each by one of a pool's threads, by O_DIRECT."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)

    def part(offset: int) -> int:
        with memory(MIB) as buffer:
            return os.preadv(fd, [buffer], offset)

    # None is idle, and takes another's part, before all of them are there.
    there = threading.Barrier(POOL)
    with ThreadPoolExecutor(POOL, initializer=there.wait) as threads:
        return sum(threads.map(part, range(0, os.fstat(fd).st_size, MIB)))


def ring(path: Path, flags: int = 0) -> int:
    """By workers of io_uring: every request is handed to one at once."""
    loading.Ring().read(loading.opened(str(path), flags), loading.anonymous(), 22, _ASYNC)
    return loading.SIZE


def hugetlb(path: Path) -> int:
    """By O_DIRECT into huge pages of a memfd."""
    target = os.memfd_create("huge", os.MFD_HUGETLB)
    os.truncate(target, HUGE)
    fd, total = os.open(path, os.O_RDONLY | os.O_DIRECT), 0
    with mmap.mmap(target, HUGE) as pages:
        while total < HUGE:
            total += os.preadv(fd, [memoryview(pages)[total : total + MIB]], total)
    os.close(fd)
    return total


def huge_tmpfs(path: Path) -> int:
    """Written and read again."""
    with open(path, "wb", buffering=0) as file:
        for _ in range(HUGE // MIB):
            file.write(b"x" * MIB)
    return whole(path, forget=False)


def short(path: Path) -> int:
    """As fast as it goes."""
    fd = os.open(path, os.O_RDONLY)
    total = sum(len(os.pread(fd, SHORT, offset)) for offset in range(0, CALLS * SHORT, SHORT))
    os.close(fd)
    return total


def busy() -> int:
    """As long on the CPU as asleep."""
    end = time.monotonic() + BUSY_S
    while time.monotonic() < end:
        pass
    time.sleep(BUSY_S)
    return 0


# --- who starts them and asks others


class Child:
    """A process that does ``work`` when it is told to, and says what that returned."""

    def __init__(self, work: Work) -> None:
        told, self._tell = os.pipe()
        self._answer, say = os.pipe()
        self._before = time.monotonic_ns()
        self.pid = os.fork()
        if self.pid == 0:
            began = time.monotonic_ns()
            os.read(told, 1)
            told_ns = time.monotonic_ns()
            result = work()
            os.write(say, json.dumps([result, began, told_ns, time.monotonic_ns()]).encode())
            os._exit(0)
        os.close(told)
        os.close(say)

    def go(self) -> None:
        os.write(self._tell, b".")

    def end(self) -> Said:
        """Waits for it; what the kernel accounted to it."""
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        after = time.monotonic_ns()
        lines = Path(f"/proc/{self.pid}/io").read_text().splitlines()
        io = {name: int(value) for name, value in (line.split(": ") for line in lines)}
        _, status, usage = os.wait4(self.pid, 0)
        with os.fdopen(self._answer) as text:
            said = text.read()
        os.close(self._tell)
        if status or not said:
            raise RuntimeError(f"a child ended with {status}")
        result, began, told, ended = json.loads(said)
        return {
            "pid": self.pid,
            "read": result,
            "disk": io["read_bytes"],
            "cpu_ns": round(1e9 * (usage.ru_utime + usage.ru_stime)),
            "inside_ns": ended - began,
            "outside_ns": after - self._before,
            "working_ns": ended - told,
        }


def resident(path: Path) -> int:
    """Bytes in the page cache, by mincore(2)."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as pages:
        size = len(pages)
        view = ctypes.c_char.from_buffer(pages)
        vec = (ctypes.c_ubyte * -(-size // PAGE))()
        done = _libc.mincore(
            ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(size), ctypes.byref(vec)
        )
        del view
        assert done == 0, os.strerror(ctypes.get_errno())
        return PAGE * sum(page & 1 for page in vec)


def is_large(path: Path) -> bool:
    """Whether cached pages of a file are of large folios, by /proc/kpageflags."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as pages:
        view = ctypes.c_char.from_buffer(pages)
        first = ctypes.addressof(view) // PAGE
        del view
        count = len(pages) // PAGE
        for page in range(count):
            pages[page * PAGE]
        with open("/proc/self/pagemap", "rb") as text:
            text.seek(8 * first)
            entries = struct.unpack(f"={count}Q", text.read(8 * count))
    with open("/proc/kpageflags", "rb", buffering=0) as flags:
        for entry in entries:
            flags.seek(8 * (entry & _PFN))
            if struct.unpack("=Q", flags.read(8))[0] & _COMPOUND:
                return True
    return False


def alone(work: Work, path: Path | None = None) -> Said:
    """One child, and what is cached of its file before and after."""
    child = Child(work)
    before = resident(path) if path else 0
    child.go()
    said = child.end()
    return {**said, "before": before, "after": resident(path) if path else 0}


def together(path: Path) -> Said:
    """Several at once read one file, of which nothing is cached."""
    forget(path)
    children = [Child(lambda: whole(path, forget=False)) for _ in range(READERS)]
    before = resident(path)
    for child in children:
        child.go()
    said = [child.end() for child in children]
    return {"children": said, "before": before, "after": resident(path)}


def forget(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def cold(work: Work, path: Path) -> Said:
    forget(path)
    return alone(work, path)


def half(path: Path) -> Said:
    """Every second MiB of it is cached before: no readahead."""
    forget(path)
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    for offset in range(0, os.fstat(fd).st_size, 2 * MIB):
        os.pread(fd, MIB, offset)
    os.close(fd)
    return alone(lambda: whole(path, forget=False), path)


@contextlib.contextmanager
def switched(state: Path, value: str) -> Iterator[None]:
    """A file of sysfs with another value for a while."""
    old = state.read_text()
    state.write_text(value)
    try:
        yield
    finally:
        state.write_text(old)


def offline(path: Path) -> Said:
    """A CPU is taken away and comes back while a child reads."""
    if not CPU.exists():
        return {"skipped": "CPU 1 cannot be taken offline"}

    def again() -> int:
        end, total = time.monotonic() + 2, 0
        while time.monotonic() < end:
            total += whole(path, os.O_DIRECT, forget=False)
        return total

    child = Child(again)
    child.go()
    time.sleep(0.3)
    try:
        with switched(CPU, "0"):
            gone = CPU.read_text().strip()
            time.sleep(0.7)
    except OSError as error:
        child.end()
        return {"skipped": f"CPU 1 cannot be taken offline: {error.strerror}"}
    return {**child.end(), "online": [gone, CPU.read_text().strip()]}


def main(where: Path) -> Said:
    """Each case, one after the other."""
    xfs, huge = where / "xfs" / "file", where / "huge"
    files = {name: where / name for name in ("plain", "ring", "sparse", "short")}
    plain, sparse = files["plain"], files["sparse"]
    said: Said = {
        "large ext4": cold(lambda: whole(plain), plain) | {"large": is_large(plain)},
        "half": half(plain),
        "shared": together(plain),
        "mapped": cold(lambda: mapped(plain), plain),
        "pool": cold(lambda: pool(plain), plain),
        "sparse": cold(lambda: whole(sparse), sparse),
        "sparse direct": cold(lambda: whole(sparse, os.O_DIRECT), sparse),
        "ring": cold(lambda: ring(files["ring"]), files["ring"]),
        "ring direct": cold(lambda: ring(files["ring"], os.O_DIRECT), files["ring"]),
        "offline": offline(plain),
        "short": alone(lambda: short(files["short"])),
        "busy": alone(busy),
    }
    if xfs.exists():
        said["large xfs"] = cold(lambda: whole(xfs), xfs) | {"large": is_large(xfs)}
    if huge.is_dir():
        said["huge tmpfs"] = alone(lambda: huge_tmpfs(huge / "file"))
        said["huge tmpfs"]["blocks"] = 512 * os.stat(huge / "file").st_blocks
    free = Path("/proc/meminfo").read_text().partition("HugePages_Free:")[2].split()
    if free and int(free[0]) * 2 * MIB >= HUGE:
        said["hugetlb"] = cold(lambda: hugetlb(plain), plain)
    return said


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    import loading

    print(json.dumps(main(Path(sys.argv[1]))))
