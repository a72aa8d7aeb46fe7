"""The checkout's Python packages as a read-only disk, for guests that need not follow edits.

Each module that a guest imports over 9p costs it several round trips, which are dear
under emulation; from its own memory it does not.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

#: What is imported in a guest, below the checkout.
PACKAGES = ("dmatrace", "loaders")


def disk(checkout: Path, path: Path) -> str:
    """Makes a tar of the packages at ``path``; QEMU's -drive option for it."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for package in PACKAGES:
            archive.add(checkout / package, arcname=package, filter=_wanted)
    name = str(path).replace(",", ",,")
    return f"file={name},format=raw,if=none,id=code,readonly=on"


def _wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Sources and data as root's own; byte code is of the host's Python."""
    if Path(member.name).name == "__pycache__":
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
