"""Runs in a guest: a traced process does known things to memory, and others say what they saw.

usage: python3 -m tests.guest.ledger_work OUT.dmt ORACLE.json DIRECTORY

Each experiment is one load of the recording; what cachestat(2), cgroup files,
/proc and clocks say of it goes to ORACLE.json, for the test on the host.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dmatrace.recording import Writer
from dmatrace.session.changes import drop_caches
from dmatrace.session.ledger import Ledger
from dmatrace.session.tracer import Tracer, current_dev_ino
from dmatrace_loaders import kernel

MIB = 1 << 20
PAGE = 4096
SIZE = 16 * MIB
#: Far enough apart that no two are in one readahead window.
PAGES = [97 + 131 * n for n in range(23)]
CGROUP = Path("/sys/fs/cgroup/dmatrace-test")
LIMIT = 24 * MIB


# --- what the traced process does


def read(path: str, start: int, end: int) -> None:
    """Read bytes [start, end) a MiB at a time."""
    fd = os.open(path, os.O_RDONLY)
    for at in range(start, end, MIB):
        os.pread(fd, min(MIB, end - at), at)
    os.close(fd)


def forget(path: str) -> None:
    """posix_fadvise(POSIX_FADV_DONTNEED)."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def touch(path: str, pages: list[int]) -> None:
    """Touch single pages of a mapping."""
    fd = os.open(path, os.O_RDONLY)
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
        for page in pages:
            mapped[page * PAGE]
    os.close(fd)


def sendfile(path: str, to: str, size: int) -> None:
    """sendfile(2) into a file."""
    source, target = os.open(path, os.O_RDONLY), os.open(to, os.O_WRONLY | os.O_CREAT)
    at = 0
    while at < size:
        at += os.sendfile(target, source, at, size - at)
    os.close(source)
    os.close(target)


def join(group: str) -> None:
    """Move into a memory cgroup."""
    Path(group, "cgroup.procs").write_text(str(os.getpid()))


def hold_buffer(size: int, seconds: float) -> list[int]:
    """Allocate from the system heap, wait, release; the clock before and after each."""
    clock = [time.monotonic_ns()]
    fd = kernel.heap_alloc(size)
    clock.append(time.monotonic_ns())
    time.sleep(seconds)
    clock.append(time.monotonic_ns())
    os.close(fd)
    return [*clock, time.monotonic_ns()]


def write_memfd(size: int) -> int:
    """Write a memfd and keep it; its inode."""
    fd = os.memfd_create("ledger")
    os.write(fd, b"x" * size)
    return os.fstat(fd).st_ino


