"""What goes wrong while a load is under way: nothing is exported, leaked or left unzeroed."""

from __future__ import annotations

import errno
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.guest.native.disk import FILE_SIZE, Disk, disk
from tests.guest.native.harness import (
    DATA,
    HOW,
    MIB,
    PAGE,
    TARGETS,
    buffers,
    child_of,
    content,
    device,
    opened,
    pattern,
    refused,
    same,
    targets,
    write_file,
)

CASES: dict[str, Callable[[], None]] = {}

# -- a disk that fails ---------------------------------------------------------


def _errors() -> None:
    """A disk that fails: EIO from every way to read it, and no buffer."""
    with disk() as made, device() as found, opened(made.path) as file:
        made.switch("error")
        for direct in (False, True):
            for name, options in HOW.items():
                call = partial(found.alloc_read, file, direct=direct, **options)
                refused(errno.EIO, call, f"{name} {direct}")
            for target in ("own", "system", "udmabuf", "memfd"):
                if target not in targets(found):
                    continue
                with TARGETS[target](found, MIB) as buffer:
                    read = partial(found.rw_file, file, buffer, MIB, direct=direct)
                    refused(errno.EIO, read, f"{target} {direct}")
        made.switch("linear")
        with TARGETS["own"](found, FILE_SIZE) as buffer:
            assert found.rw_file(file, buffer, FILE_SIZE, direct=True).bytes == FILE_SIZE
            same(content(buffer, FILE_SIZE), pattern(FILE_SIZE), "after the errors")


CASES["disk-errors"] = _errors


def _flakey() -> None:
    """A disk that fails at times: a load is whole, or it is an error and nothing is left."""
    wanted = pattern(FILE_SIZE)
    ended = {True: 0, False: 0}
    with disk() as made, device() as found, opened(made.path) as file:
        made.switch("flakey")
        for turn in range(400):
            options = list(HOW.values())[turn % len(HOW)]
            before = buffers()
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            try:
                loaded = found.alloc_read(file, direct=bool(turn % 2), chunk=MIB, **options)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                assert buffers() == before, buffers()
                ended[False] += 1
                time.sleep(0.1)  # a second of errors is soon over
            else:
                assert loaded.bytes == FILE_SIZE
                same(content(loaded.fd, FILE_SIZE), wanted, f"load {turn}")
                os.close(loaded.fd)
                ended[True] += 1
            if min(ended.values()) >= 3:
                return
    raise AssertionError(f"the disk was not flakey: {ended}")


CASES["disk-flakey"] = _flakey


def _killed() -> None:
    """SIGKILL ends a load in the middle: long before the slow disk has been read."""
    with disk() as made, opened(made.path) as file:
        made.switch("delay")
        for direct in (False, True):
            for name, options in (*HOW.items(), ("rw_file", None)):
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                _kill_one(made, file, direct, name, options)


def _kill_one(
    made: Disk, file: int, direct: bool, name: str, options: dict[str, Any] | None
) -> None:
    with device() as found, TARGETS["own"](found, FILE_SIZE) as buffer:
        held = buffers()
        call: Callable[[], object]
        if options is None:
            call = partial(found.rw_file, file, buffer, FILE_SIZE, direct=direct, chunk=64 * 1024)
        else:
            call = partial(found.alloc_read, file, direct=direct, chunk=64 * 1024, **options)
        before = made.sectors_read()
        child = child_of(call)
        while made.sectors_read() - before < 1024:
            assert os.waitpid(child, os.WNOHANG) == (0, 0), f"{name}: ended by itself"
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        read = (made.sectors_read() - before) * 512
        assert os.WIFSIGNALED(status), f"{name}: {status}"
        assert read < FILE_SIZE * 3 // 4, f"{name} {direct}: read {read} bytes all the same"
        assert buffers() == held, f"{name}: {buffers()}"


CASES["disk-killed"] = _killed


def _hangs() -> None:
    """A killed caller dies while its workers' reads hang, and they tidy up when those end."""
    # Not closed: whoever has the device open keeps the module as well.
    with disk() as made, opened(made.path) as file:
        for direct in (False, True):
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            _hang_one(made, file, direct)


def _hang_one(made: Disk, file: int, direct: bool) -> None:
    def load() -> None:
        with device() as found:
            found.alloc_read(file, gather=4 * MIB, jobs=2, chunk=MIB, direct=direct)

    made.hang()
    child = child_of(load)
    try:
        while not _workers():
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "ended by itself"
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        # If it had to wait for its workers, this would be the end of the test.
        gone = _gone(child, 60)
        left = _workers(), _uses()
    finally:
        made.switch("linear")
    assert gone, "the killed caller is still there"
    assert left == (True, 1), f"workers, uses of the module: {left}"
    _eventually(lambda: not _workers() and _uses() == 0, "the workers stayed")


def _gone(child: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _eventually(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def _uses() -> int:
    return int(Path("/sys/module/dmatrace_loader/refcnt").read_text())


def _workers() -> bool:
    """Whether a kernel thread is reading for the module."""
    for stack in Path("/proc").glob("[0-9]*/stack"):
        try:
            if "dml_gather_run" in stack.read_text():
                return True
        except OSError:
            continue
    return False


CASES["disk-hangs"] = _hangs


# -- a file that changes -------------------------------------------------------


def _truncated() -> None:
    """A file that shrinks and grows during reads: its bytes, or zeros, never anything else."""
    size = 8 * MIB
    mark = 0x5A
    path = write_file(DATA / "truncate", bytes([mark]) * size)
    stop = threading.Event()

    def change() -> None:
        dice = random.Random(1)
        with opened(path, os.O_RDWR) as file:
            while not stop.is_set():
                os.ftruncate(file, dice.randrange(1, size))
                os.pwrite(file, bytes([mark]) * MIB, dice.randrange(0, size - MIB))
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)

    thread = threading.Thread(target=change)
    thread.start()
    dice = random.Random(2)
    short = 0
    try:
        with device() as found, opened(path) as file:
            for turn in range(120):
                options = dice.choice(list(HOW.values()))
                loaded = found.alloc_read(
                    file,
                    length=size,
                    direct=bool(turn % 2),
                    zero=bool(turn % 3),
                    chunk=16 * PAGE,
                    **{**options, **({"gather": MIB} if "gather" in options else {})},
                )
                data = content(loaded.fd, size)
                os.close(loaded.fd)
                short += loaded.bytes < size
                assert not data[loaded.bytes :].strip(b"\0"), f"{turn}: not 0 beyond {loaded.bytes}"
                assert not data.strip(bytes([0, mark])), f"{turn}: foreign bytes"
                assert not data.translate(None, bytes([0, mark])), f"{turn}: foreign bytes"
    finally:
        stop.set()
        thread.join()
    assert short, "the file never was short"


CASES["file-truncated"] = _truncated
