"""The file that is loaded: the user's, or one made for the occasion."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator

from dmatrace.errors import DmatraceError
from dmatrace.session.changes import TemporaryFile
from dmatrace.sizes import format_size

_CHUNK = 4 << 20


def check_file(path: str) -> int:
    """The size in bytes; DmatraceError unless it is a readable, non-empty regular file."""
    try:
        found = os.stat(path)
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        raise DmatraceError(f"cannot read {path}: {error.strerror}", do="check --file") from None
    if stat.S_ISDIR(found.st_mode):
        raise DmatraceError(f"{path} is a directory", do="give --file a regular file")
    if not stat.S_ISREG(found.st_mode):
        raise DmatraceError(f"{path} is not a regular file", do="give --file a regular file")
    if found.st_size == 0:
        raise DmatraceError(f"{path} is empty", do="give --file a file with content")
    return found.st_size


def check_room(directory: str, size: int) -> None:
    """DmatraceError unless ``directory`` has room for ``size`` bytes."""
    if not os.path.isdir(directory):
        raise DmatraceError(f"there is no directory {directory}", do="check --dir")
    free = os.statvfs(directory)
    room = free.f_bavail * free.f_frsize
    if size > room:
        raise DmatraceError(
            f"no room for {format_size(size)} in {directory}: {format_size(room)} are free",
            do="use --dir or a smaller --size",
        )


@contextlib.contextmanager
def made(directory: str, size: int, say: Callable[[str], None]) -> Iterator[str]:
    """A file of random content, on the disk when this yields, removed at the end."""
    path = os.path.join(directory, f"dmatrace-{os.getpid()}.bin")
    say(f"writing {path} ({format_size(size)}, removed at the end)")
    try:
        with open(path, "xb", buffering=0) as file:
            temporary = TemporaryFile(path)
            try:
                left = size
                while left:
                    left -= file.write(os.urandom(min(left, _CHUNK)))
                os.fsync(file.fileno())
            except BaseException:
                temporary.remove()
                raise
    except OSError as error:
        raise DmatraceError(f"cannot write {path}: {error.strerror}", do="use --dir") from None
    try:
        yield path
    finally:
        temporary.remove()


def warm(path: str) -> None:
    """Read the file into the page cache."""
    buffer = bytearray(_CHUNK)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
