"""The process that holds memory: that it holds it, and that nothing leaves it behind."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dmatrace.errors import CannotHere, DmatraceError
from dmatrace.session import eater
from dmatrace.session.eater import Eater
from dmatrace.session.runner import environment

MIB = 1 << 20
SIZE = 48 * MIB

_OWNER = """
import sys, time
from dmatrace.session.eater import Eater
held = Eater(int(sys.argv[1]))
print(held.pid, flush=True)
{then}
"""


def _held(pid: int) -> int:
    """Bytes of anonymous memory that a process has in RAM."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def _gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_it_holds_all_of_it_until_it_is_closed() -> None:
    held = Eater(SIZE)
    try:
        assert SIZE <= _held(held.pid) < SIZE + 64 * MIB
        held.check()
        score = Path(f"/proc/{held.pid}/oom_score_adj").read_text()
        assert score.strip() == "1000" or os.geteuid() != 0
    finally:
        held.close()
    assert _gone(held.pid)
    held.close()


def test_it_is_not_zero_pages() -> None:
    """Anonymous pages that were only read share one page of zeros; these are its own."""
    held = Eater(SIZE)
    try:
        smaps = Path(f"/proc/{held.pid}/smaps_rollup").read_text()
        dirty = sum(int(each) for each in re.findall(r"Private_Dirty:\s+(\d+) kB", smaps)) * 1024
        assert dirty >= SIZE
    finally:
        held.close()


def _owner(then: str) -> tuple[subprocess.Popen[bytes], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", _OWNER.format(then=then), str(SIZE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,
    )
    assert process.stdout
    return process, int(process.stdout.readline())


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
)
@pytest.mark.parametrize("group", [False, True], ids=["alone", "group"])
def test_it_dies_with_its_owner(number: signal.Signals, group: bool) -> None:
    owner, pid = _owner("time.sleep(600)")
    watched = os.pidfd_open(pid)
    try:
        assert _held(pid) >= SIZE
        (os.killpg if group else os.kill)(owner.pid, number)
        owner.wait()
        assert select.select([watched], [], [], 60)[0], "it is still there"
    finally:
        os.close(watched)
        owner.stdin.close()  # type: ignore[union-attr]
        owner.stdout.close()  # type: ignore[union-attr]


@pytest.mark.parametrize("then", ["sys.exit(0)", "raise ValueError", "import os; os._exit(1)"])
def test_an_owner_that_ends_by_itself(then: str) -> None:
    owner, pid = _owner(f"sys.stdin.readline(); {then}")
    watched = os.pidfd_open(pid)
    try:
        assert owner.stdin
        owner.stdin.close()
        owner.wait()
        assert select.select([watched], [], [], 60)[0], "it is still there"
    finally:
        os.close(watched)
        owner.stdout.close()  # type: ignore[union-attr]


def test_one_that_was_killed_is_noticed() -> None:
    held = Eater(SIZE)
    os.kill(held.pid, signal.SIGKILL)
    held._process.wait()
    with pytest.raises(DmatraceError, match=r"held 48 MiB of memory is gone: ended by signal 9"):
        held.check()
    held.close()


def test_more_than_an_address_space() -> None:
    with pytest.raises(DmatraceError, match=r"cannot be taken: exit code 1; use a smaller"):
        Eater(1 << 62)


def test_a_program_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eater.sys, "executable", "/bin/false")
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(DmatraceError, match="cannot be taken: exit code 1"):
        Eater(MIB)
    assert sorted(os.listdir("/proc/self/fd")) == before


MEMINFO = "MemTotal: 8000000 kB\nMemFree: 100 kB\nMemAvailable: 4194304 kB\n"


def test_how_much_is_available() -> None:
    assert eater.available(MEMINFO) == 4 << 30
    assert eater.available() > MIB
    with pytest.raises(DmatraceError, match="MemAvailable"):
        eater.available("MemTotal: 3 kB\n")


@pytest.mark.parametrize(
    ("eaten", "load", "fits"),
    [
        (2048, 1024, True),
        (4096 - 128 - 1024, 1024, True),
        (4096 - 128 - 1023, 1024, False),
        (1, 4096, False),
    ],
)
def test_room(monkeypatch: pytest.MonkeyPatch, eaten: int, load: int, fits: bool) -> None:
    """4 GiB are available, 128 MiB of them are everyone's."""
    monkeypatch.setattr(eater, "available", lambda: 4 << 30)
    if fits:
        eater.check_room(eaten * MIB, load * MIB)
        return
    with pytest.raises(CannotHere, match="--memory-pressure") as caught:
        eater.check_room(eaten * MIB, load * MIB)
    assert "\n" not in str(caught.value)
    assert ("at most 2.88 GiB" in str(caught.value)) == (load == 1024)