def write(path: str, size: int) -> None:
    """Write a file a MiB at a time."""
    with open(path, "wb", buffering=0) as file:
        for _ in range(size // MIB):
            file.write(b"x" * MIB)


_WORK = {
    f.__name__: f for f in (read, forget, touch, sendfile, join, hold_buffer, write_memfd, write)
}


def work(pipe: Connection) -> None:
    """The traced process: do what is asked, answer."""
    while True:
        name, *arguments = pipe.recv()
        if name == "end":
            return
        pipe.send(_WORK[name](*arguments))


# --- who records


class Session:
    """A tracer that follows one process, and one recording."""

    def __init__(self, out: str, pid: int, pipe: Connection) -> None:
        self.pid, self._pipe = pid, pipe
        self.tracer = Tracer()
        meta = {
            "kernel": os.uname().release,
            "hooks": self.tracer.hooks,
            "target": {"kind": "pid", "pids": [pid]},
        }
        self.writer = Writer.create(out, meta)
        self.tracer.follow(pid)
        self.ledger = Ledger(self.tracer, self.writer, 0.05, lambda: [pid])
        self.oracle: dict[str, Any] = {}
        self._number = 0

    def ask(self, *what: Any) -> Any:
        """Have the traced process do something; sample until it has."""
        self._pipe.send(what)
        while not self._pipe.poll(0.02):
            self.tracer.drain()
            self.ledger.sample()
        return self._pipe.recv()

    def _flush(self) -> None:
        self.tracer.poll_threads()
        self.tracer.drain()
        for table, rows in self.tracer.take().items():
            self.writer.append(table, rows)

    @contextlib.contextmanager
    def load(self, name: str, path: str, *, cold: bool = True) -> Iterator[dict[str, Any]]:
        """One experiment on a file; yields its oracle."""
        if cold:
            drop_caches()
        self._flush()
        self._number += 1
        said: dict[str, Any] = {"cached_before": cached(path)}
        self.tracer.load_id = self._number
        dev, ino = current_dev_ino(path)
        row: dict[str, Any] = {
            "load_id": self._number, "strategy": name, "round": 1, "file": path, "dev": dev,
            "ino": ino, "bytes": os.stat(path).st_size,
        }  # fmt: skip
        self.tracer.pages.reset(dev, ino)
        self.tracer.poll_threads()
        self.ledger.begin({(dev, ino): said["cached_before"]})
        row["start_ns"] = time.monotonic_ns()
        vmstat, psi = counters("/proc/vmstat"), pressure()
        yield said
        said["vmstat"] = {k: v - vmstat[k] for k, v in counters("/proc/vmstat").items()}
        said["psi_us"] = [psi, pressure()]
        self.ledger.end()
        said["cached_after"] = cached(path) if os.path.exists(path) else 0
        row["end_ns"] = time.monotonic_ns()
        self.tracer.poll_threads()
        self.tracer.drain()
        self.tracer.open_runs()
        for table, rows in self.tracer.take().items():
            self.writer.append(table, rows)
        self.writer.append("loads", [row])
        self.tracer.load_id = -1
        self.oracle[name] = said

    def close(self) -> None:
        self.writer.update_meta(lost_events=self.tracer.lost)
        self.tracer.close()
        self.writer.close()


def cached(path: str) -> int:
    """Bytes of a file in the page cache: fincore(1), which asks mincore(2) on older kernels."""
    done = subprocess.run(
        ["fincore", "-bnro", "RES", path], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def counters(path: str) -> dict[str, int]:
    """A file of names and numbers."""
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return {name: int(value) for name, value in lines}


def pressure() -> int:
    """Of /proc/pressure/memory: some, total in us."""
    first = Path("/proc/pressure/memory").read_text().splitlines()[0]
    return int(first.rpartition("=")[2])


def by_another(script: str) -> None:
    """A shell that is not traced."""
    subprocess.run(["sh", "-c", script], check=True)


def files(session: Session, directory: str) -> None:
    """What a process, drop_caches, truncate and unlink do to a file in the page cache."""
    path, other, target = (f"{directory}/{name}" for name in ("one", "two", "target"))
    for name in (path, other):
        with open(name, "wb") as file:
            file.write(os.urandom(SIZE))
    os.sync()
    with session.load("half", path):
        session.ask("read", path, 0, SIZE // 2)
    with session.load("forget", path):
        session.ask("read", path, 0, SIZE)
        session.ask("forget", path)
    with session.load("drop", path) as said:
        session.ask("read", path, 0, SIZE)
        said["held"] = cached(path)
        time.sleep(1)
        by_another("echo 1 >/proc/sys/vm/drop_caches")
    with session.load("truncate", path):
        session.ask("read", path, 0, SIZE)
        by_another(f"truncate -s {SIZE // 2} {path}")
    with session.load("two", path) as said:
        session.ask("read", path, 0, SIZE // 2)
        session.ask("read", other, 0, SIZE)
        said["other"] = cached(other)
        said["other_ino"] = os.stat(other).st_ino
    with session.load("splice", path):
        session.ask("sendfile", path, "/dev/shm/target", SIZE // 2)
    os.unlink("/dev/shm/target")
    with session.load("touch", other) as said:
        session.ask("touch", other, PAGES)
    with session.load("unlink", other):
        session.ask("read", other, 0, SIZE)
        by_another(f"rm {other}")
    with session.load("written", path, cold=False) as said:
        session.ask("write", target, SIZE)
        said["target_ino"] = os.stat(target).st_ino
        said["target"] = cached(target)
        os.unlink(target)
    os.unlink(path)


def memory(session: Session, directory: str) -> None:
    """A dma-buf held for a while, a memfd, large folios."""
    path = f"{directory}/three"
    Path(path).write_bytes(b"x")
    if os.path.exists(kernel.HEAP):
        with session.load("heap", path) as said:
            said["clock"] = session.ask("hold_buffer", 8 * MIB, 1.0)
    with session.load("memfd", path) as said:
        said["ino"] = session.ask("write_memfd", 5 * MIB)
    os.makedirs("/tmp/huge", exist_ok=True)
    by_another("mount -t tmpfs -o huge=always none /tmp/huge")
    with session.load("huge", path) as said:
        session.ask("write", "/tmp/huge/file", 6 * MIB)
        said["ino"] = os.stat("/tmp/huge/file").st_ino
        said["used"] = os.stat("/tmp/huge/file").st_blocks * 512
    by_another("umount /tmp/huge")
    os.unlink(path)


def xfs(session: Session, directory: str) -> None:
    """Large folios in the page cache, where the image can make an xfs."""
    if not shutil.which("mkfs.xfs"):
        return
    made = subprocess.run(
        f"modprobe -a loop xfs; truncate -s 400M {directory}/disk && mkfs.xfs -q {directory}/disk"
        f" && mkdir -p /tmp/xfs && mount -o loop {directory}/disk /tmp/xfs",
        shell=True,
    )
    if made.returncode:
        return  # this kernel's xfs or loop device: the test says so
    path = "/tmp/xfs/file"
    Path(path).write_bytes(os.urandom(SIZE))
    os.sync()
    with session.load("xfs", path):
        session.ask("read", path, 0, SIZE)
    by_another(f"umount /tmp/xfs && rm {directory}/disk")


def cgroup(session: Session, directory: str) -> None:
    """More than a memory cgroup may have, twice: reclaim takes it, and it comes back."""
    path = f"{directory}/four"
    with open(path, "wb") as file:
        for _ in range(48):
            file.write(os.urandom(MIB))
    os.sync()
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        by_another("mount -t cgroup2 none /sys/fs/cgroup")
    Path("/sys/fs/cgroup/cgroup.subtree_control").write_text("+memory")
    CGROUP.mkdir()
    (CGROUP / "memory.max").write_text(str(LIMIT))
    with session.load("cgroup", path) as said:
        session.ask("join", str(CGROUP))
        before = counters(str(CGROUP / "memory.stat"))
        session.ask("read", path, 0, 48 * MIB)
        session.ask("read", path, 0, 48 * MIB)
        after = counters(str(CGROUP / "memory.stat"))
        said["stat"] = {name: after[name] - before[name] for name in after}
    session.ask("join", "/sys/fs/cgroup")
    CGROUP.rmdir()
    os.unlink(path)


def main() -> None:
    """Run the experiments."""
    out, oracle, directory, *names = sys.argv[1:]
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs,))
    process.start()
    assert process.pid
    session = Session(out, process.pid, ours)
    parts: tuple[Callable[[Session, str], None], ...] = (files, memory, xfs, cgroup)
    try:
        for part in parts:
            if not names or part.__name__ in names:
                part(session, directory)
    finally:
        ours.send(("end",))
        process.join()
        session.close()
        Path(oracle).write_text(json.dumps(session.oracle))


if __name__ == "__main__":
    main()
