"""What every ioctl refuses, with its errno; nothing may be left behind or written."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from dmatrace_loaders import kernel, native
from tests.guest.native.harness import (
    DATA,
    MIB,
    OLD,
    PAGE,
    TARGETS,
    Lacks,
    bare_ioctl,
    content,
    device,
    fill,
    need_path,
    opened,
    pattern,
    refusal,
    refused,
    same,
    shell,
    write_file,
)

CASES: dict[str, Callable[[], None]] = {}
SIZE = MIB + 100
HUGE = 1 << 63


def _file() -> Path:
    return write_file(DATA / "refuse", pattern(SIZE))


# -- RW_FILE: one wrong argument each ------------------------------------------

#: Errno, whether direct, and what differs from a call that works.
RANGES: dict[str, tuple[int, bool, dict[str, int]]] = {
    "length_0": (errno.EINVAL, False, {"length": 0}),
    "length_beyond_buffer": (errno.EINVAL, False, {"length": 4 * MIB + 1}),
    "length_overflow": (errno.EINVAL, False, {"length": 2**64 - 1}),
    "buffer_offset_beyond": (errno.EINVAL, False, {"buffer_offset": 4 * MIB}),
    "buffer_offset_overflow": (errno.EINVAL, False, {"buffer_offset": 2**64 - PAGE}),
    "sum_overflow": (errno.EINVAL, False, {"buffer_offset": HUGE, "length": HUGE}),
    "file_offset_negative": (errno.EINVAL, False, {"file_offset": HUGE}),
    "file_offset_overflow": (errno.EINVAL, False, {"file_offset": HUGE - 2}),
    "chunk_unaligned": (errno.EINVAL, False, {"chunk": PAGE + 1}),
    "chunk_too_large": (errno.EINVAL, False, {"chunk": (1 << 30) + PAGE}),
    "direct_file_offset": (errno.EINVAL, True, {"file_offset": 100}),
    "direct_buffer_offset": (errno.EINVAL, True, {"buffer_offset": 4}),
    "direct_length": (errno.EINVAL, True, {"length": PAGE + 100}),
}


def _range(number: int, direct: bool, changed: dict[str, int]) -> None:
    arguments: dict[str, Any] = {"length": 64 * 1024, "direct": direct, **changed}
    with device() as found, TARGETS["own"](found, 4 * MIB) as buffer, opened(_file()) as file:
        fill(buffer, 4 * MIB)
        refused(number, partial(found.rw_file, file, buffer, **arguments))
        same(content(buffer, 4 * MIB), bytes([OLD]) * 4 * MIB, "buffer")


for _name, _what in RANGES.items():
    CASES[f"range-{_name}"] = partial(_range, *_what)


# -- wrong kinds of fds --------------------------------------------------------


@contextmanager
def _odd_fds() -> Iterator[dict[str, int]]:
    """Fds of every kind that is neither a file to read nor a buffer."""
    reader, writer = os.pipe()
    left, right = socket.socketpair()
    with (
        opened("/dev/null", os.O_RDWR) as null,
        opened("/") as folder,
        opened(DATA, os.O_PATH) as path,
    ):
        try:
            yield {
                "closed": 999,
                "negative": -1,
                "pipe": reader,
                "socket": left.fileno(),
                "null": null,
                "folder": folder,
                "path": path,
            }
        finally:
            os.close(reader)
            os.close(writer)
            left.close()
            right.close()


def _kind_of_file() -> None:
    with device() as found, TARGETS["own"](found, MIB) as buffer, _odd_fds() as odd:
        for name, fd in {**odd, "dma-buf": buffer}.items():
            number = errno.EBADF if name in ("closed", "negative", "path") else errno.EINVAL
            refused(number, partial(found.rw_file, fd, buffer, PAGE), f"rw_file {name}")
            refused(number, partial(found.alloc_read, fd), f"alloc_read {name}")
            refused(number, partial(found.alloc_read, fd, gather=MIB, length=MIB), f"gather {name}")


def _kind_of_buffer() -> None:
    path = _file()
    with device() as found, opened(path, os.O_RDWR) as file, _odd_fds() as odd:
        for name, fd in {**odd, "file": file}.items():
            number = errno.EBADF if name in ("closed", "negative", "path") else errno.EINVAL
            refused(number, partial(found.rw_file, file, fd, PAGE), f"rw_file {name}")
            refused(number, partial(found.stream, fd), f"stream {name}")
        same(path.read_bytes(), pattern(SIZE), "the file as a target")


def _file_not_readable() -> None:
    path = _file()
    with device() as found, TARGETS["own"](found, MIB) as buffer, opened(path, os.O_WRONLY) as file:
        refused(errno.EBADF, partial(found.rw_file, file, buffer, PAGE))
        refused(errno.EBADF, partial(found.alloc_read, file))


def _buffer_read_only() -> None:
    """O_RDONLY dma-bufs, the heap's and our own, are not written to."""
    with device() as found, opened(_file()) as file:
        buffers = [found.alloc(MIB, fd_flags=os.O_RDONLY | os.O_CLOEXEC).fd]
        loaded = found.alloc_read(file, fd_flags=os.O_RDONLY | os.O_CLOEXEC)
        buffers.append(loaded.fd)
        if os.path.exists(kernel.HEAP):
            with opened(kernel.HEAP, os.O_RDWR) as heap:
                data = bytearray(struct.pack("=QIIQ", MIB, 0, os.O_RDONLY | os.O_CLOEXEC, 0))
                fcntl.ioctl(heap, 0xC0184800, data)
                buffers.append(struct.unpack("=QIIQ", data)[1])
        for buffer in buffers:
            refused(errno.EBADF, partial(found.rw_file, file, buffer, PAGE), "rw_file")
            refused(errno.EBADF, partial(found.stream, buffer), "stream")
            refused(errno.EACCES, partial(fill, buffer, PAGE), "mmap for writing")
        same(content(loaded.fd, SIZE), pattern(SIZE), "read-only buffer")
        for buffer in buffers:
            os.close(buffer)


