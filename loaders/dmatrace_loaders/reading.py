"""Reading a file into memory: buffered or direct, in blocks, by one thread or several.

Every reader fills a writable buffer (a mapping) in place with preadv(2), so
Python copies nothing.  O_DIRECT reads whole blocks only: the last one is read
into the padded end of the buffer, where the file system stops at the file's
size.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from dmatrace_loaders import kernel
from dmatrace_loaders.errors import LoadError


@dataclass(frozen=True)
class Source:
    """An open file to load: its size, whether it is read directly, and the block in bytes.

    Or a range of one: ``size`` bytes from ``start`` on, both multiples of
    ``align`` unless the range ends where the file does.
    """

    fd: int
    path: str
    size: int
    direct: bool
    align: int
    block: int
    flags: int = 0  # RWF_* of each read
    start: int = 0  # where in the file the buffer's first byte lies

    def asked(self, at: int, end: int) -> int:
        """How many bytes to ask for at ``at``: a block, or up to ``end``.

        A direct read asks for whole blocks; the file system returns less at the end.
        """
        left = min(self.block, end - at)
        return -(-left // self.align) * self.align if self.direct else left

    def cut(self, at: int, end: int) -> bool:
        """Whether a direct read that came to ``at`` found the file's end before ``end``."""
        return self.direct and at % self.align != 0 and at < end

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
        unit = max(align, kernel.PAGE)
        block = max(unit, block - block % unit)
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
        asked = source.asked(at, end)
        got = os.preadv(source.fd, [into[at : at + asked]], source.start + at, source.flags)
        at = min(at + got, source.size)
        if got == 0 or source.cut(at, end):
            raise ended(source, at)


def read_by_block(source: Source, buffer: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(offset, data) of the file, each block read into the start of ``buffer``."""
    at = 0
    while at < source.size:
        want = min(source.block, source.size - at)
        asked = source.asked(at, source.size)
        got = min(os.preadv(source.fd, [buffer[:asked]], source.start + at, source.flags), want)
        if got == 0 or source.cut(at + got, at + want):
            raise ended(source, at + got)
        yield at, buffer[:got]
        at += got


def ended(source: Source, at: int) -> LoadError:
    """The file turned out shorter than it was when it was opened."""
    return LoadError(
        f"{source.path} ended at {source.start + at} of {source.start + source.size} bytes:"
        " it changed during the load",
        do="load a file that nothing writes to",
    )


Work = Callable[[], None]
Spawn = Callable[[Work], Work]


def read_all(source: Source, into: memoryview, jobs: int, spawn: Spawn) -> None:
    """The whole file into ``into``; the calling thread reads alone if ``jobs`` is 1.

    ``spawn`` starts work in a thread of its own and returns what waits for it.
    """
    side_by_side([partial(read_range, source, into, *part) for part in pieces(source, jobs)], spawn)


def side_by_side(work: Sequence[Work], spawn: Spawn) -> None:
    """All of ``work``, each in a thread of its own; a single one in the calling thread."""
    if len(work) == 1:
        work[0]()
        return
    with running(work, spawn):
        pass


@contextmanager
def running(work: Sequence[Work], spawn: Spawn) -> Iterator[None]:
    """A thread for each of ``work`` while the body runs; leaving waits for all, come what may.

    What went wrong in the body is raised, else what went wrong first in a thread.
    """
    waits: list[Work] = []
    errors: list[BaseException] = []
    try:
        try:
            for each in work:
                waits.append(spawn(each))
        except RuntimeError as error:
            # What Thread.start() raises at the limits of pids, tasks or memory.
            raise LoadError(
                f"{len(work)} reading threads cannot be started: {error}", do="use fewer --jobs"
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
