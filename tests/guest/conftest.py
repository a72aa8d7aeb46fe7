"""One warm guest per kernel for the whole run; the tests run on the host and command it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dmatrace.errors import CannotHere
from dmatrace.lab import kernels, places
from dmatrace.lab.guest import Guest

# Whatever hangs on the guest's kernel, ours or anyone's, as ftrace, kprobes and BPF tell it.
ATTACHED = (
    "cat /sys/kernel/tracing/enabled_functions /sys/kernel/debug/kprobes/list;"
    " bpftool prog list | grep -a ' name '; bpftool link list; true"
)
SIZE_LIMIT = "/sys/module/udmabuf/parameters/size_limit_mb"


@dataclass(frozen=True)
class Done:
    """One command's end, as text."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What it said on stderr."""
        return self.err.splitlines()


@dataclass(frozen=True)
class Lab:
    """A guest, and a directory that it and the host both see."""

    guest: Guest
    shared: Path

    def run(self, *command: str) -> Done:
        """Run ``command`` in the guest."""
        done = self.guest.run(list(command))
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def shell(self, script: str) -> Done:
        """Run a shell script in the guest."""
        return self.run("bash", "-c", script)

    def must(self, script: str) -> str:
        """stdout of a shell script that must succeed."""
        done = self.shell(script)
        assert done.code == 0, f"{script}\n{done.out}{done.err}"
        return done.out

    def record(self, name: str, *arguments: str) -> dict[str, Any]:
        """``dmatrace record`` in the guest, ``dmatrace report -f json`` of it on the host."""
        out = self.shared / f"{name}.dmt"
        done = self.run("dmatrace", "record", *arguments, "-o", str(out))
        assert done.code == 0, done.err
        assert done.out == f"{out}\n"
        return report(out)


def report(recording: Path) -> dict[str, Any]:
    """The JSON document, made on the host, where there is no bcc."""
    command = [sys.executable, "-m", "dmatrace", "report", str(recording), "-f", "json"]
    done = subprocess.run(command, capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="session", params=kernels.KERNELS, ids=lambda kernel: kernel.name)
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A running guest; tests that use it run once per kernel and share it."""
    machine = Guest(request.param, progress=lambda text: print(text, file=sys.stderr))
    try:
        machine.start()
    except CannotHere as error:
        pytest.skip(f"no guest: {error}")
    try:
        yield machine
    finally:
        machine.stop()


@pytest.fixture(scope="session")
def lab(guest: Guest) -> Iterator[Lab]:
    """The guest with helpers for recordings."""
    shared = places.checkout() / "build" / "tests" / guest.kernel.name
    shutil.rmtree(shared, ignore_errors=True)
    shared.mkdir(parents=True)
    yield Lab(guest, shared)
    shutil.rmtree(shared)
