"""`dmatrace strategies`: what it lists, for people and for programs, and how it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dmatrace.cli import main
from dmatrace.session import preflight
from dmatrace_loaders import kernel, needs
from dmatrace_loaders.errors import Unseen
from dmatrace_loaders.table import strategies

_KEYS = {
    "name", "flow", "copies", "direct", "sources", "about", "options", "refused", "runs", "why",
    "do",
}  # fmt: skip
_VENDOR = """
from dmatrace_loaders.anon import AnonRead
from dmatrace_loaders.table import Strategy

one = Strategy(
    "acme-dio", "[DISK] -DMA-> [acme]", 0, AnonRead, ("ACME white paper 7",),
    about="Größe \\u2192 " + "an explanation that is longer than a line of a terminal " * 3,
)
"""


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """The table is made once a process; here, once a test."""
    strategies.cache_clear()
    yield
    strategies.cache_clear()


@pytest.fixture
def vendor(tmp_path: Path) -> dict[str, str]:
    """An environment in which a vendor's package with an entry point is installed."""
    (tmp_path / "acme_loaders.py").write_text(_VENDOR)
    info = tmp_path / "acme_loaders-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-loaders\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dmatrace.strategies]\none = acme_loaders:one\n")
    path = os.pathsep.join([str(tmp_path), *(part for part in sys.path if part)])
    return {**os.environ, "PYTHONPATH": path}


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["strategies", "--json", *arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, "--size", "3M")
    assert (found["schema"], found["bytes"], found["file"]) == (1, 3 << 20, None)
    assert found["kernel"] == os.uname().release
    assert [row["name"] for row in found["strategies"]] == list(strategies())
    for row in found["strategies"]:
        strategy = strategies()[row["name"]]
        assert set(row) == _KEYS
        assert row["flow"].startswith("[DISK] -")
        assert row["copies"] == (None if strategy.refused else strategy.copies)
        assert row["sources"] == list(strategy.sources)
        refusal = preflight.why_not(strategy.name, 3 << 20, None)
        assert row["runs"] is (refusal is None)
        assert (row["why"], row["do"]) == (
            (refusal.message, refusal.do) if refusal else (None, None)
        )
        assert row["runs"] or row["do"]


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    rows = _json(capsys, "--size", "3M")["strategies"]
    assert main(["strategies", "--size", "3M"]) == 0
    text = capsys.readouterr().out
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    lines = text.splitlines()
    assert [line for line in lines if len(line) > 79] == []
    assert "\033" not in text
    heads = [line for line in lines if re.match(r"[a-z]", line)]
    assert [head.split()[0] for head in heads] == [row["name"] for row in rows]
    listed, _, notes = text.partition("\n\n")
    flat = " ".join(notes.split())
    for row, head in zip(rows, heads, strict=True):
        below = listed.split(head)[1]
        assert below.splitlines()[1].strip() in row["flow"]
        for source in row["sources"]:
            assert source in " ".join(below.split())
        if row["runs"]:
            assert head.endswith(" runs here")
        else:
            number = re.search(r"cannot run here, see (\[\d+\])$", head)
            assert number
            assert f"{number[1]} {row['why']} -> {row['do']}" in flat
    running = sum(row["runs"] for row in rows)
    assert f"{running} of {len(rows)} can load 3 MiB here" in flat


def test_the_file_decides_too(capsys: pytest.CaptureFixture[str], memory: Path) -> None:
    path = memory / "data"
    path.write_bytes(bytes(5000))
    found = _json(capsys, "--file", str(path))
    assert (found["file"], found["bytes"]) == (str(path), 5000)
    rows = {row["name"]: row for row in found["strategies"]}
    assert rows["anon-bio"]["runs"]
    assert not rows["anon-dio"]["runs"]
    assert "without direct I/O" in rows["anon-dio"]["why"]
    assert "-bio" in rows["anon-dio"]["do"]


def test_what_this_user_may_not_see(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heap = tmp_path / "system"
    heap.touch()
    monkeypatch.setattr(kernel, "HEAP", str(heap))
    monkeypatch.setattr(needs.os, "access", lambda *_: False)
    assert isinstance(preflight.why_not("dmabuf-bio", 1, None), Unseen)
    rows = {row["name"]: row for row in _json(capsys)["strategies"]}
    row = rows["dmabuf-bio"]
    assert (row["runs"], row["why"]) == (None, f"{heap} may not be opened")
    assert row["do"] == "run as root"
    assert rows["anon-bio"]["runs"] is True
    assert main(["strategies"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^dmabuf-bio +1 copy +not seen, see \[1\]$", text, re.MULTILINE)
    unseen = sum(row["runs"] is None for row in rows.values())
    assert f"{unseen} could not be seen" in text
    # Nothing is known to run, but neither is it known that nothing does.
    monkeypatch.setattr(preflight, "why_not", lambda *_: Unseen("it may not be opened"))
    assert main(["strategies"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--size", "1024T"], 3, "no strategy can load 1 PiB here"),
        (["--file", "/none/such"], 1, "cannot read /none/such: No such file"),
        (["--file", "/dev"], 1, "/dev is a directory"),
    ],
)
def test_how_it_ends(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    assert main(["strategies", *arguments]) == code
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith(f"dmatrace: {said}")
    # What keeps each from running is data, whatever the exit code.
    assert bool(captured.out) is (code == 3)


@pytest.mark.parametrize("arguments", [["--size", "much"], ["--size", "1M", "--file", "/x"]])
def test_usage(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["strategies", *arguments])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dmatrace strategies: ")
    assert line.endswith("see dmatrace strategies -h")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_into_a_pipe_that_nobody_reads(form: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "dmatrace", "strategies", *form]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_vendors_strategy(vendor: dict[str, str], encoding: str) -> None:
    def listed(*form: str) -> str:
        command = [sys.executable, "-m", "dmatrace", "strategies", *form]
        environment = {**vendor, "PYTHONIOENCODING": encoding}
        done = subprocess.run(command, capture_output=True, env=environment, check=True)
        assert done.stderr == b""
        return done.stdout.decode(encoding)

    rows = json.loads(listed("--json"))["strategies"]
    assert [row["name"] for row in rows] == [*strategies(), "acme-dio"]
    assert rows[-1]["sources"] == ["ACME white paper 7"]
    assert rows[-1]["about"].startswith("Größe")
    text = listed()
    assert "\nacme-dio " in text
    assert "ACME white paper 7" in text
    assert ("Größe" if encoding == "utf-8" else "Gr??e") in text
    assert [line for line in text.splitlines() if len(line) > 79] == []
