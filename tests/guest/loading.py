"""What the tests of loads run in the guest: one child per way of loading a file.

usage: loading.py DIRECTORY

Each child loads its own file of DIRECTORY, way.NAME, in one way, and says what it did.  All
is on stdout as JSON: {name: {"pid", "bytes", "skipped"}}.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

MIB = 1 << 20
SIZE = 5 * MIB
_BLOCK = 64 << 10
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
_libc.read.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
_libc.pread.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.syscall.restype = ctypes.c_long
_SHARED, _PRIVATE, _ANONYMOUS, _POPULATE = 1, 2, 0x20, 0x8000
_UDMABUF_CREATE, _HEAP_ALLOC = 0x40187542, 0xC0184800


class Skipped(Exception):
    """This kernel cannot do it."""


def checked(result: int) -> int:
    """``result``, or OSError."""
    if result == -1 or result == (1 << 64) - 1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def mapping(fd: int, flags: int = _SHARED, prot: int = 3, size: int = SIZE) -> int:
    """Its address."""
    return checked(_libc.mmap(None, size, prot, flags, fd & ((1 << 64) - 1), 0))


def anonymous() -> int:
    return mapping(-1, _PRIVATE | _ANONYMOUS)


def opened(path: str, flags: int = 0) -> int:
    """The file, of which nothing is cached."""
    fd = os.open(path, os.O_RDONLY | flags)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return fd


def into(path: str, address: int, flags: int = 0, block: int = _BLOCK) -> None:
    """All of the file, by pread(2)."""
    fd = opened(path, flags)
    for offset in range(0, SIZE, block):
        assert checked(_libc.pread(fd, address + offset, block, offset)) == block
    os.close(fd)


def memfd() -> int:
    fd = os.memfd_create("buffer", os.MFD_ALLOW_SEALING)
    os.truncate(fd, SIZE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return fd


def udmabuf(memory: int) -> int:
    try:
        device = os.open("/dev/udmabuf", os.O_RDWR)
    except OSError as error:
        raise Skipped("no /dev/udmabuf") from error
    asked = bytearray(struct.pack("=IIQQ", memory, 1, 0, SIZE))
    return fcntl.ioctl(device, _UDMABUF_CREATE, asked)


def heap() -> int:
    try:
        device = os.open("/dev/dma_heap/system", os.O_RDONLY)
    except OSError as error:
        raise Skipped("no dma-heap") from error
    asked = bytearray(struct.pack("=QIIQ", SIZE, 0, os.O_RDWR | os.O_CLOEXEC, 0))
    fcntl.ioctl(device, _HEAP_ALLOC, asked)
    return int(struct.unpack("=QIIQ", asked)[1])


def into_udmabuf(path: str) -> None:
    """Into the memfd's mapping, over which there is a udmabuf."""
    memory = memfd()
    buffer = udmabuf(memory)
    into(path, mapping(memory), os.O_DIRECT)
    os.close(buffer)


def into_udmabuf_map(path: str) -> None:
    """Into a mapping of the udmabuf itself."""
    into(path, mapping(udmabuf(memfd())))


def mapped(path: str, flags: int = 0) -> int:
    fd = opened(path)
    address = mapping(fd, _PRIVATE | flags, prot=1)
    os.close(fd)
    return address


def touched(address: int) -> None:
    for offset in range(0, SIZE, mmap.PAGESIZE):
        assert len(ctypes.string_at(address + offset, 1)) == 1


def willneed(path: str) -> None:
    address = mapped(path)
    checked(_libc.madvise(address, SIZE, mmap.MADV_WILLNEED))
    touched(address)


def populated(path: str) -> None:
    touched(mapped(path, _POPULATE))


def locked(path: str) -> None:
    checked(_libc.mlock(mapped(path), SIZE))


def sendfile(path: str) -> None:
    source, target = opened(path), memfd()
    udmabuf(target)
    done = 0
    while done < SIZE:
        done += os.sendfile(target, source, done, SIZE - done)


def splice(path: str) -> None:
    source, target = opened(path), memfd()
    out, into_ = os.pipe()
    done = 0
    while done < SIZE:
        moved = os.splice(source, into_, min(_BLOCK, SIZE - done), offset_src=done)
        left = moved
        while left:
            left -= os.splice(out, target, left, offset_dst=done + moved - left)
        done += moved


def copied(path: str) -> None:
    source, target = opened(path), os.open(f"{path}.copy", os.O_WRONLY | os.O_CREAT)
    done = 0
    while done < SIZE:
        done += os.copy_file_range(source, target, SIZE - done, done, done)
    os.unlink(f"{path}.copy")


def bounced(path: str) -> None:
    """Through anonymous memory, and by write(2) into the memfd behind a udmabuf."""
    source, target = opened(path), memfd()
    udmabuf(target)
    for _ in range(0, SIZE, _BLOCK):
        os.write(target, os.read(source, _BLOCK))


