"""The controller's side of the loader process: answers, deaths, and that it is always reaped."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmatrace.errors import CannotHere, DmatraceError
from dmatrace.session import runner as session_runner
from dmatrace.session.runner import LoadFailed, Runner

SIZE = (1 << 20) + 99


@pytest.fixture
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()
    _assert_reaped(runner.pid)


@pytest.fixture
def file(disk: Path) -> Path:
    path = disk / "data"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


def _assert_reaped(pid: int) -> None:
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _load(runner: Runner) -> None:
    runner.ask("go")
    runner.wait("loaded")


def _prepare(runner: Runner, file: Path, strategy: str = "memfd-bio") -> None:
    runner.ask("prepare", load_id=1, strategy=strategy, file=str(file), block=1 << 16)


def test_a_load(runner: Runner, file: Path) -> None:
    _prepare(runner, file)
    assert runner.wait("prepared")["bytes"] == SIZE
    runner.ask("go")
    loaded = runner.wait("loaded")
    assert {thread["tid"] for thread in loaded["threads"]} == {runner.pid}
    runner.ask("verify")
    assert runner.wait("verified") == {"verified": True, "why": ""}
    runner.ask("close")
    assert runner.wait("closed")["close_ns"] > 0


def test_idle_is_called_while_it_waits(runner: Runner, file: Path) -> None:
    os.kill(runner.pid, signal.SIGSTOP)
    _prepare(runner, file)
    calls: list[int] = []

    def idle() -> None:
        calls.append(1)
        if len(calls) == 2:
            os.kill(runner.pid, signal.SIGCONT)

    assert runner.wait("prepared", idle)["bytes"] == SIZE
    assert len(calls) >= 2


def test_a_failed_load_leaves_it_usable(runner: Runner, file: Path) -> None:
    _prepare(runner, file)
    runner.wait("prepared")
    os.truncate(file, 10)
    runner.ask("go")
    with pytest.raises(LoadFailed, match="changed during the load") as caught:
        runner.wait("loaded")
    assert not caught.value.died
    assert caught.value.code == 1
    _prepare(runner, file)
    assert runner.wait("prepared")["bytes"] == 10


def test_what_cannot_be_prepared(runner: Runner, file: Path, memory: Path) -> None:
    _prepare(runner, file.parent / "missing")
    with pytest.raises(DmatraceError, match="No such file") as caught:
        runner.wait("prepared")
    assert type(caught.value) is DmatraceError
    in_memory = memory / "data"
    in_memory.write_bytes(b"x")
    _prepare(runner, in_memory, "memfd-dio")
    with pytest.raises(CannotHere, match="without direct I/O") as refused:
        runner.wait("prepared")
    assert refused.value.code == 3
    assert refused.value.do


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_killed_child_between_steps(runner: Runner, file: Path, number: signal.Signals) -> None:
    _prepare(runner, file)
    runner.wait("prepared")
    os.kill(runner.pid, number)
    with pytest.raises(LoadFailed, match=rf"ended unexpectedly \(signal {int(number)}\)") as caught:
        _load(runner)
    assert caught.value.died
    assert "dmesg" in caught.value.do
    _assert_reaped(runner.pid)


@pytest.mark.parametrize("watched", [False, True], ids=["waiting", "idling"])
def test_a_child_killed_with_a_step_unread(runner: Runner, file: Path, watched: bool) -> None:
    """Its end of the socket closes with data in it: the kernel says ECONNRESET, not the end."""
    os.kill(runner.pid, signal.SIGSTOP)
    _prepare(runner, file)
    os.kill(runner.pid, signal.SIGKILL)
    with pytest.raises(LoadFailed, match="signal 9") as caught:
        runner.wait("prepared", (lambda: None) if watched else None)
    assert caught.value.died


def test_a_child_that_ends_by_itself(runner: Runner) -> None:
    runner.ask("bye")
    with pytest.raises(LoadFailed, match="exit code 0"):
        runner.wait("prepared")


def test_close_is_safe_to_repeat(file: Path) -> None:
    runner = Runner()
    _prepare(runner, file)
    runner.close()
    _assert_reaped(runner.pid)
    runner.close()


def test_close_ends_a_child_that_does_not_listen() -> None:
    runner = Runner()
    os.kill(runner.pid, signal.SIGSTOP)
    runner.close()
    _assert_reaped(runner.pid)


def test_a_child_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(session_runner.sys, "executable", "/bin/false")
    with pytest.raises(LoadFailed, match="exit code 1"):
        Runner()
    assert len(os.listdir("/proc/self/fd")) <= len(before)


def test_nothing_is_left_open(file: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        runner = Runner()
        _prepare(runner, file)
        runner.wait("prepared")
        runner.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
