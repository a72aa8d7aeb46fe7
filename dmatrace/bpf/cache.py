"""Compiled programs that are kept, so that tracing starts in time.

A load lasts seconds, and so does a compile.  What was compiled is kept per
kernel, program and bcc: /var/cache/dmatrace, or $DMATRACE_CACHE.  Its files
become code that runs in the kernel, so one is used only if it and its directory
belong to us and nobody else may write or read them, and if its content has the
digest that its first line says; in any other case it is as if it were not there.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from dmatrace.bpf.compiler import Compiled, compile_with_bcc, find_bcc

#: Changes when what is kept changes its form.
_FORM = "1"
_LARGEST = 1 << 26


def directory() -> Path:
    """Where compiled programs are kept."""
    return Path(os.environ.get("DMATRACE_CACHE") or "/var/cache/dmatrace")


def key(text: str, flags: Sequence[str], formats: Iterable[Path] = ()) -> str:
    """What names one program: its text and flags, the kernel, its tracepoints, and bcc.

    ``formats`` are files of tracefs whose fields bcc compiles in.
    """
    kernel = (platform.machine(), platform.release(), platform.version())
    where = find_bcc()
    bcc = [_content(where / name) for name in ("__init__.py", "version.py", "libbcc.py")]
    parts = [_FORM, *kernel, *bcc, text, *sorted(flags), *map(_content, formats)]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()


def _content(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace")
    return ""


def compiled(
    text: str, flags: Sequence[str], formats: Iterable[Path], messages: list[str]
) -> tuple[Compiled, bool]:
    """The program, and whether it was kept from before.  Raises as ``compile_with_bcc`` does."""
    name = key(text, flags, formats)
    kept = read(name)
    if kept is not None:
        return kept, True
    made = compile_with_bcc(text, flags, messages)
    with suppress(OSError):
        write(name, made)
    return made, False


def read(name: str) -> Compiled | None:
    """What is kept under ``name``; None if it is not there, or not only ours, or damaged."""
    where = directory()
    try:
        if not _ours(os.lstat(where), stat.S_ISDIR):
            return None
        fd = os.open(where / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    found = os.fstat(fd)
    if not _ours(found, stat.S_ISREG) or found.st_nlink != 1 or found.st_size > _LARGEST:
        os.close(fd)
        return None
    with os.fdopen(fd, "rb") as file:
        digest, _, data = file.read().partition(b"\n")
    if digest != hashlib.sha256(data).hexdigest().encode():
        return None
    try:
        return Compiled.parse(data)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def write(name: str, program: Compiled) -> None:
    """Keep ``program``; nothing happens where the directory is not ours alone.  OSError."""
    where = directory()
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _ours(os.lstat(where), stat.S_ISDIR):
        return
    data = program.dump()
    temporary = where / f".{name}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
        temporary.replace(where / name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _ours(found: os.stat_result, kind: Callable[[int], bool]) -> bool:
    private = not stat.S_IMODE(found.st_mode) & 0o077
    return kind(found.st_mode) and found.st_uid == os.geteuid() and private
