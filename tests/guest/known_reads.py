"""Runs in the guest: reads whose bytes, devices and alignment are known, each step a load.

    python3 known_reads.py OUT

A child does one step after the other and reads nothing in between; what it
did is on stdout as JSON, {step: {...}}, the recording in OUT.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dmatrace.recording import Writer
from dmatrace.session.changes import drop_caches
from dmatrace.session.devices import devices
from dmatrace.session.files import described, file_key, names
from dmatrace.session.tracer import Tracer

MIB = 1 << 20
DATA = Path(os.environ.get("DMATRACE_DATA", "/data")) / "known"
MOUNTS = Path("/mnt/known")
SMALL = 61  # files in the directory whose metadata is read
_libc = ctypes.CDLL(None, use_errno=True)
_libc.pread.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
_libc.pread.restype = ctypes.c_ssize_t


def shell(command: str) -> str:
    return subprocess.run(
        ["bash", "-ec", command], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def write(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        file.write(os.urandom(size))
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def disk(name: str, table: str, size: int, options: str = "") -> Iterator[tuple[Path, str, str]]:
    """An ext4 on a device-mapper target on a loop device: (mount, dm's name, loop's name)."""
    image, where = DATA / f"{name}.img", MOUNTS / name
    loop = shell(f"truncate -s {size} {image}; losetup --show -f {image}")
    try:
        line = f"0 {size // 512} {table.format(loop=loop)}"
        shell(f"dmsetup create {name} --table '{line}'; dmsetup mknodes")
        try:
            shell(
                f"mkfs.ext4 -q -F -N 4096 /dev/mapper/{name}; mkdir -p {where};"
                f" mount -o noatime{options} /dev/mapper/{name} {where}"
            )
            try:
                minor = os.minor(os.stat(f"/dev/mapper/{name}").st_rdev)
                yield where, f"dm-{minor}", os.path.basename(loop)
            finally:
                shell(f"umount {where}")
        finally:
            shell(f"dmsetup remove --retry {name}")
    finally:
        shell(f"losetup -d {loop}; rm {image}")


def stat(device: str) -> list[int]:
    """Reads, sectors and ms of reading; Documentation/admin-guide/iostats.rst."""
    fields = Path(f"/sys/block/{device}/stat").read_text().split()
    return [int(fields[number]) for number in (0, 2, 3)]


def read(path: Path, block: int, flags: int = 0) -> int:
    """Bytes that read(2) returned, in blocks, from start to end."""
    fd = os.open(path, os.O_RDONLY | flags)
    with mmap.mmap(-1, block) as buffer:
        total = 0
        while got := os.preadv(fd, [buffer], total):
            total += got
    os.close(fd)
    return total


def refused(path: Path) -> dict[str, int]:
    """Direct reads that fail, and one buffered read of the same file."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    said = {"EINVAL": 0, "EFAULT": 0}
    with mmap.mmap(-1, MIB) as buffer:
        for _ in range(3):
            try:
                os.preadv(fd, [memoryview(buffer)[:4096]], 1)
            except OSError as error:
                said["EINVAL"] += error.errno == 22
    for _ in range(2):
        assert _libc.pread(fd, 0x1000, 4096, 0) < 0  # nothing is mapped there
        said["EFAULT"] += ctypes.get_errno() == 14
    os.close(fd)
    fd = os.open(path, os.O_RDONLY)
    with mmap.mmap(-1, 4096) as buffer:
        assert os.preadv(fd, [buffer], 2 * MIB) == 4096
    os.close(fd)
    return said


def write_directly(path: Path) -> int:
    """Bytes written through a file that is open for both, and 1 MiB read of it."""
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    with mmap.mmap(-1, MIB) as buffer:
        done = os.pwritev(fd, [buffer], 0) + os.pwritev(fd, [buffer], MIB)
        assert os.preadv(fd, [buffer], MIB) == MIB
    os.close(fd)
    return done


def small(where: Path) -> int:
    """Open and read every file of a directory, cold: inodes, directory blocks, extents."""
    return sum(read(path, 8192) for path in sorted(where.iterdir()))


def tmpfs(path: Path) -> int | None:
    try:
        return read(path, MIB, os.O_DIRECT)
    except OSError:
        return None  # before Linux 6.6


def busy(path: Path) -> int:
    """Half a second on the CPU, half a second asleep."""
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        pass
    time.sleep(0.5)
    return path.stat().st_size


