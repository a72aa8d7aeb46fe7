"""The guest's data disk: a fresh ext4 that behaves like a disk, not like the host's memory."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from dmatrace.errors import DmatraceError


def has_direct_io(path: Path) -> bool:
    """True if the file system of ``path`` (a file) takes O_DIRECT; tmpfs before 6.6 does not."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def data_disk(path: Path, size: int) -> str:
    """Makes an ext4 image of ``size`` bytes at ``path``; QEMU's -drive option for it.

    cache=none, so that a cold read in the guest is a read from a disk and
    repeats; where O_DIRECT is refused the host's page cache is in the way.
    """
    with path.open("wb") as file:
        file.truncate(size)
    # The file is all holes, so nothing is left for the guest to initialise in
    # the background, where it would disturb what is measured.
    prezeroed = "assume_storage_prezeroed=1,lazy_itable_init=0,lazy_journal_init=0"
    argv = ["mke2fs", "-q", "-t", "ext4", "-m", "0", "-L", "dmatrace-data", "-E", prezeroed]
    env = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    run = subprocess.run([*argv, str(path)], env=env, capture_output=True, text=True, check=False)
    if run.returncode:
        raise DmatraceError(f"cannot make the guest's data disk: {run.stderr.strip()}")
    cache = "cache=none,aio=native" if has_direct_io(path) else "cache=writeback,aio=threads"
    name = str(path).replace(",", ",,")
    return f"file={name},format=raw,if=none,id=data,{cache}"
