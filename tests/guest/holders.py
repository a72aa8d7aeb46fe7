"""Run in a guest: processes that hold known dma-bufs, and what `dmatrace buffers` says of them.

Prints one JSON document: the buffers as they were made ({label: size, exporter, name and
{process: [descriptors, bytes mapped]}}), the processes, and what the verb found as it is,
without debugfs, and without root.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dmatrace_loaders import kernel

MIB = 1 << 20
# include/uapi/linux/dma-buf.h: _IOW('b', 1, __u64); the argument is the name's address.
SET_NAME = 0x40086201


def set_name(fd: int, name: str) -> None:
    fcntl.ioctl(fd, SET_NAME, name.encode() + b"\0")


def map_shared(fd: int, size: int) -> None:
    """mmap(2) itself: Python's keeps a descriptor of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    place = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    assert place != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno())


def child(work: Callable[[], None]) -> int:
    """A process that does ``work``, says so and waits to be killed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            work()
            os.write(writer, b"1")
        finally:
            os.close(writer)
            signal.pause()
    os.close(writer)
    ready = os.read(reader, 1)
    os.close(reader)
    assert ready, "a holder failed"
    return pid


def only(*kept: int) -> None:
    """Close the other buffers' descriptors."""
    for fd in {heap, pinned, orphan} - set(kept):
        os.close(fd)


def inherit() -> None:
    only(heap)
    os.dup(heap)


def receive() -> None:
    only()
    _, (fd,), _, _ = socket.recv_fds(theirs, 1, 1)
    keep.append(fd)


def map_alone() -> None:
    only(pinned)
    map_shared(pinned, 2 * MIB)
    os.close(pinned)


def seen(*prefix: str) -> Any:
    command = [*prefix, "dmatrace", "buffers", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


keep: list[Any] = []
heap = kernel.heap_alloc(3 * MIB)
set_name(heap, "weights")
pinned = kernel.udmabuf_create(kernel.memfd("dmatrace", 5 * MIB), 5 * MIB)
orphan = kernel.heap_alloc(MIB)
inodes = {name: os.fstat(globals()[name]).st_ino for name in ("heap", "pinned", "orphan")}
ours, theirs = socket.socketpair()
pids = {"maker": os.getpid(), "heir": child(inherit), "mapper": child(map_alone)}
socket.send_fds(ours, [b"x"], [pinned])
pids["receiver"] = child(receive)
# In a message that nobody receives, and closed here: no process holds it.
far, near = socket.socketpair()
socket.send_fds(far, [b"x"], [orphan])
os.close(orphan)
map_shared(heap, 3 * MIB)
hide = "umount -l /sys/kernel/debug && exec dmatrace buffers --json"
user = ("setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups")
try:
    hidden = subprocess.run(
        ["unshare", "-m", "bash", "-c", hide], stdout=subprocess.PIPE, check=True
    )
    result = {
        "inodes": inodes,
        "pids": pids,
        "bufinfo": Path("/sys/kernel/debug/dma_buf/bufinfo").read_text(),
        "as_it_is": seen(),
        "without_debugfs": json.loads(hidden.stdout),
        "without_root": seen(*user),
    }
finally:
    for name, pid in pids.items():
        if name != "maker":
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
json.dump(result, sys.stdout)
