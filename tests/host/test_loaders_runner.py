"""The loader process over its socket: the protocol, its clocks, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dmatrace.session.runner import environment
from dmatrace_loaders.table import strategies

# Those that need nothing of the kernel that a host may lack.
HERE = tuple(
    name
    for name in strategies()
    if name.startswith(("anon-", "memfd-", "filemap-")) and "-cfr-" not in name
)
SIZE = 3 * (1 << 20) + 4321


class Loader:
    """A runner, spoken to in lines of JSON."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "dmatrace_loaders.runner"]
        with theirs:
            self.process = subprocess.Popen(
                [*command, "--control-fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment(),
                stderr=subprocess.PIPE,
            )
        ours.settimeout(60)
        self._socket = ours
        self._lines = ours.makefile("rb")
        self.hello = self.hear()

    def hear(self) -> dict[str, Any]:
        line = self._lines.readline()
        assert line.endswith(b"\n"), self.stderr()
        found = json.loads(line)
        assert isinstance(found, dict)
        assert len(found) == 1 or set(found) == {"verified", "why"}
        return found

    def ask(self, step: str, **what: Any) -> dict[str, Any]:
        self._socket.sendall(json.dumps({step: what}).encode() + b"\n")
        return self.hear()

    def prepare(self, strategy: str, file: Path, **more: Any) -> dict[str, Any]:
        asked = {"load_id": 1, "strategy": strategy, "file": str(file), "block": 1 << 20, **more}
        return self.ask("prepare", **asked)

    def stderr(self) -> str:
        assert self.process.stderr
        return self.process.stderr.read().decode()

    def bye(self) -> int:
        self._socket.sendall(b'{"bye": {}}\n')
        return self.process.wait()

    def end(self) -> None:
        self._lines.close()
        self._socket.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stderr
        self.process.stderr.close()


@pytest.fixture
def loader() -> Iterator[Loader]:
    loader = Loader()
    yield loader
    loader.end()


@pytest.fixture
def file(disk: Path) -> Path:
    path = disk / "data"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


def test_hello_and_bye(loader: Loader) -> None:
    assert loader.hello == {"hello": {"pid": loader.process.pid}}
    assert loader.bye() == 0
    assert loader.stderr() == ""


def test_its_own_code_is_in_memory_before_the_clock_starts(loader: Loader, file: Path) -> None:
    """All pages of the program and its libraries are mapped: none is read within a load."""
    loader.prepare("anon-bio", file)
    mapped = 0
    header = ""
    for line in Path(f"/proc/{loader.process.pid}/smaps").read_text().splitlines():
        name, value, *_ = line.split()
        if "-" in name and value[-1] in "ps":
            header = line
        elif " r-xp " in header and "/" in header and name in ("Size:", "Rss:"):
            mapped += int(value) if name == "Size:" else -int(value)
            seen = header
    assert "/" in seen
    assert mapped == 0


@pytest.mark.parametrize("strategy", HERE)
def test_a_load(loader: Loader, file: Path, strategy: str) -> None:
    status = file.stat()
    assert loader.prepare(strategy, file, load_id=7, verify="full") == {
        "prepared": {"bytes": SIZE, "dev": status.st_dev, "ino": status.st_ino}
    }
    before = time.monotonic_ns()
    loaded = loader.ask("go")["loaded"]
    after = time.monotonic_ns()
    assert loaded["refused"] is None
    assert loaded["module"] is None
    (main,) = loaded["threads"]
    assert main["tid"] == loader.process.pid
    assert main["window"] == 0
    assert before <= main["start_ns"] <= main["end_ns"] <= after
    # The two steps are the window, with nothing between them and nothing left over.
    assert loaded["create_ns"] > 0
    assert loaded["io_ns"] > 0
    assert loaded["create_ns"] + loaded["io_ns"] == main["end_ns"] - main["start_ns"]
    assert 0 <= main["sched_run_ns"] <= after - before
    assert 0 < main["mark_ns"] <= after - before
    assert 0 <= main["sched_wait_ns"] <= after - before
    assert loader.ask("verify") == {"verified": True, "why": ""}
    closed = loader.ask("close")["closed"]
    (main,) = closed["threads"]
    assert main["window"] == 1
    assert main["tid"] == loader.process.pid
    assert closed["close_ns"] == main["end_ns"] - main["start_ns"] > 0
    assert loader.bye() == 0
    assert loader.stderr() == ""


@pytest.mark.parametrize("strategy", ["anon-bio", "memfd-dio"])
@pytest.mark.parametrize("jobs", [2, 3])
def test_each_reading_thread_has_its_record(
    loader: Loader, file: Path, strategy: str, jobs: int
) -> None:
    loader.prepare(strategy, file, block=1 << 16, jobs=jobs, verify="full")
    threads = loader.ask("go")["loaded"]["threads"]
    assert len(threads) == jobs + 1
    assert len({thread["tid"] for thread in threads}) == jobs + 1
    main = threads[-1]
    assert main["tid"] == loader.process.pid
    for thread in threads[:-1]:
        assert main["start_ns"] <= thread["start_ns"] <= thread["end_ns"] <= main["end_ns"]
        assert thread["window"] == 0
        assert thread["sched_run_ns"] >= 0
    assert loader.ask("verify")["verified"] is True
    loader.ask("close")
    # Their records are not counted again in the next load.
    loader.prepare(strategy, file)
    assert len(loader.ask("go")["loaded"]["threads"]) == 1


def test_no_more_threads_than_blocks(loader: Loader, file: Path) -> None:
    loader.prepare("anon-bio", file, block=1 << 20, jobs=64)
    assert len(loader.ask("go")["loaded"]["threads"]) == 4 + 1


def test_what_this_machine_lacks(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the loader's process, wherever the tests run: devices that are not there.
    (tmp_path / "sitecustomize.py").write_text(
        "from dmatrace_loaders import kernel\n"
        "kernel.HEAP = '/dev/dma_heap/none-of-this-name'\n"
        "kernel.UDMABUF = '/dev/udmabuf-none-of-this-name'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    loader = Loader()
    try:
        for strategy, device in {
            "dmabuf-bio": "/dev/dma_heap/none-of-this-name",
            "dmabuf-dio": "/dev/dma_heap/none-of-this-name",
            "udmabuf-dio": "/dev/udmabuf-none-of-this-name",
            "udmabuf-overlap-dio": "/dev/udmabuf-none-of-this-name",
        }.items():
            cannot = loader.prepare(strategy, file)["cannot"]
            assert cannot["code"] == 3
            assert device in cannot["why"]
            assert cannot["do"]
        assert "prepared" in loader.prepare("anon-bio", file)
    finally:
        loader.end()


def test_what_it_cannot_prepare(loader: Loader, disk: Path, memory: Path, file: Path) -> None:
    (disk / "empty").touch()
    os.mkfifo(disk / "fifo")
    (memory / "data").write_bytes(b"x")
    for strategy, path, code, why in (
        ("anon-bio", disk / "missing", 1, "No such file"),
        ("anon-bio", disk / "empty", 1, "is empty"),
        ("anon-bio", disk, 1, "is a directory"),
        ("anon-bio", disk / "fifo", 1, "not a regular file"),
        ("anon-dio", memory / "data", 3, "without direct I/O"),
        ("anon-boi", file, 2, "no strategy is called 'anon-boi'"),
    ):
        cannot = loader.prepare(strategy, path)["cannot"]
        assert cannot["code"] == code, path
        assert why in cannot["why"]
        assert cannot["do"]
    # It goes on afterwards.
    assert "prepared" in loader.prepare("anon-bio", file)
    assert "loaded" in loader.ask("go")


@pytest.mark.parametrize("strategy", HERE)
@pytest.mark.parametrize("jobs", [1, 3])
def test_a_file_that_shrinks_fails_the_load(
    loader: Loader, file: Path, strategy: str, jobs: int
) -> None:
    loader.prepare(strategy, file, block=1 << 16, jobs=jobs)
    os.truncate(file, 1 << 20)
    failed = loader.ask("go")["failed"]
    assert "changed during the load" in failed["why"]
    assert failed["do"]
    file.write_bytes(bytes(SIZE))
    assert "prepared" in loader.prepare(strategy, file)
    assert "loaded" in loader.ask("go")


def test_a_wrong_content_is_told(loader: Loader, file: Path) -> None:
    loader.prepare("memfd-bio", file, verify="full")
    loader.ask("go")
    with file.open("r+b") as other:
        other.seek(12345)
        other.write(bytes([file.read_bytes()[12345] ^ 1]))
    assert loader.ask("verify") == {
        "verified": False,
        "why": f"byte 12345 of {SIZE} differs",
    }
    assert "closed" in loader.ask("close")


def test_a_file_that_vanishes_before_it_is_compared(loader: Loader, file: Path) -> None:
    loader.prepare("memfd-bio", file)
    loader.ask("go")
    file.unlink()
    failed = loader.ask("verify")["failed"]
    assert "No such file" in failed["why"]
    assert "ENOENT" in failed["why"]


def _open(pid: int) -> tuple[int, int, int]:
    """Open fds, mappings of memfds, threads."""
    with open(f"/proc/{pid}/maps") as lines:
        memfds = sum("/memfd:" in line for line in lines)
    return len(os.listdir(f"/proc/{pid}/fd")), memfds, len(os.listdir(f"/proc/{pid}/task"))


def _mapped(pid: int) -> int:
    """Bytes of address space; private mappings cannot be counted, as neighbours merge."""
    with open(f"/proc/{pid}/statm") as line:
        return int(line.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _settled(pid: int) -> tuple[int, int, int]:
    """What is open once only one thread is left: one that was joined may still be ending."""
    deadline = time.monotonic() + 30
    while (found := _open(pid))[2] > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def test_nothing_leaks_over_50_loads(loader: Loader, disk: Path, file: Path) -> None:
    """However a load ends: closed, failed, given up, or prepared over."""
    bad = disk / "bad"
    pid = loader.process.pid

    def whole(strategy: str) -> None:
        loader.prepare(strategy, file, jobs=2, block=1 << 16)
        assert "loaded" in loader.ask("go")
        assert loader.ask("verify")["verified"] is True
        assert "closed" in loader.ask("close")

    def abandoned(strategy: str) -> None:
        loader.prepare(strategy, file)
        assert "loaded" in loader.ask("go")

    def only_prepared(strategy: str) -> None:
        assert "prepared" in loader.prepare(strategy, file)

    def failed(strategy: str) -> None:
        bad.write_bytes(bytes(SIZE))
        loader.prepare(strategy, bad, jobs=2, block=1 << 16)
        os.truncate(bad, 4096)
        assert "failed" in loader.ask("go")

    def refused(strategy: str) -> None:
        assert "cannot" in loader.prepare(strategy, disk / "missing")

    ways = [whole, abandoned, only_prepared, failed, refused]

    def rounds(count: int) -> tuple[tuple[int, int, int], int]:
        """What is open and mapped after them."""
        for n in range(count):
            ways[n % len(ways)](HERE[n % len(HERE)])
        whole("memfd-bio")
        return _settled(pid), _mapped(pid)

    before, mapped = rounds(len(ways) * len(HERE))
    grown = []
    # glibc keeps stacks for further threads, and makes another where one still ends: what is
    # lost is lost each time.
    for _ in range(3):
        after, now = rounds(50)
        assert after == before
        grown.append(now - mapped)
        if grown[-1] < SIZE:
            break
        mapped = now
    assert min(grown) < SIZE, grown
    # The same counts see a load that is open: the file, the memfd, and mmap's own copy of it.
    mapped = _mapped(pid)
    abandoned("memfd-bio")
    assert _open(pid) == (before[0] + 3, before[1] + 1, before[2])
    assert _mapped(pid) - mapped >= SIZE
    loader.ask("close")
    assert _open(pid) == before


def test_it_dies_with_its_controller(file: Path) -> None:
    """A recorder ended by SIGKILL says no bye; its socket may live on in another process."""
    code = (
        "import os, sys, time\n"
        "from dmatrace.session.runner import Runner\n"
        "runner = Runner()\n"
        # A process that keeps the socket open, so that its closing is not what ends the loader.
        "if os.fork() == 0:\n"
        "    time.sleep(600)\n"
        "print(runner.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    controller = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    assert controller.stdout
    try:
        pid = int(controller.stdout.readline())
        loader = os.pidfd_open(pid)
        controller.kill()
        controller.wait()
        _until_gone(loader)
    finally:
        os.killpg(controller.pid, signal.SIGKILL)
        controller.stdout.close()


def test_it_ends_when_its_socket_does(loader: Loader) -> None:
    loader._lines.close()
    loader._socket.close()
    assert loader.process.wait(60) == 0


def test_ctrl_c_is_the_controllers_to_decide(loader: Loader, file: Path) -> None:
    loader.process.send_signal(signal.SIGINT)
    assert "prepared" in loader.prepare("anon-bio", file)


def _until_gone(pidfd: int) -> None:
    readable, _, _ = select.select([pidfd], [], [], 60)
    os.close(pidfd)
    assert readable, "it is still there"