def _private_mapping() -> None:
    with device() as found:
        for name in ("own", "own_insert"):
            with TARGETS[name](found, MIB) as buffer:
                call = partial(mmap.mmap, buffer, MIB, mmap.MAP_PRIVATE, mmap.PROT_READ)
                refused(errno.EINVAL, call, f"private {name}")
                call = partial(mmap.mmap, buffer, MIB, offset=PAGE)
                refused(errno.EINVAL, call, f"beyond {name}")


CASES["kind-of_file"] = _kind_of_file
CASES["kind-of_buffer"] = _kind_of_buffer
CASES["kind-file_not_readable"] = _file_not_readable
CASES["kind-buffer_read_only"] = _buffer_read_only
CASES["kind-private_mapping"] = _private_mapping


# -- ALLOC, ALLOC_READ, STREAM -------------------------------------------------


def _lengths() -> None:
    with device() as found, opened(_file()) as file:
        longest = found.query().max_length
        for length in (0, longest + 1, 2**64 - 1, 2**64 - PAGE + 1, HUGE):
            refused(errno.EINVAL, partial(found.alloc, length), f"alloc {length}")
        for length in (longest + 1, 2**63, 2**64 - 1):
            refused(errno.EINVAL, partial(found.alloc_read, file, length=length), f"{length}")
        # As large as the machine: it may not be tried at the cost of everyone else.
        refused(errno.ENOMEM, partial(found.alloc, longest), "all memory")
        refused(errno.EINVAL, partial(found.alloc_read, file, file_offset=SIZE), "at the end")
        refused(errno.EINVAL, partial(found.alloc_read, file, file_offset=HUGE), "offset")
    empty = write_file(DATA / "empty", b"")
    with device() as found, opened(empty) as file, opened("/proc/meminfo") as proc:
        refused(errno.EINVAL, partial(found.alloc_read, file), "empty file")
        refused(errno.EINVAL, partial(found.alloc_read, proc), "procfs file")


def _alloc_read_options() -> None:
    with device() as found, opened(_file()) as file:
        for options in (
            {"jobs": 1},
            {"gather": MIB - PAGE},
            {"gather": MIB + 1},
            {"gather": (1 << 30) + PAGE},
            {"gather": MIB, "jobs": 17},
            {"chunk": 100},
            {"direct": True, "file_offset": 100},
            {"direct": True, "length": 100},
            {"fd_flags": os.O_RDWR | os.O_TRUNC},
            {"fd_flags": os.O_ACCMODE},
            {"mmap": 3},
            {"mmap": 4},
        ):
            call: Callable[..., object] = partial(found.alloc_read, file, **options)  # type: ignore[arg-type]
            refused(errno.EINVAL, call, str(options))
        refused(errno.EINVAL, partial(found.alloc, MIB, fd_flags=os.O_NONBLOCK), "alloc fd_flags")
        call = partial(found.alloc_read, file, mmap=native.Mmap.INSERT_NO_RSS)
        refused(errno.EOPNOTSUPP, call, "no RSS")
        call = partial(found.alloc, MIB, mmap=native.Mmap.INSERT_NO_RSS)
        refused(errno.EOPNOTSUPP, call, "no RSS")


