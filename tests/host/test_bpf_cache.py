"""Compiled programs that are kept: what names one, and when it is as if there were none."""

from __future__ import annotations

import hashlib
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from dmatrace.bpf import cache, compiler
from dmatrace.bpf.compiler import Compiled, MapDefinition, rewritten
from dmatrace.errors import CannotHere, DmatraceError

MOV = struct.pack("=BBhi", 0xB7, 0, 0, 7)


def load_map(number: int, kind: int = 1) -> bytes:
    """A 64-bit immediate, in the room of two instructions."""
    return struct.pack("=BBhiBBhi", 0x18, 1 | kind << 4, 0, number, 0, 0, 0, 0)


PROGRAM = Compiled(
    (MapDefinition("threads", 1, 4, 64, 16, 0), MapDefinition("lost", 2, 4, 8, 1, 0)),
    {"f": MOV + load_map(1) + load_map(0), "g": MOV},
)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a bcc that is there."""
    bcc = tmp_path / "bcc"
    bcc.mkdir()
    (bcc / "version.py").write_text("__version__ = '0.31.0'")
    (bcc / "libbcc.py").write_text("")
    monkeypatch.setattr(cache, "find_bcc", lambda: bcc)
    monkeypatch.setenv("DMATRACE_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def test_references_to_maps_become_descriptors() -> None:
    code = PROGRAM.linked("f", [30, 40])
    assert code == MOV + load_map(40) + load_map(30)
    assert PROGRAM.linked("g", [30, 40]) == MOV


def test_a_plain_number_is_no_map() -> None:
    number = load_map(1, kind=0)
    assert rewritten(number, lambda _: 99) == number


def test_what_is_neither_is_refused() -> None:
    with pytest.raises(DmatraceError, match="of kind 2"):
        rewritten(load_map(1, kind=2), lambda _: 99)


def test_dumped_and_parsed() -> None:
    assert Compiled.parse(PROGRAM.dump()) == PROGRAM


def test_written_and_read(kept: Path) -> None:
    assert cache.read("name") is None
    cache.write("name", PROGRAM)
    assert cache.read("name") == PROGRAM
    assert kept.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in kept.iterdir()] == ["name"]
    assert (kept / "name").stat().st_mode & 0o777 == 0o600


def _linked_elsewhere(file: Path) -> None:
    os.link(file, file.with_name("second"))


def _symlink(file: Path) -> None:
    file.rename(file.with_name("real"))
    file.symlink_to("real")


def _damaged(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-2] ^= 1
    file.write_bytes(data)


def _of_another(file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("kernel lacks: the right to give files away")
    os.chown(file, 12345, 12345)


def _directory_of_another(file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("kernel lacks: the right to give files away")
    os.chown(file.parent, 12345, 12345)


def _not_ours_inside(file: Path) -> None:
    """The digest is right, the content nobody's."""
    data = b'{"maps": 3}'
    file.write_bytes(hashlib.sha256(data).hexdigest().encode() + b"\n" + data)


@pytest.mark.parametrize(
    "spoil",
    [
        _linked_elsewhere,
        _symlink,
        _damaged,
        _of_another,
        _directory_of_another,
        _not_ours_inside,
        lambda file: file.chmod(0o640),
        lambda file: file.chmod(0o602),
        lambda file: file.parent.chmod(0o750),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-9]),
        lambda file: (file.unlink(), file.mkdir()),
        lambda file: (file.unlink(), os.mkfifo(file)),
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_what_is_off_is_not_there(kept: Path, spoil: Callable[[Path], object]) -> None:
    cache.write("name", PROGRAM)
    spoil(kept / "name")
    assert cache.read("name") is None


def test_a_directory_that_others_may_enter_is_not_written(kept: Path) -> None:
    kept.mkdir(mode=0o755)
    cache.write("name", PROGRAM)
    assert list(kept.iterdir()) == []


def test_the_name_is_of_everything_it_depends_on(
    kept: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    form = tmp_path / "format"
    form.write_text("field:u64 ino")
    names = [cache.key("text", ["-DA=1"], [form])]
    names.append(cache.key("text2", ["-DA=1"], [form]))
    names.append(cache.key("text", ["-DA=2"], [form]))
    names.append(cache.key("text", ["-DA=1"]))
    form.write_text("field:u32 ino")
    names.append(cache.key("text", ["-DA=1"], [form]))
    (cache.find_bcc() / "version.py").write_text("__version__ = '0.35.0'")
    names.append(cache.key("text", ["-DA=1"], [form]))
    for name in ("release", "version", "machine"):
        monkeypatch.setattr(cache.platform, name, lambda: "another")
        names.append(cache.key("text", ["-DA=1"], [form]))
    assert len(set(names)) == len(names)
    assert cache.key("text", ["-DA=1"], [form]) == names[-1]
    # Where a part ends matters, the order of flags does not.
    assert cache.key("text", ["-DB", "-DA"]) == cache.key("text", ["-DA", "-DB"])
    assert cache.key("text-", ["DA"]) != cache.key("text", ["-DA"])


def test_compiled_once(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def compile_with_bcc(*arguments: object) -> Compiled:
        calls.append(arguments)
        return PROGRAM

    monkeypatch.setattr(cache, "compile_with_bcc", compile_with_bcc)
    assert cache.compiled("text", [], [], []) == (PROGRAM, False)
    assert cache.compiled("text", [], [], []) == (PROGRAM, True)
    assert cache.compiled("other", [], [], []) == (PROGRAM, False)
    assert len(calls) == 2


def test_a_cache_that_cannot_be_written_is_no_failure(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.write_text("in the way")
    monkeypatch.setattr(cache, "compile_with_bcc", lambda *_: PROGRAM)
    assert cache.compiled("text", [], [], []) == (PROGRAM, False)


def test_without_bcc_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CannotHere, match="apt install python3-bpfcc"):
        compiler.find_bcc()


def test_another_package_called_bcc_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda _: found)
    with pytest.raises(CannotHere, match="not the BPF Compiler Collection"):
        compiler.find_bcc()


def test_reading_needs_no_bcc(kept: Path) -> None:
    cache.write("name", PROGRAM)
    assert cache.read("name") == PROGRAM
    assert "bcc" not in sys.modules
