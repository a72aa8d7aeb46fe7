"""Several callers at once on one buffer, and permission that is asked for at each read."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import select
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dmatrace_loaders import native
from tests.guest.native.disk import disk
from tests.guest.native.harness import (
    DATA,
    HOW,
    MIB,
    PAGE,
    TARGETS,
    Lacks,
    child_of,
    content,
    device,
    opened,
    pattern,
    refusal,
    refused,
    same,
    shell,
    targets,
    write_file,
)

CASES: dict[str, Callable[[], None]] = {}
_libc = ctypes.CDLL(None, use_errno=True)


def _in_threads(*calls: Callable[[], None]) -> None:
    """Runs all at once; raises what one of them raised."""
    raised: list[BaseException] = []

    def run(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


# -- one buffer, many readers --------------------------------------------------


def _one_buffer(target: str) -> None:
    """Threads and processes fill one buffer, each its own part, while another is killed."""
    size = 8 * MIB
    data = pattern(size, seed=9)
    path = write_file(DATA / "shared", data)
    with device() as found:
        if target not in targets(found):
            raise Lacks(target)
        with TARGETS[target](found, size) as buffer, opened(path) as file:

            def part(index: int) -> None:
                step = size // 8
                dice = random.Random(index)
                for turn in range(6):
                    length = dice.randrange(1, step // PAGE) * PAGE
                    for at in range(index * step, (index + 1) * step, length):
                        found.rw_file(
                            file,
                            buffer,
                            min(length, (index + 1) * step - at),
                            file_offset=at,
                            buffer_offset=at,
                            direct=bool(turn % 2),
                        )

            def endless() -> None:
                while True:
                    part(0)

            def process(index: int) -> None:
                part(index)
                os._exit(0)

            children = [child_of(partial(process, index)) for index in range(3)]
            victim = child_of(endless)
            _in_threads(*(partial(part, index) for index in range(3, 8)))
            os.kill(victim, signal.SIGKILL)
            for child in children:
                assert os.waitpid(child, 0)[1] == 0
            assert os.WIFSIGNALED(os.waitpid(victim, 0)[1])
            same(content(buffer, size), data, "buffer")


for _target in ("system", "udmabuf", "own", "memfd"):
    CASES[f"one_buffer-{_target}"] = partial(_one_buffer, _target)


def _one_stream() -> None:
    """write(2) of several threads to one stream: every write is whole, and none is lost."""
    each, block, writers = 64, 3001, 4
    size = each * block * writers
    with device() as found, TARGETS["own"](found, size) as buffer:
        stream = found.stream(buffer, length=size)

        def write(mark: int) -> None:
            for _ in range(each):
                assert os.write(stream, bytes([mark]) * block) == block

        _in_threads(*(partial(write, mark) for mark in range(1, writers + 1)))
        os.close(stream)
        data = content(buffer, size)
        blocks = [data[at : at + block] for at in range(0, size, block)]
        for mark in range(1, writers + 1):
            assert blocks.count(bytes([mark]) * block) == each, mark


CASES["one_stream"] = _one_stream


def _read_into_itself() -> None:
    """A memfd as file and as target at once."""
    size = 2 * MIB
    data = pattern(size)
    with device() as found:
        if "memfd" not in targets(found):
            raise Lacks("memfd_pin_folios()")
        with TARGETS["memfd"](found, size) as memory:
            os.pwrite(memory, data, 0)
            assert found.rw_file(memory, memory, MIB, buffer_offset=MIB).bytes == MIB
            same(content(memory, size), data[:MIB] * 2, "memfd")
            # memfds take no O_DIRECT, though files on a tmpfs do.
            call = partial(found.rw_file, memory, memory, MIB, direct=True)
            refused(errno.EOPNOTSUPP, call)


CASES["read_into_itself"] = _read_into_itself


def _recycled_fds() -> None:
    """Fds of device, file and buffer become others' in the middle of reads: no harm is done."""
    size = 4 * MIB
    data = pattern(size)
    path = write_file(DATA / "recycled", data)
    stop = threading.Event()
    with device() as found, opened(path) as file, opened(path, os.O_RDWR) as other:
        made = found.alloc(size).fd
        numbers = {found._fd: other, os.dup(file): made, os.dup(made): other}
        kept = {number: os.dup(number) for number in numbers}
        _, from_file, into = numbers
        draw = random.Random(12)

        def change() -> None:
            while not stop.is_set():
                for number, wrong in numbers.items():
                    os.dup2(wrong, number)
                    time.sleep(draw.random() / 1000)
                    os.dup2(kept[number], number)
                    # Without a pause of its own length here the interpreter's lock hands
                    # the turn over at the same call each time: every read meets the same fd.
                    time.sleep(draw.random() / 1000)

        thread = threading.Thread(target=change)
        thread.start()
        ended = dict.fromkeys((0, errno.EINVAL, errno.ENOTTY), 0)
        try:
            # A changer that has no CPU for a while lets hundreds of calls meet the same fd.
            until = time.monotonic() + 120
            turn = 0
            while turn < 300 or (not 0 < ended[0] < turn and time.monotonic() < until):
                turn += 1
                try:
                    found.rw_file(from_file, into, size, direct=bool(turn % 2), chunk=PAGE * 64)
                    ended[0] += 1
                except OSError as error:
                    ended[error.errno or 0] += 1
        finally:
            stop.set()
            thread.join()
        assert 0 < ended[0] < turn, ended
        same(os.pread(other, size, 0), data, "the file")
        found.rw_file(file, made, size)
        same(content(made, size), data, "the buffer")
        for number in (from_file, into, made, *kept.values()):
            os.close(number)


