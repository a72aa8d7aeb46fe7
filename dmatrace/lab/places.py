"""Directories of the lab: the checkout, the cache, and locked temporary ones.

A temporary directory is owned by whoever holds the lock file in it.  The kernel
drops the lock with the process, however that ends, so what a killed run left is
recognised and removed by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dmatrace.errors import CannotHere

_LOCK = "owner.lock"


def checkout() -> Path:
    """The checkout this package is imported from; CannotHere if it is installed apart from one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "requirements.lock").is_file() or not (root / "loaders").is_dir():
        raise CannotHere(
            "the lab shares a checkout of dmatrace with its guests, and there is none around "
            f"{root / 'dmatrace'}",
            do="run .venv/bin/dmatrace from a checkout",
        )
    return root


def cache() -> Path:
    """$XDG_CACHE_HOME/dmatrace/lab, made when missing."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "dmatrace" / "lab"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _locked(path: Path, *, wait: bool) -> int | None:
    """An open descriptor that holds the lock on ``path``; None if another has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds ``path`` as a lock against other processes, waiting for them."""
    descriptor = _locked(path, wait=True)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def sweep(parent: Path, prefix: str) -> int:
    """Removes the temporary directories in ``parent`` whose owner is gone; how many."""
    removed = 0
    for path in sorted(parent.glob(f"{prefix}*")):
        if not path.is_dir():
            continue
        descriptor = _locked(path / _LOCK, wait=False) if (path / _LOCK).exists() else None
        if descriptor is None:
            continue
        _remove(path)
        os.close(descriptor)
        removed += 1
    return removed


def _remove(path: Path) -> None:
    """A tree, unless something is mounted in it: that is not ours to empty."""
    escaped = str(path.resolve()).replace(" ", r"\040")  # as proc_pid_mountinfo(5) has it
    with open("/proc/self/mountinfo") as mounts:
        inside = any(line.split()[4].startswith(f"{escaped}/") for line in mounts)
    if not inside:
        shutil.rmtree(path, ignore_errors=True)


class Temporary:
    """A locked temporary directory in ``parent``; sweeps what others left first."""

    def __init__(self, parent: Path, prefix: str) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        with lock(parent / ".sweep.lock"):
            sweep(parent, prefix)
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            self._lock = _locked(self.path / _LOCK, wait=True)

    def remove(self) -> None:
        """Removes the directory and gives up the lock; again is harmless."""
        _remove(self.path)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()
