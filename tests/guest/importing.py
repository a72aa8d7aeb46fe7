"""Runs in the guest: a dma-buf is read into, and vgem, a DRM device, imports and forgets it.

Prints {"ino", "before_ns", "attached_ns", "detaching_ns", "detached_ns", "devices"}: when each
call of the importer was under way (CLOCK_MONOTONIC), and what debugfs said in between.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
import sys
import time
from pathlib import Path

from dmatrace_loaders import kernel

_PRIME_FD_TO_HANDLE = 0xC00C642E  # DRM_IOCTL_PRIME_FD_TO_HANDLE of include/uapi/drm/drm.h
_GEM_CLOSE = 0x40086409
_PRIME_HANDLE = struct.Struct("=IIi")  # struct drm_prime_handle: handle, flags, fd
SIZE = 4 << 20


def _card() -> int:
    """vgem's node; there may be another device's."""
    for place in sorted(Path("/sys/class/drm").glob("card[0-9]*")):
        if os.path.realpath(place / "device").endswith("/vgem"):
            return os.open(f"/dev/dri/{place.name}", os.O_RDWR | os.O_CLOEXEC)
    sys.exit("vgem has no node")


def _devices(ino: int) -> list[str]:
    """What debugfs lists as attached to a dma-buf."""
    from dmatrace.session import inventory

    found = [each for each in inventory.take().buffers if each.ino == ino]
    return list(found[0].devices or ()) if found else []


def main(path: str) -> None:
    card = _card()
    buffer = kernel.heap_alloc(SIZE)
    ino = os.fstat(buffer).st_ino
    with mmap.mmap(buffer, SIZE) as mapped, open(path, "rb", buffering=0) as file:
        assert file.readinto(mapped) == SIZE
    said: dict[str, object] = {"ino": ino, "before_ns": time.monotonic_ns()}
    asked = bytearray(_PRIME_HANDLE.pack(0, 0, buffer))
    fcntl.ioctl(card, _PRIME_FD_TO_HANDLE, asked)
    said["attached_ns"] = time.monotonic_ns()
    said["devices"] = _devices(ino)
    (handle, *_) = _PRIME_HANDLE.unpack(asked)
    said["detaching_ns"] = time.monotonic_ns()
    fcntl.ioctl(card, _GEM_CLOSE, struct.pack("=II", handle, 0))
    said["detached_ns"] = time.monotonic_ns()
    os.close(buffer)
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