def dontcache(path: str) -> None:
    fd = opened(path)
    with mmap.mmap(-1, _BLOCK) as buffer:
        for offset in range(0, SIZE, _BLOCK):
            try:
                os.preadv(fd, [buffer], offset, 0x80)
            except OSError as error:
                raise Skipped("RWF_DONTCACHE") from error


def mixed(path: str) -> None:
    """One half past the page cache, the other out of it."""
    address, half = anonymous(), 2 * MIB + MIB // 2
    for flags, start in ((os.O_DIRECT, 0), (0, half)):
        fd = opened(path, flags)
        for offset in range(start, start + half, _BLOCK):
            assert checked(_libc.pread(fd, address + offset, _BLOCK, offset)) == _BLOCK
        os.close(fd)


class Ring:
    """io_uring with 8 entries, by its system calls; include/uapi/linux/io_uring.h."""

    ENTRIES = 8

    def __init__(self) -> None:
        self._params = (ctypes.c_uint32 * 30)()
        self.fd = _libc.syscall(425, self.ENTRIES, ctypes.byref(self._params))
        if self.fd < 0:
            raise Skipped("io_uring")
        size = self._params[10 + 6] + 4 * self._params[0]  # sq_off.array
        size = max(size, self._params[20 + 5] + 16 * self._params[1])  # cq_off.cqes
        self.ring = mmap.mmap(self.fd, size, mmap.MAP_SHARED | _POPULATE)
        self.sqes = mmap.mmap(
            self.fd, 64 * self.ENTRIES, mmap.MAP_SHARED | _POPULATE, offset=0x10000000
        )

    def _word(self, place: int) -> int:
        return int(struct.unpack_from("=I", self.ring, place)[0])

    def register(self, address: int) -> None:
        vec = (ctypes.c_uint64 * 2)(address, SIZE)
        checked(_libc.syscall(427, self.fd, 0, ctypes.byref(vec), 1))

    def read(self, fd: int, address: int, opcode: int, flags: int = 0) -> None:
        """All of the file, ENTRIES blocks at a time; ``flags`` are each request's."""
        offsets = list(range(0, SIZE, _BLOCK))
        for first in range(0, len(offsets), self.ENTRIES):
            batch = offsets[first : first + self.ENTRIES]
            tail = self._word(self._params[10 + 1])
            for number, offset in enumerate(batch):
                index = (tail + number) & (self.ENTRIES - 1)
                struct.pack_into(
                    "=BBHiQQIIQHHIQQ", self.sqes, 64 * index, opcode, flags, 0, fd, offset,
                    address + offset, _BLOCK, 0, offset, 0, 0, 0, 0, 0,
                )  # fmt: skip
                struct.pack_into("=I", self.ring, self._params[10 + 6] + 4 * index, index)
            struct.pack_into("=I", self.ring, self._params[10 + 1], tail + len(batch))
            checked(_libc.syscall(426, self.fd, len(batch), len(batch), 1, None, 0))
            head = self._word(self._params[20 + 0])
            assert self._word(self._params[20 + 1]) - head == len(batch)
            for number in range(len(batch)):
                place = self._params[20 + 5] + 16 * ((head + number) % self._params[1])
                assert struct.unpack_from("=Qi", self.ring, place)[1] == _BLOCK
            struct.pack_into("=I", self.ring, self._params[20 + 0], head + len(batch))


def ring(path: str, flags: int = 0) -> None:
    Ring().read(opened(path, flags), anonymous(), 22)


def ring_fixed(path: str) -> None:
    """Into the registered pages of a memfd."""
    found, address = Ring(), mapping(memfd())
    found.register(address)
    found.read(opened(path, os.O_DIRECT), address, 4)


#: Name, which is also the file's: what it does.
WAYS: dict[str, Callable[[str], object]] = {
    "buffered": lambda path: into(path, anonymous(), block=MIB),
    "small": lambda path: into(path, anonymous(), block=4096),
    "direct": lambda path: into(path, anonymous(), os.O_DIRECT),
    "memfd": lambda path: into(path, mapping(memfd()), os.O_DIRECT),
    "udmabuf": into_udmabuf,
    "udmabuf-map": into_udmabuf_map,
    "heap": lambda path: into(path, mapping(heap())),
    "mmap": lambda path: touched(mapped(path)),
    "populate": populated,
    "willneed": willneed,
    "mlock": locked,
    "sendfile": sendfile,
    "splice": splice,
    "copy": copied,
    "bounce": bounced,
    "dontcache": dontcache,
    "mixed": mixed,
    "ring": ring,
    "ring-direct": lambda path: ring(path, os.O_DIRECT),
    "ring-fixed": ring_fixed,
}


def main() -> None:
    """One child after the other."""
    said = {}
    for name, work in WAYS.items():
        answer, say = os.pipe()
        pid = os.fork()
        if pid == 0:
            skipped = ""
            try:
                work(str(Path(sys.argv[1]) / f"way.{name}"))
            except Skipped as error:
                skipped = str(error)
            os.write(say, skipped.encode())
            os._exit(0)
        os.close(say)
        with os.fdopen(answer) as text:
            skipped = text.read()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said[name] = {"pid": pid, "skipped": skipped, "code": code}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