def _stream_ranges() -> None:
    with device() as found, TARGETS["own"](found, MIB) as buffer:
        for offset, length in ((MIB, 0), (0, MIB + 1), (HUGE, HUGE), (PAGE, MIB), (2**64 - 1, 2)):
            call = partial(found.stream, buffer, offset=offset, length=length)
            refused(errno.EINVAL, call, f"{offset}+{length}")
        stream = found.stream(buffer)
        refused(errno.EBADF, partial(os.read, stream, 1), "read")
        refused(errno.EINVAL, partial(os.lseek, stream, MIB + 1, os.SEEK_SET), "lseek")
        refused(errno.EINVAL, partial(os.pwrite, stream, b"x", -1), "pwrite")
        os.close(stream)


CASES["make-lengths"] = _lengths
CASES["make-alloc_read_options"] = _alloc_read_options
CASES["make-stream_ranges"] = _stream_ranges


# -- the bare interface --------------------------------------------------------

LAYOUTS = {
    native.QUERY: (64, ()),
    native.RW_FILE: (96, (12,)),
    native.ALLOC: (56, (20,)),
    native.ALLOC_READ: (144, ()),
    native.STREAM: (48, (28,)),
}


def _reserved() -> None:
    """Every reserved byte and every unknown flag is refused, whatever else is right or wrong."""
    with opened(native.DEVICE, os.O_RDWR) as fd:
        for number, (size, holes) in LAYOUTS.items():
            assert number >> 16 & 0x3FFF == size
            for at in (*holes, size - 16, size - 1):
                data = bytearray(size)
                data[at] = 1
                refused(errno.EINVAL, partial(fcntl.ioctl, fd, number, data), f"{number:x} {at}")
        for number, at in ((native.RW_FILE, 8), (native.ALLOC, 8), (native.ALLOC_READ, 4)):
            for bit in range(32):
                data = bytearray(LAYOUTS[number][0])
                data[at : at + 4] = (1 << bit).to_bytes(4, "little")
                if number == native.ALLOC:
                    data[0] = 1
                try:
                    fcntl.ioctl(fd, number, data)
                except OSError as error:
                    known = error.errno in (errno.EBADF, errno.EINVAL, errno.EOPNOTSUPP)
                    if not known:
                        raise
                else:
                    assert (number, bit) == (native.ALLOC, 0), f"{number:x} takes bit {bit}"
                    os.close(struct.unpack_from("=i", data, 16)[0])


def _no_such_ioctl() -> None:
    with opened(native.DEVICE, os.O_RDWR) as fd:
        for number in (0, 5, 255):
            wrong = 3 << 30 | 64 << 16 | 0xDB << 8 | number
            if wrong != native.QUERY:
                refused(errno.ENOTTY, partial(fcntl.ioctl, fd, wrong, bytearray(64)))
        # The right number with the wrong size or direction is another ioctl.
        for wrong in (native.QUERY + (1 << 16), native.QUERY & ~(1 << 30)):
            refused(errno.ENOTTY, partial(fcntl.ioctl, fd, wrong, bytearray(128)))
        for number in LAYOUTS:
            refused(errno.EFAULT, partial(bare_ioctl, fd, number, 0), "no argument")
            refused(errno.EFAULT, partial(bare_ioctl, fd, number, 2**47 - PAGE), "hole")
            refused(errno.EFAULT, partial(bare_ioctl, fd, number, 2**64 - PAGE), "kernel's")


def _argument_read_only() -> None:
    """An argument that cannot be written back: EFAULT, and no buffer or fd comes of it."""
    libc = ctypes.CDLL(None, use_errno=True)
    with device() as found, opened(_file()) as file, TARGETS["own"](found, MIB) as buffer:
        arguments = {
            native.ALLOC: native._ALLOC.pack(MIB, 0, os.O_RDWR, 0, 0, 0),
            native.ALLOC_READ: native._ALLOC_READ.pack(file, 0, os.O_RDWR, *[0] * 16),
            native.STREAM: native._STREAM.pack(buffer, 0, 0, 0, 0),
        }
        for number, data in arguments.items():
            memory = mmap.mmap(-1, PAGE)
            memory[: len(data)] = data
            holder = ctypes.c_char.from_buffer(memory)
            address = ctypes.addressof(holder)
            assert libc.mprotect(ctypes.c_void_p(address), PAGE, mmap.PROT_READ) == 0
            refused(errno.EFAULT, partial(bare_ioctl, found._fd, number, address), f"{number:x}")
            assert libc.mprotect(ctypes.c_void_p(address), PAGE, 3) == 0
            del holder
            memory.close()


