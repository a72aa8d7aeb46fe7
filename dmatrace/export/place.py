"""Where an export goes: a file, a directory of files, or stdout; never over something else."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from dmatrace.errors import DmatraceError

Write = Callable[[BinaryIO], None]


def default(recording: Path, suffix: str) -> Path:
    """``a.dmt`` as ``a.html``, in the working directory."""
    name = recording.resolve().name
    return Path(name.removesuffix(".dmt") + suffix)


def check(where: Path, *, directory: bool, force: bool) -> None:
    """DmatraceError unless an export can be made at ``where``; changes nothing."""
    with _writing(where):
        parent = where.absolute().parent
        if not parent.is_dir():
            raise DmatraceError(f"there is no directory {parent}", do=f"mkdir -p {parent}")
        if not os.path.lexists(where):
            return
        if (where / "meta.json").exists():
            raise DmatraceError(f"{where} is a recording", do="name another with -o")
        if not force:
            raise DmatraceError(f"{where} exists", do="name another with -o, or add --force")
        if where.is_dir() != directory:
            kind = "no directory" if directory else "a directory"
            raise DmatraceError(f"{where} exists and is {kind}", do="name another with -o")


def file(where: Path, write: Write) -> None:
    """What ``write`` writes, at ``where``: all of it, or what was there before."""
    with _writing(where):
        descriptor, name = tempfile.mkstemp(dir=where.absolute().parent, prefix=".dmatrace-")
        try:
            with open(descriptor, "wb") as out:
                write(out)
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, where)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


def files(where: Path, parts: Iterator[tuple[str, Write]]) -> None:
    """A directory ``where`` with a file for each of ``parts`` (name, what writes it)."""
    with _writing(where):
        where.mkdir(exist_ok=True)
    for name, write in parts:
        file(where / name, write)


def _umask() -> int:
    found = os.umask(0o077)
    os.umask(found)
    return found


@contextlib.contextmanager
def _writing(where: Path) -> Iterator[None]:
    try:
        yield
    except DmatraceError:
        raise
    except OSError as error:
        raise DmatraceError(
            f"cannot write {where}: {error.strerror or error}",
            do="name a place with room that you may write to with -o",
        ) from error
