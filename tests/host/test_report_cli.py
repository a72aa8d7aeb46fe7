"""`dmatrace report`: colour only where it belongs, JSON, and one-line errors."""

from __future__ import annotations

import argparse
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import synthetic

from dmatrace.analysis import document
from dmatrace.cli import report
from dmatrace.errors import DmatraceError
from dmatrace.recording import Recording

_RUN = """
import argparse, sys
from dmatrace.cli import report
parser = argparse.ArgumentParser(prog="dmatrace report")
report.configure(parser)
sys.exit(report.run(parser.parse_args()))
"""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return synthetic.write(tmp_path / "a.dmt")


def _environment(extra: dict[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
    return {**kept, "TERM": "xterm", **extra}


def _on_terminal(out: Path, *arguments: str, **environment: str) -> str:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN, str(out), *arguments],
        stdout=follower,
        env=_environment(environment),
    )
    os.close(follower)
    text = b""
    try:
        while part := os.read(leader, 65536):
            text += part
    except OSError:
        pass  # EIO: the other end is closed
    os.close(leader)
    assert process.wait() == 0
    return text.decode()


def _piped(out: Path, *arguments: str, **environment: str) -> bytes:
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(out), *arguments],
        stdout=subprocess.PIPE,
        env=_environment(environment),
        check=True,
    )
    return done.stdout


def test_colour_is_for_terminals(out: Path) -> None:
    assert "\033[" in _on_terminal(out)
    assert b"\033" not in _piped(out)
    assert b"\033" in _piped(out, "--color", "always")


def test_no_color_holds_unless_told_otherwise(out: Path) -> None:
    assert "\033" not in _on_terminal(out, NO_COLOR="1")
    assert "\033[" in _on_terminal(out, NO_COLOR="")
    assert "\033[" in _on_terminal(out, "--color", "always", NO_COLOR="1")
    assert "\033" not in _on_terminal(out, "--color", "never")
    assert "\033" not in _on_terminal(out, TERM="dumb")


def test_an_ascii_terminal_gets_ascii(out: Path) -> None:
    assert _piped(out, PYTHONIOENCODING="ascii").isascii()
    assert "█".encode() in _piped(out, PYTHONIOENCODING="utf-8")


def test_json_is_the_document(out: Path) -> None:
    assert json.loads(_piped(out, "-f", "json")) == document(Recording.open(out))
    assert b"\033" not in _piped(out, "-f", "json", "--color", "always")


def test_help_ends_with_examples() -> None:
    parser = argparse.ArgumentParser(prog="dmatrace report")
    report.configure(parser)
    text = parser.format_help()
    assert max(map(len, text.splitlines())) < 80
    examples = text.split("examples:\n")[1].splitlines()
    assert len(examples) >= 3
    assert all(line.startswith("  dmatrace report ") for line in examples)


def test_the_examples_parse() -> None:
    parser = argparse.ArgumentParser(prog="dmatrace report")
    report.configure(parser)
    for line in report._EXAMPLES.splitlines()[1:]:
        words = line.split("  as text")[0].split("|")[0].split(">")[0].split()[2:]
        assert parser.parse_args(words).recording == "load.dmt"


def test_what_is_no_recording_is_an_error_of_one_line(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    report.configure(parser)
    with pytest.raises(DmatraceError) as caught:
        report.run(parser.parse_args([str(tmp_path / "absent")]))
    assert "\n" not in str(caught.value)
    assert caught.value.code == 1
