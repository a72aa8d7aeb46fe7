"""Which QEMU runs a guest."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dmatrace.errors import DmatraceError
from dmatrace.lab import accel, emulator, image, places


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose own QEMU says what the test writes into this file."""
    said = tmp_path / "said"
    program = tmp_path / "bin" / emulator.NAME
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat {said}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(image, "need_builder", lambda: None)
    return said


def _quiet(text: str) -> None:
    pass


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """mmdebstrap's command lines; it leaves what a Debian tree would have."""
    calls: list[list[str]] = []

    def call(what: str, argv: list[str], *, env: dict[str, str] | None = None) -> None:
        calls.append(argv)
        binary = Path(argv[-1], "usr/bin", emulator.NAME)
        binary.parent.mkdir(parents=True)
        binary.write_text("")

    monkeypatch.setattr(image, "call", call)
    return calls


@pytest.mark.parametrize(
    ("said", "accelerator", "own"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)", ("-accel", "tcg"), False),
        ("QEMU emulator version 8.0.4", ("-accel", "tcg"), False),
        ("QEMU emulator version 8.1.0", ("-accel", "tcg"), True),
        ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)", ("-accel", "tcg"), True),
        ("QEMU emulator version 7.2.22", accel.KVM, True),
    ],
)
def test_an_old_qemu_is_not_used_to_emulate(
    qemu: Path, taken: list[list[str]], said: str, accelerator: tuple[str, ...], own: bool
) -> None:
    qemu.write_text(said)
    command = emulator.command(accelerator, _quiet)
    assert (command == [emulator.NAME]) is own
    assert len(taken) == (0 if own else 1)
    if not own:
        # What the process is called, and what it then runs.
        assert Path(command[0]).name == emulator.NAME
        assert Path(command[command.index("--library-path") + 2]).exists()


def test_it_is_taken_once_and_cleaned(qemu: Path, taken: list[list[str]]) -> None:
    qemu.write_text("QEMU emulator version 7.2.22")
    first = emulator.command(("-accel", "tcg"), _quiet)
    assert emulator.command(("-accel", "tcg"), _quiet) == first
    assert len(taken) == 1
    assert image.clean(_quiet) == 1
    assert not list(places.cache().glob(f"{image.EMULATOR_PREFIX}*"))


def test_a_half_taken_one_is_never_used(qemu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(what: str, argv: list[str], *, env: dict[str, str] | None = None) -> None:
        Path(argv[-1], "usr/bin").mkdir(parents=True)
        raise DmatraceError(f"{what} failed")

    qemu.write_text("QEMU emulator version 7.2.22")
    monkeypatch.setattr(image, "call", fail)
    for _ in range(2):
        with pytest.raises(DmatraceError, match="mmdebstrap failed"):
            emulator.command(("-accel", "tcg"), _quiet)
    assert all(path.name.endswith(".lock") for path in places.cache().iterdir())


def test_a_version_that_cannot_be_read_is_an_error(qemu: Path) -> None:
    qemu.write_text("no version at all")
    with pytest.raises(DmatraceError, match="no version at all"):
        emulator.version()


@pytest.mark.skipif(not Path("/usr/bin/qemu-system-x86_64").exists(), reason="no QEMU here")
def test_the_machines_own_version_is_read() -> None:
    said = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True)
    major, minor = emulator.version()
    assert f"version {major}.{minor}." in said.stdout