def child(steps: dict[str, Callable[[], Any]]) -> tuple[int, int, int]:
    """A process that does steps by name: (pid, to it, from it)."""
    told, tell = os.pipe()
    answer, say = os.pipe()
    pid = os.fork()
    if pid:
        os.close(told)
        os.close(say)
        return pid, tell, answer
    code = 1
    with suppress(EOFError), os.fdopen(told, "r") as names:
        os.close(tell)
        for name in names:
            os.write(say, (json.dumps(steps[name.strip()]()) + "\n").encode())
        code = 0
    os._exit(code)


def main(out: str) -> None:
    DATA.mkdir(parents=True, exist_ok=True)
    shell("modprobe loop; modprobe dm-mod; modprobe dm-delay")
    with (
        disk("linear", "linear {loop} 0", 48 * MIB) as (on_dm, dm, dm_loop),
        disk("delay", "delay {loop} 0 20 {loop} 0 0", 32 * MIB) as (slow, slow_dm, _),
        disk("journal", "linear {loop} 0", 48 * MIB, ",data=journal") as (journal, _, _),
    ):
        plain, kept = DATA / "plain", DATA / "kept"
        (on_dm / "many").mkdir()
        for number in range(SMALL):
            write(on_dm / "many" / f"{number}", 4096)
        memory = Path("/dev/shm/known")
        for path, size in (
            (plain, 8 * MIB), (kept, 3 * MIB), (on_dm / "file", 8 * MIB), (slow / "file", 4 * MIB),
            (journal / "file", 4 * MIB), (memory, 2 * MIB),
        ):  # fmt: skip
            write(path, size)
        steps: dict[str, tuple[Path, Callable[[], Any]]] = {
            "buffered": (plain, lambda: read(plain, MIB)),
            "direct": (plain, lambda: read(plain, MIB, os.O_DIRECT)),
            "refused": (plain, lambda: refused(plain)),
            "written": (kept, lambda: write_directly(kept)),
            "dm": (on_dm / "file", lambda: read(on_dm / "file", MIB, os.O_DIRECT)),
            "dm buffered": (on_dm / "file", lambda: read(on_dm / "file", MIB)),
            "small": (on_dm / "many" / "0", lambda: small(on_dm / "many")),
            "slow": (slow / "file", lambda: read(slow / "file", MIB, os.O_DIRECT)),
            "journal": (journal / "file", lambda: read(journal / "file", MIB, os.O_DIRECT)),
            "disk": (
                Path("/dev/mapper/linear"), lambda: read(Path("/dev/mapper/linear"), MIB),
            ),
            "tmpfs": (memory, lambda: tmpfs(memory)),
            "busy": (plain, lambda: busy(plain)),
        }  # fmt: skip
        pid, tell, answer = child({name: step for name, (_, step) in steps.items()})
        replies = os.fdopen(answer)
        said = {}
        tracer = Tracer()
        meta = {"hooks": tracer.hooks, "kernel": os.uname().release, "target": {"kind": "pid"}}
        try:
            with Writer.create(out, meta) as writer:
                for number, (name, (path, _)) in enumerate(steps.items(), start=1):
                    if name == "small":
                        # The journal keeps what it wrote last in memory.
                        shell(f"umount {on_dm}; mount -o noatime /dev/mapper/linear {on_dm}")
                    shell("sync")
                    drop_caches()
                    tracer.drain()
                    tracer.take()
                    tracer.follow(pid)
                    tracer.forget_reads()
                    tracer.load_id = number
                    before = {device: stat(device) for device in (dm, dm_loop, slow_dm)}
                    tracer.poll_threads()
                    os.write(tell, f"{name}\n".encode())
                    told = json.loads(replies.readline())
                    tracer.poll_threads()
                    tracer.drain()
                    rows = tracer.take()
                    own = file_key(path.stat())
                    named = names(pid) | {own: str(path)}
                    reads = described(tracer.file_reads(), named, own, number)
                    for table, found in {**rows, "file_reads": reads}.items():
                        writer.append(table, found)
                    load = {"load_id": number, "strategy": name, "round": 1, "file": str(path)}
                    writer.append("loads", [{**load, "dev": own[0], "ino": own[1], "end_ns": 1}])
                    told_by = {
                        device: [now - then for now, then in zip(stat(device), old, strict=True)]
                        for device, old in before.items()
                    }
                    said[name] = {
                        "told": told, "dm": told_by[dm], "loop": told_by[dm_loop], "name": dm_loop,
                        "slow": told_by[slow_dm],
                    }  # fmt: skip
                writer.update_meta(devices=devices(tracer.devices), lost_events=tracer.lost)
        finally:
            os.close(tell)
            os.waitpid(pid, 0)
            tracer.close()
            memory.unlink()
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1])