def _fds_used_up() -> None:
    """EMFILE comes before anything is allocated."""
    with device() as found, opened(_file()) as file, TARGETS["own"](found, MIB) as buffer:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        filled = []
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
            while True:
                try:
                    filled.append(os.dup(file))
                except OSError:
                    break
            for call in (
                partial(found.alloc, MIB),
                partial(found.alloc_read, file),
                partial(found.stream, buffer),
            ):
                with refusal(errno.EMFILE):
                    call()
        finally:
            for fd in filled:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


CASES["bare-reserved"] = _reserved
CASES["bare-no_such_ioctl"] = _no_such_ioctl
CASES["bare-argument_read_only"] = _argument_read_only
CASES["bare-fds_used_up"] = _fds_used_up


# -- buffers that devices use --------------------------------------------------


def _busy() -> None:
    """EBUSY while another device is attached: vgem imports the buffer, then lets go of it."""
    shell("modprobe vgem || true")
    cards = [card for card in Path("/sys/class/drm").glob("card*") if "-" not in card.name]
    cards = [card for card in cards if "vgem" in os.path.realpath(card)]
    if not cards:
        raise Lacks("vgem, a device that imports dma-bufs")
    need_path(kernel.HEAP)
    with (
        device() as found,
        opened(_file()) as file,
        TARGETS["system"](found, MIB) as theirs,
        TARGETS["own"](found, MIB) as ours,
        opened(f"/dev/dri/{cards[0].name}", os.O_RDWR) as card,
    ):
        for buffer in (theirs, ours):
            data = bytearray(struct.pack("=IIi", 0, 0, buffer))
            fcntl.ioctl(card, 0xC00C642E, data)  # DRM_IOCTL_PRIME_FD_TO_HANDLE
            handle = struct.unpack("=IIi", data)[0]
            refused(errno.EBUSY, partial(found.rw_file, file, buffer, PAGE), "rw_file")
            refused(errno.EBUSY, partial(found.stream, buffer), "stream")
            fcntl.ioctl(card, 0x40086409, struct.pack("=II", handle, 0))  # DRM_IOCTL_GEM_CLOSE
            assert found.rw_file(file, buffer, PAGE).bytes == PAGE


def _another_exporter() -> None:
    """A buffer of an exporter that we do not know is read into through its vmap()."""
    shell("modprobe vgem || true")
    cards = [card for card in Path("/sys/class/drm").glob("card*") if "-" not in card.name]
    cards = [card for card in cards if "vgem" in os.path.realpath(card)]
    if not cards:
        raise Lacks("vgem, another exporter")
    with (
        device() as found,
        opened(_file()) as file,
        opened(f"/dev/dri/{cards[0].name}", os.O_RDWR) as card,
    ):
        # DRM_IOCTL_MODE_CREATE_DUMB: height, width, bpp, flags, handle, pitch, size
        data = bytearray(struct.pack("=IIIIIIQ", 512, 1024, 32, 0, 0, 0, 0))
        fcntl.ioctl(card, 0xC02064B2, data)
        handle, _, size = struct.unpack_from("=IIQ", data, 16)
        data = bytearray(struct.pack("=IIi", handle, os.O_RDWR | os.O_CLOEXEC, 0))
        fcntl.ioctl(card, 0xC00C642D, data)  # DRM_IOCTL_PRIME_HANDLE_TO_FD
        buffer = struct.unpack("=IIi", data)[2]
        try:
            modes = [False]
            if found.query().features & native.Feature.VMAP_DIRECT:
                modes.append(True)
            for direct in modes:
                fill(buffer, size)
                assert found.rw_file(file, buffer, SIZE, direct=direct).bytes == SIZE
                wanted = pattern(SIZE)
                same(content(buffer, size), wanted + bytes([OLD]) * (size - SIZE), "buffer")
            stream = found.stream(buffer, offset=PAGE)
            os.write(stream, pattern(SIZE, seed=8))
            os.close(stream)
            same(content(buffer, PAGE + SIZE)[PAGE:], pattern(SIZE, seed=8), "stream")
        finally:
            os.close(buffer)


CASES["device-busy"] = _busy
CASES["device-another_exporter"] = _another_exporter


def _not_root() -> None:
    """The device is root's alone; a fd to it may be handed on."""
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setgid(1000)
        os.setuid(1000)
        try:
            os.open(native.DEVICE, os.O_RDWR)
        except PermissionError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


CASES["device-not_root"] = _not_root
