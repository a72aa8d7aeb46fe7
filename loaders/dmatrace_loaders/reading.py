"""Reading a file into memory: buffered or direct, in blocks, by one thread or several.

Every reader fills a writable buffer (a mapping) in place with preadv(2), so
Python copies nothing.  O_DIRECT reads whole blocks only: the last one is read
into the padded end of the buffer, where the file system stops at the file's
size.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from dmatrace_loaders import kernel
from dmatrace_loaders.errors import LoadError


@dataclass(frozen=True)
class Source:
    """An open file to load: its size, whether it is read directly, and the block in bytes."""

    fd: int
    path: str
    size: int
    direct: bool
    align: int
    block: int

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)


def open_source(path: str, *, direct: bool, block: int) -> Source:
    """Open and check a file.  Raises LoadError with cause, next step and exit code."""
    try:
        # O_NONBLOCK: without a writer, opening a FIFO would wait for one.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise LoadError(f"cannot read {path}: {error.strerror}", do="check the path") from None
    try:
        os.set_blocking(fd, True)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            kind = "a directory" if stat.S_ISDIR(found.st_mode) else "not a regular file"
            raise LoadError(f"{path} is {kind}", do="give a regular file")
        size = found.st_size
        if size == 0:
            raise LoadError(f"{path} is empty", do="give a file with content")
        align = kernel.PAGE
        if direct:
            fd, align = _reopen_direct(fd, path), _alignment(fd, path)
        block = max(align, block - block % align)
        return Source(fd, path, size, direct, align, block)
    except (OSError, LoadError) as error:
        os.close(fd)
        if isinstance(error, OSError):
            raise LoadError(f"cannot read {path}: {error.strerror}", do="check the file") from None
        raise


def _alignment(fd: int, path: str) -> int:
    found = kernel.dio_alignment(fd)
    if kernel.in_memory_only(fd) or (found.known and not found.offset):
        raise LoadError(
            f"{path} lies on a file system without direct I/O",
            do="copy it to a disk (ext4, xfs, f2fs, btrfs), or use a -bio strategy",
            code=3,
        )
    return max(found.offset, found.memory, 512)


def _reopen_direct(fd: int, path: str) -> int:
    _alignment(fd, path)
    try:
        direct = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError as error:
        raise LoadError(
            f"{path} cannot be opened with O_DIRECT: {error.strerror}",
            do="copy it to a disk with direct I/O, or use a -bio strategy",
            code=3,
        ) from None
    os.dup2(direct, fd, inheritable=False)
    os.close(direct)
    return fd


def pieces(source: Source, jobs: int) -> list[tuple[int, int]]:
    """[start, end) for each of ``jobs`` readers; block-aligned, none empty."""
    blocks = -(-source.size // source.block)
    jobs = max(1, min(jobs, blocks))
    bounds = [blocks * n // jobs * source.block for n in range(jobs)] + [source.size]
    return list(pairwise(bounds))


def read_range(source: Source, into: memoryview, start: int, end: int) -> None:
    """Read [start, end) of the file to the same place in ``into``.

    Raises LoadError when the file ends early (it shrank), OSError when the
    kernel refuses.
    """
    at = start
    while at < end:
        upto = min(at + source.block, end)
        # A direct read asks for whole blocks; the file system returns less at the end.
        asked = -(-(upto - at) // source.align) * source.align if source.direct else upto - at
        got = os.preadv(source.fd, [into[at : at + asked]], at)
        at = min(at + got, source.size)
        if got == 0 or (source.direct and at % source.align and at < end):
            raise _ended(source, at)


def read_by_block(source: Source, buffer: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(offset, data) of the file, each block read into the start of ``buffer``."""
    at = 0
    while at < source.size:
        want = min(source.block, source.size - at)
        asked = -(-want // source.align) * source.align if source.direct else want
        got = min(os.preadv(source.fd, [buffer[:asked]], at), want)
        if got == 0 or (source.direct and got % source.align and got < want):
            raise _ended(source, at + got)
        yield at, buffer[:got]
        at += got


def _ended(source: Source, at: int) -> LoadError:
    return LoadError(
        f"{source.path} ended at {at} of {source.size} bytes: it changed during the load",
        do="load a file that nothing writes to",
    )


Spawn = Callable[[Callable[[], None]], Callable[[], None]]


def read_all(source: Source, into: memoryview, jobs: int, spawn: Spawn) -> None:
    """The whole file into ``into``; the calling thread reads alone if ``jobs`` is 1.

    ``spawn`` starts work in a thread of its own and returns what waits for it.
    """
    parts = pieces(source, jobs)
    if len(parts) == 1:
        read_range(source, into, *parts[0])
        return
    with reading(source, into, parts, spawn):
        pass


@contextmanager
def reading(
    source: Source, into: memoryview, parts: list[tuple[int, int]], spawn: Spawn
) -> Iterator[None]:
    """A thread for each part while the body runs; leaving waits for all, whatever happened.

    What went wrong in the body is raised, else what went wrong first in a thread.
    """
    waits: list[Callable[[], None]] = []
    errors: list[BaseException] = []
    try:
        try:
            for part in parts:
                waits.append(spawn(partial(read_range, source, into, *part)))
        except RuntimeError as error:
            # What Thread.start() raises at the limits of pids, tasks or memory.
            raise LoadError(
                f"{len(parts)} reading threads cannot be started: {error}", do="use fewer --jobs"
            ) from None
        yield
    finally:
        for wait in waits:
            try:
                wait()
            except BaseException as error:
                errors.append(error)
    if errors:
        raise errors[0]
