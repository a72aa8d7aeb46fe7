"""What dmatrace changes on the system is put back on every way out, SIGKILL included.

The "parameter" is a plain file; that a module's own is restored, too, is a
matter of the guest tests.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmatrace.errors import DmatraceError
from dmatrace.session.changes import Parameter, TemporaryFile
from dmatrace.session.runner import environment

_OWNER = """
import sys, time
from dmatrace.session.changes import Parameter, TemporaryFile
kept = [Parameter(path, value, lambda _: None) for path, value in zip(*[iter(sys.argv[2:])] * 2)]
kept.append(TemporaryFile(sys.argv[1]))
print("changed", flush=True)
{then}
"""


@pytest.fixture
def parameter(tmp_path: Path) -> Path:
    path = tmp_path / "size_limit_mb"
    path.write_text("64\n")
    return path


@pytest.fixture(autouse=True)
def _no_child_is_left() -> Iterator[None]:
    before = _children()
    yield
    assert _children() == before


def _children() -> str:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def test_it_is_changed_and_restored(parameter: Path) -> None:
    said: list[str] = []
    change = Parameter(str(parameter), "2048", said.append)
    assert parameter.read_text() == "2048"
    change.restore()
    assert parameter.read_text().strip() == "64"
    assert said == [
        f"{parameter}: 64 -> 2048 (restored at the end)",
        f"{parameter}: restored to 64",
    ]
    # A second time does nothing: someone else may have changed it since.
    parameter.write_text("128\n")
    change.restore()
    assert parameter.read_text() == "128\n"
    assert len(said) == 2


def test_a_change_within_a_change(parameter: Path) -> None:
    outer = Parameter(str(parameter), "128", lambda _: None)
    inner = Parameter(str(parameter), "256", lambda _: None)
    inner.restore()
    assert parameter.read_text().strip() == "128"
    outer.restore()
    assert parameter.read_text().strip() == "64"


@pytest.mark.parametrize("value", ["", "Y", "a b", "-1", "$(id)", "%s\\n", "'\"`", "-n"])
def test_any_old_value_comes_back_as_it_was(parameter: Path, value: str) -> None:
    parameter.write_text(value)
    Parameter(str(parameter), "1", lambda _: None).restore()
    assert parameter.read_text() == value


def test_any_path(tmp_path: Path) -> None:
    path = tmp_path / "-a b$(id)'\"%s"
    path.write_text("64")
    change = Parameter(str(path), "1", lambda _: None)
    assert path.read_text() == "1"
    change.restore()
    assert path.read_text() == "64"


def test_dropping_it_restores_too(parameter: Path) -> None:
    """An exception between the change and whatever would have restored it."""

    def fails() -> None:
        change = Parameter(str(parameter), "2048", lambda _: None)
        assert change.old == "64"
        raise KeyboardInterrupt

    # Not pytest.raises: it keeps the traceback, and with it the frame that holds the change.
    with contextlib.suppress(KeyboardInterrupt):
        fails()
    gc.collect()
    assert parameter.read_text().strip() == "64"


def _owner(then: str, *arguments: str) -> subprocess.Popen[bytes]:
    # A pipe that the watchers do not get: it ends when the owner does, not when they do.
    process = subprocess.Popen(
        [sys.executable, "-c", _OWNER.format(then=then), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    assert process.stdout
    assert process.stdout.readline() == b"changed\n"
    return process


def _watchers_of(pid: int) -> list[int]:
    """Their pidfds: each becomes readable when its watcher has ended."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [os.pidfd_open(int(child)) for child in children]


def _wait(pidfds: list[int]) -> None:
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], 60)[0], "a watcher is still there"
        os.close(pidfd)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
)
def test_after_the_owners_death(tmp_path: Path, parameter: Path, number: signal.Signals) -> None:
    other, made = tmp_path / "other", tmp_path / "made.bin"
    other.write_text("N\n")
    made.write_bytes(b"large")
    owner = _owner(
        "time.sleep(600)", str(made), str(parameter), "2048", str(other), "Y"
    )  # fmt: skip
    assert (parameter.read_text(), other.read_text()) == ("2048", "Y")
    watchers = _watchers_of(owner.pid)
    assert len(watchers) == 3
    # As the terminal does it: to the whole group.
    os.killpg(owner.pid, number)
    owner.wait()
    assert owner.stdin
    owner.stdin.close()
    assert owner.stdout
    owner.stdout.close()
    _wait(watchers)
    assert parameter.read_text().strip() == "64"
    assert other.read_text().strip() == "N"
    assert not made.exists()


@pytest.mark.parametrize("then", ["sys.exit(0)", "raise ValueError", "import os; os._exit(1)"])
def test_an_owner_that_ends_without_restoring(tmp_path: Path, parameter: Path, then: str) -> None:
    made = tmp_path / "made.bin"
    made.write_bytes(b"large")
    owner = _owner(
        f"sys.stdin.readline(); sys.stderr.close(); {then}", str(made), str(parameter), "2048"
    )
    assert parameter.read_text() == "2048"
    watchers = _watchers_of(owner.pid)
    assert len(watchers) == 2
    assert owner.stdin
    owner.stdin.close()
    owner.wait()
    assert owner.stdout
    owner.stdout.close()
    _wait(watchers)
    assert parameter.read_text().strip() == "64"
    assert not made.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_watcher_outlives_the_signals_of_its_group(
    parameter: Path, number: signal.Signals
) -> None:
    change = Parameter(str(parameter), "2048", lambda _: None)
    (child,) = set(_children().split())
    os.kill(int(child), number)
    assert parameter.read_text() == "2048"
    change.restore()
    assert parameter.read_text().strip() == "64"


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DmatraceError, match=r"cannot read .*: No such file") as caught:
        Parameter(str(tmp_path / "missing"), "1", lambda _: None)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written() -> None:
    """A file of /proc without a write operation, which refuses root, too."""
    path = "/proc/version"
    before = Path(path).read_text()
    said: list[str] = []
    with pytest.raises(DmatraceError, match=f"cannot set {path}: ") as caught:
        Parameter(path, "1", said.append)
    assert "\n" not in str(caught.value)
    assert caught.value.do == "run as root"
    assert said == []
    assert Path(path).read_text() == before


def test_a_file_made_for_the_occasion(tmp_path: Path) -> None:
    path = tmp_path / "-made"
    path.write_bytes(b"x")
    temporary = TemporaryFile(str(path))
    assert path.exists()
    temporary.remove()
    assert not path.exists()
    path.write_bytes(b"someone else's")
    temporary.remove()
    assert path.exists()
    TemporaryFile(str(tmp_path / "never made")).remove()
