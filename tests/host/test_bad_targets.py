"""Every target that cannot be traced: one line that says why and what to do, and its exit code.

Real processes of this machine; nothing is compiled, for all of it is known before.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from dmatrace.cli import main
from dmatrace.session import preflight, processes, targets

NOBODY = 65534


@pytest.fixture(autouse=True)
def _as_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What would be looked at before the target; recordings go nowhere."""
    monkeypatch.setattr(preflight, "check_root", lambda: None)
    monkeypatch.setattr(processes, "check_namespace", lambda: None)

    def never(*_: object) -> None:
        raise AssertionError("the target passed")

    monkeypatch.setattr(targets, "check_machine", never)
    monkeypatch.chdir(tmp_path)


def _refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """(exit code, the one line)."""
    try:
        code = main(list(words))
    except SystemExit as ended:
        code = int(str(ended.code))
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert "; " in said.err  # cause; next step
    assert os.listdir() == []
    return code, said.err


@pytest.fixture
def zombie() -> Iterator[int]:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    yield pid
    os.waitpid(pid, 0)


@pytest.fixture
def thread() -> Iterator[int]:
    """The number of a thread of ours that is not the first."""
    done = threading.Event()
    one = threading.Thread(target=done.wait)
    one.start()
    assert one.native_id
    yield one.native_id
    done.set()
    one.join()


def test_a_zombie(zombie: int, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _refused(capsys, "record", "-p", str(zombie))
    assert code == 1
    assert "has ended already: a zombie, which its parent has not waited for" in said


def test_one_that_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    for verb in (("record", "-p"), ("attach",)):
        code, said = _refused(capsys, *verb, str(child.pid))
        assert code == 1
        assert f"there is no process {child.pid}; check -p" in said


def test_a_thread(thread: int, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _refused(capsys, "record", "-p", str(thread))
    assert code == 1
    assert f"{thread} is a thread of process {os.getpid()}" in said
    assert f"trace the process: -p {os.getpid()}" in said


def test_ourselves(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _refused(capsys, "record", "-p", str(os.getpid()))
    assert code == 2
    assert "is dmatrace itself; name another process" in said


def test_one_of_several(zombie: int, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _refused(capsys, "record", "-p", f"{os.getppid()},{zombie}")
    assert code == 1
    assert f"process {zombie} (" in said


def test_a_kernel_thread(capsys: pytest.CaptureFixture[str]) -> None:
    kernels = (pid for pid in processes.pids() if (one := processes.look(pid)) and one.kernel)
    pid = next(kernels, None)
    if pid is None:
        pytest.skip("kernel lacks: threads that this PID namespace shows")
    code, said = _refused(capsys, "record", "-p", str(pid))
    assert code == 1
    assert "is a kernel thread, which loads no file; name the process it works for" in said


@pytest.mark.parametrize("word", ["0", "-3", "x", "1,", "4194304", "1e3", "", "٣", "9" * 5000])
def test_no_number(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _refused(capsys, "record", f"-p={word}")[0] == 2
    if not word.startswith("-"):
        code, said = _refused(capsys, "attach", word)
        assert code == 2
        assert "is no process number" in said


def test_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path.with_name("cgroup")
    (root / "empty").mkdir(parents=True)
    (root / "mine").mkdir()
    (root / "empty" / "cgroup.procs").write_text("")
    (root / "mine" / "cgroup.procs").write_text(f"{os.getpid()}\n")
    monkeypatch.setattr(processes, "Cgroup", partial(processes.Cgroup, root=str(root)))
    for path, says in (
        ("/none", "there is no control group /none"),
        ("/empty", "no process is in control group /empty"),
        ("/mine", "no process but dmatrace itself is in control group /mine"),
    ):
        code, said = _refused(capsys, "record", "--cgroup", path)
        assert (code, says in said) == (1, True), said


def test_commands_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = tmp_path.with_name("plain")
    plain.write_text("no program")
    for word, expected, says in (
        ("no-such-command-here", 127, "there is no such command"),
        ("/nowhere/nothing", 127, "there is no such command"),
        (str(plain), 126, "it may not be executed"),
        ("/etc", 126, "it is a directory"),
    ):
        code, said = _refused(capsys, "record", "--", word)
        assert (code, says in said) == (expected, True), said


def test_a_process_of_another_namespace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A container's own number of a process is named together with the right one."""
    number = max(processes.pids()) + 100_000
    found = [str(os.getpid()), str(number)]
    status = processes._status

    def seen(pid: int, name: str, proc: str) -> list[str]:
        inside = pid == os.getpid() and name == "NSpid"
        return found if inside else status(pid, name, proc)

    monkeypatch.setattr(processes, "_status", seen)
    code, said = _refused(capsys, "record", "-p", str(number))
    assert code == 1
    assert f"in its PID namespace {os.getpid()} (" in said


@pytest.mark.parametrize("words", [["record", "-p"], ["record", "--try", "-p"], ["attach"]])
def test_without_permission(words: list[str]) -> None:
    """Nobody but root loads BPF programs: exit code 3, whoever's the process is."""

    def nobody() -> None:
        if os.geteuid() == 0:
            ctypes.CDLL(None).setgroups(0, None)
            os.setuid(NOBODY)

    done = subprocess.run(
        [sys.executable, "-m", "dmatrace", *words, str(os.getpid())],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, preexec_fn=nobody,
        cwd="/tmp", env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert done.stderr == "dmatrace: tracing needs root; run it with sudo\n"
    assert done.stdout == ""