CASES["recycled_fds"] = _recycled_fds


# -- permission ----------------------------------------------------------------

_FAN_CLASS_CONTENT, _FAN_MARK_ADD, _FAN_ACCESS_PERM, _FAN_DENY = 4, 1, 0x20000, 2
_AT_FDCWD = -100
#: struct fanotify_event_metadata: length, version, reserved, metadata length, mask, fd, pid.
_EVENT = struct.Struct("=IBBHQii")


@contextmanager
def _denied(path: Path) -> Iterator[list[int]]:
    """A listener that denies every read of a file; a list of who asked, by pid."""
    group = _libc.fanotify_init(_FAN_CLASS_CONTENT, os.O_RDONLY)
    mask = ctypes.c_uint64(_FAN_ACCESS_PERM)
    name = os.fsencode(path)
    if group < 0 or _libc.fanotify_mark(group, _FAN_MARK_ADD, mask, _AT_FDCWD, name) < 0:
        raise Lacks("fanotify permission events")
    asked: list[int] = []
    end, stop = os.pipe()

    def answer() -> None:
        while True:
            ready, _, _ = select.select([group, end], [], [])
            if group not in ready:
                return
            data = os.read(group, 4096)
            while data:
                length, _, _, _, _, fd, pid = _EVENT.unpack_from(data)
                data = data[length:]
                asked.append(pid)
                os.write(group, struct.pack("=iI", fd, _FAN_DENY))
                os.close(fd)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield asked
    finally:
        os.close(stop)
        thread.join()
        os.close(end)
        os.close(group)


def _permission() -> None:
    """Each way to read asks as read(2) does, workers included: EPERM, and no buffer."""
    path = write_file(DATA / "denied", pattern(2 * MIB))
    with device() as found, TARGETS["own"](found, MIB) as buffer:
        # Opened after the listener began: else nobody asks it (FMODE_NONOTIFY_PERM).
        with _denied(path) as asked, opened(path) as file:
            for direct in (False, True):
                for name, options in HOW.items():
                    before = len(asked)
                    call = partial(found.alloc_read, file, direct=direct, **options)
                    # The listener's fds come and go, so fds are not compared.
                    with refusal(errno.EPERM, f"{name} {direct}"):
                        call()
                    assert len(asked) > before, f"{name} {direct}: nobody was asked"
                with refusal(errno.EPERM, f"rw_file {direct}"):
                    found.rw_file(file, buffer, MIB, direct=direct)
            same(content(buffer, MIB), bytes(MIB), "buffer")
        with opened(path) as file:
            assert found.rw_file(file, buffer, MIB).bytes == MIB


CASES["permission"] = _permission


# -- direct reads into a mapping -----------------------------------------------


def _unmapped_in_flight() -> None:
    """What a disk still writes to stays, though mapping, buffer and module are gone.

    read(2) with O_DIRECT into MMAP_INSERT memory; everything else goes while the
    disk takes its time.  (Whether the module may be unloaded is up to the kernel:
    nothing of it is in use then.)
    """
    size = 256 * PAGE
    with disk() as made, opened(made.path, os.O_RDONLY | os.O_DIRECT) as file:
        with device() as found:
            buffer = found.alloc(size, mmap=native.Mmap.INSERT).fd
        _libc.mmap.restype = ctypes.c_void_p
        address = _libc.mmap(
            None,
            ctypes.c_size_t(size),
            mmap.PROT_READ | mmap.PROT_WRITE,
            mmap.MAP_SHARED,
            buffer,
            0,
        )
        assert address != ctypes.c_void_p(-1).value
        ended: list[int] = []

        def read() -> None:
            arguments = file, ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_long(0)
            ended.append(_libc.pread(*arguments))

        made.switch("long delay")
        thread = threading.Thread(target=read)
        thread.start()
        while not made.in_flight():
            time.sleep(0.01)
        assert _libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size)) == 0
        os.close(buffer)
        module = Path("/sys/module/dmatrace_loader")
        assert int((module / "refcnt").read_text()) == 0
        shell("rmmod dmatrace_loader")
        assert not ended, "the disk was too fast"
        # Another table lets go of what a delay holds back.
        made.switch("linear")
        thread.join()
        assert ended in ([size], [-1]), ended
    # The caller of this case loads the module again.


CASES["unmapped_in_flight"] = _unmapped_in_flight
