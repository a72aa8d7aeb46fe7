"""What the cases share: targets, files, comparisons, and the run that reports as JSON.

``python3 -m tests.guest.native.run MODULE`` runs all cases of a module in one
process and prints one JSON line for each, so that the cost of starting Python
under emulation is paid once.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import subprocess
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dmatrace_loaders import kernel, native

PAGE = kernel.PAGE
MIB = 1 << 20
DATA = Path("/data/native")
#: What a buffer holds before a case writes to it.
OLD = 0xA5


class Lacks(Exception):
    """The kernel has no such thing: the case is skipped with this reason."""


def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes that differ from block to block and never repeat at a page's distance."""
    block = b"".join((i * 2654435761 + seed).to_bytes(8, "little") for i in range(1 << 15))
    # 8 bytes short of 256 KiB, so that no two pages are alike.
    block = block[:-8]
    return (block * (size // len(block) + 1))[:size]


def write_file(path: Path, data: bytes) -> Path:
    """A file on disk and not in the page cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    forget(path)
    return path


def forget(path: Path) -> None:
    """Writes a file back and drops its pages."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def opened(path: Path | str, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def device() -> Iterator[native.Device]:
    with native.Device() as found:
        yield found


def need_feature(found: native.Device, wanted: native.Feature) -> None:
    if not found.query().features & wanted:
        raise Lacks(native.WHY_MISSING[wanted])


def need_path(path: str) -> None:
    if not os.path.exists(path):
        raise Lacks(path)


# -- targets ----------------------------------------------------------------


@contextmanager
def system(found: native.Device, size: int) -> Iterator[int]:
    need_path(kernel.HEAP)
    fd = kernel.heap_alloc(kernel.page_round(size))
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def memfd(found: native.Device, size: int) -> Iterator[int]:
    need_feature(found, native.Feature.MEMFD)
    fd = kernel.memfd("target", kernel.page_round(size))
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def huge_memfd(size: int) -> Iterator[int]:
    """A memfd of huge pages, with as many of them as it needs."""
    path = Path("/proc/sys/vm/nr_hugepages")
    before = path.read_text()
    count = -(-size // (2 * MIB)) + 4
    path.write_text(str(count))
    try:
        if int(path.read_text()) < count:
            raise Lacks("enough free huge pages")
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | os.MFD_HUGETLB
        fd = os.memfd_create("huge", flags)
        try:
            os.ftruncate(fd, -(-size // (2 * MIB)) * 2 * MIB)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            yield fd
        finally:
            os.close(fd)
    finally:
        path.write_text(before)


@contextmanager
def memfd_huge(found: native.Device, size: int) -> Iterator[int]:
    need_feature(found, native.Feature.MEMFD)
    with huge_memfd(size) as fd:
        yield fd


@contextmanager
def udmabuf_of(memory: int, size: int) -> Iterator[int]:
    need_path(kernel.UDMABUF)
    fd = kernel.udmabuf_create(memory, kernel.page_round(size))
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def udmabuf(found: native.Device, size: int) -> Iterator[int]:
    memory = kernel.memfd("behind", kernel.page_round(size))
    try:
        with udmabuf_of(memory, size) as fd:
            yield fd
    finally:
        os.close(memory)


@contextmanager
def udmabuf_huge(found: native.Device, size: int) -> Iterator[int]:
    need_path(kernel.UDMABUF)
    with huge_memfd(size) as memory, udmabuf_of(memory, size) as fd:
        yield fd


@contextmanager
def own(found: native.Device, size: int, how: native.Mmap = native.Mmap.PFN) -> Iterator[int]:
    fd = found.alloc(size, mmap=how).fd
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def own_insert(found: native.Device, size: int) -> Iterator[int]:
    with own(found, size, native.Mmap.INSERT) as fd:
        yield fd


TARGETS = {
    "system": system,
    "udmabuf": udmabuf,
    "udmabuf_huge": udmabuf_huge,
    "own": own,
    "own_insert": own_insert,
    "memfd": memfd,
    "memfd_huge": memfd_huge,
}


def targets(found: native.Device) -> list[str]:
    """Names of the targets that this kernel has."""
    missing = set()
    if not os.path.exists(kernel.HEAP):
        missing.add("system")
    if not os.path.exists(kernel.UDMABUF):
        missing |= {"udmabuf", "udmabuf_huge"}
    if not found.query().features & native.Feature.MEMFD:
        missing |= {"memfd", "memfd_huge"}
    return [name for name in TARGETS if name not in missing]


#: Ways to load a file into a new buffer: arguments of alloc_read().
HOW: dict[str, dict[str, Any]] = {
    "sync": {},
    "vmap": {"vmap": True},
    "gather": {"gather": 4 * MIB},
    "gather_jobs": {"gather": MIB, "jobs": 4},
    "gather_vmap": {"gather": 4 * MIB, "vmap": True},
}


# -- buffers ----------------------------------------------------------------


def _whole(fd: int) -> int:
    """A buffer's size; mappings of huge pages have to be whole ones to be unmapped again."""
    return os.lseek(fd, 0, os.SEEK_END)


def fill(fd: int, size: int, value: int = OLD) -> None:
    with mmap.mmap(fd, _whole(fd), mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as memory:
        memory[:size] = bytes([value]) * size


def content(fd: int, size: int) -> bytes:
    """What a buffer holds, through a mapping of its own, which no read used."""
    with mmap.mmap(fd, _whole(fd), mmap.MAP_SHARED, mmap.PROT_READ) as memory:
        return memory[:size]


def same(found: bytes, wanted: bytes, what: str) -> None:
    """Says where two buffers differ, rather than print megabytes."""
    if found == wanted:
        return
    assert len(found) == len(wanted), f"{what}: {len(found)} bytes, not {len(wanted)}"
    at = next(i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b)
    raise AssertionError(
        f"{what}: differs at {at}: {found[at : at + 8].hex()}, not {wanted[at : at + 8].hex()}"
    )


def buffers() -> list[str]:
    """Our buffers that exist, as the dma-buf core lists them in debugfs."""
    text = Path("/sys/kernel/debug/dma_buf/bufinfo").read_text()
    return [line for line in text.splitlines() if f"\t{native.EXPORTER}\t" in line]


def fds() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@contextmanager
def refusal(number: int, what: str = "call") -> Iterator[None]:
    """The block must fail with exactly this errno."""
    found = 0
    try:
        yield
    except OSError as error:
        found = error.errno or 0
    wanted = errno.errorcode[number]
    assert found, f"{what}: succeeded, not {wanted}"
    assert found == number, f"{what}: {errno.errorcode.get(found, str(found))}, not {wanted}"


def refused(number: int, call: Callable[[], object], what: str = "call") -> None:
    """``call`` must fail with this errno, and leave no fd and no buffer of ours behind."""
    before, made = fds(), buffers()
    with refusal(number, what):
        call()
    assert fds() == before, f"{what}: fds {before} became {fds()}"
    assert buffers() == made, f"{what}: left {buffers()}"


def bare_ioctl(fd: int, number: int, address: int) -> None:
    """ioctl(2) with a bare address, which Python's own takes no large ones of."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ioctl(fd, ctypes.c_ulong(number), ctypes.c_void_p(address)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def shell(script: str) -> str:
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


def child_of(call: Callable[[], object]) -> int:
    """A process that runs ``call``: exit 1, or 2 if it raised; its pid."""
    child = os.fork()
    if child:
        return child
    try:
        call()
    except BaseException:
        traceback.print_exc()
        os._exit(2)
    os._exit(1)
