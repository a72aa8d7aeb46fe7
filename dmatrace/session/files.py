"""What is known of the files that a load read, beside what the kernel counted.

Names come from the process that read them (its fds and mappings), while it
still has them; alignment from statx(2) of the file itself.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Any

from dmatrace.bpf.layout import FILE_IO, kernel_dev
from dmatrace.session.machine import mounted_as
from dmatrace_loaders import kernel

Row = dict[str, Any]
File = tuple[int, int]  # the kernel's dev_t, ino


def names(pid: int) -> dict[File, str]:
    """{(dev, ino): path} of the regular files and disks a process has open or mapped.

    A block device is (its number, 0).  Empty when the process has ended.
    """
    found: dict[File, str] = {}
    for directory in (f"/proc/{pid}/fd", f"/proc/{pid}/map_files"):
        try:
            entries = os.listdir(directory)
        except OSError:
            continue
        for entry in entries:
            link = f"{directory}/{entry}"
            # A fd may be closed meanwhile; a deleted file has a name all the same.
            with contextlib.suppress(OSError):
                path = os.readlink(link)
                if path.startswith("/"):
                    found.setdefault(file_key(os.stat(link)), path)
    return found


def file_key(status: os.stat_result) -> File:
    """How the recording names a file; a block device by its number, and inode 0."""
    if status.st_rdev:
        return kernel_dev(os.major(status.st_rdev), os.minor(status.st_rdev)), 0
    return kernel_dev(os.major(status.st_dev), os.minor(status.st_dev)), status.st_ino


def described(
    rows: Iterable[Row], named: dict[File, str], own: File | None, load_id: int
) -> list[Row]:
    """``rows`` of the kernel's file_reads with name, file system and alignment where known.

    The file ``own`` has a row even if no call read it.
    """
    result = []
    rows = list(rows)
    if own is not None and all((row["dev"], row["ino"]) != own for row in rows):
        counts = dict.fromkeys(FILE_IO, 0)
        rows.append({"dev": own[0], "ino": own[1], **counts})
    for row in rows:
        path = named.get((row["dev"], row["ino"]), "")
        result.append({"load_id": load_id, **row, "path": path, **(_asked(path) if path else {})})
    return result


def _asked(path: str) -> Row:
    """What the file at ``path`` lies on and what it wants of direct I/O; {} if it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        found = kernel.dio_alignment(fd)
    finally:
        os.close(fd)
    align: Row = {"fs": mounted_as(path), "align_known": found.known}
    if found.known:
        align |= {"align_memory": found.memory, "align_offset": found.offset}
    return align
