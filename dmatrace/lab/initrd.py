"""A cpio archive ("newc", Documentation/driver-api/early-userspace/buffer-format.rst)."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import PurePosixPath


class Archive:
    """Collects files; everything belongs to root and has no time stamp."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._inode = 0

    def _entry(self, name: str, mode: int, content: bytes) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device and rdevice twice, name, check
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        self._data += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        self._pad()
        self._data += content
        self._pad()

    def _pad(self) -> None:
        self._data += bytes(-len(self._data) % 4)

    def directory(self, name: str) -> None:
        self._entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, content: bytes, mode: int) -> None:
        self._entry(name, stat.S_IFREG | mode, content)

    def finish(self) -> bytes:
        self._entry("TRAILER!!!", 0, b"")
        return bytes(self._data)


def _name(path: str) -> str:
    return PurePosixPath(path).name.split(".ko")[0].replace("-", "_")


def load_order(modules_dep: str, wanted: Iterable[str]) -> list[str]:
    """Paths of the wanted modules after those they need; absent (built-in) ones are left out."""
    needs: dict[str, list[str]] = {}
    paths: dict[str, str] = {}
    for line in modules_dep.splitlines():
        path, _, rest = line.partition(":")
        paths[_name(path)] = path
        # depmod lists the direct need first and what that one needs after it.
        needs[path] = rest.split()[::-1]
    order: list[str] = []
    for name in wanted:
        path = paths.get(name.replace("-", "_"), "")
        for step in [*needs.get(path, []), path]:
            if step and step not in order:
                order.append(step)
    return order
