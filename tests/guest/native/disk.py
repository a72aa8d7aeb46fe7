"""A disk that fails, waits or hangs on command: an ext4 on a device-mapper target."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.guest.native.harness import DATA, MIB, pattern, shell, write_file

NAME = "dmatrace-native"
SIZE = 96 * MIB
FILE_SIZE = 48 * MIB
_WHERE = Path("/mnt/native-disk")

_TABLES = {
    "linear": "linear {loop} 0",
    "error": "error",
    # Every read waits; writes do not.
    "delay": "delay {loop} 0 50 {loop} 0 0",
    "long delay": "delay {loop} 0 100000 {loop} 0 0",
    # Works for four seconds, in which a slow machine loads the file as well, then fails for one.
    "flakey": "flakey {loop} 0 4 1",
}


@dataclass(frozen=True)
class Disk:
    """``path``: the file on it, FILE_SIZE bytes of pattern()."""

    path: Path
    loop: str

    def switch(self, kind: str) -> None:
        """Makes it another kind of disk."""
        table = f"0 {SIZE // 512} {_TABLES[kind].format(loop=self.loop)}"
        shell(
            f"dmsetup suspend --noflush --nolockfs {NAME};"
            f" dmsetup reload {NAME} --table '{table}'; dmsetup resume {NAME}"
        )

    def hang(self) -> None:
        """No read ends from here on, until ``switch``."""
        shell(f"dmsetup suspend --noflush --nolockfs {NAME}")

    def sectors_read(self) -> int:
        """Sectors of 512 bytes that it was asked for and has delivered so far."""
        return int(self._stat()[2])

    def in_flight(self) -> int:
        """Requests it was asked for and has not answered."""
        return int(self._stat()[8])

    def _stat(self) -> list[str]:
        minor = os.minor(os.stat(f"/dev/mapper/{NAME}").st_rdev)
        return Path(f"/sys/block/dm-{minor}/stat").read_text().split()


@contextmanager
def disk() -> Iterator[Disk]:
    """A disk that works, its file not cached."""
    shell("modprobe loop; modprobe dm-mod; modprobe dm-delay; modprobe dm-flakey")
    DATA.mkdir(parents=True, exist_ok=True)
    image = DATA / "dm.img"
    loop = shell(f"truncate -s {SIZE} {image} && losetup --show -f {image}").strip()
    try:
        shell(f"dmsetup create {NAME} --table '0 {SIZE // 512} linear {loop} 0'; dmsetup mknodes")
        try:
            # Without a journal a disk that fails reads is no reason to abort anything.
            shell(
                f"mkfs.ext4 -q -F -O ^has_journal /dev/mapper/{NAME}; mkdir -p {_WHERE};"
                f" mount -o noatime /dev/mapper/{NAME} {_WHERE}"
            )
            made = Disk(_WHERE / "file", loop)
            try:
                write_file(made.path, pattern(FILE_SIZE))
                # What leads to the file's blocks is read while the disk still works.
                with open(made.path, "rb") as file:
                    file.read(1)
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                yield made
            finally:
                made.switch("linear")
                shell(f"umount {_WHERE}")
        finally:
            shell(f"dmsetup remove --retry {NAME}")
    finally:
        shell(f"losetup -d {loop}; rm {image}")
