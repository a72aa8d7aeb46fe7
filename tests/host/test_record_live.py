"""`dmatrace record --live`: what the recorder under the view is asked for, and where to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dmatrace import tui
from dmatrace.cli import live, main
from dmatrace.session import preflight
from dmatrace.tui import Recorded


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, object]]:
    """What the view was asked to show, by root on a terminal; the recorder returns 7."""
    found: list[dict[str, object]] = []

    def shown(words: list[str], **options: object) -> Recorded:
        found.append({"words": words, **options})
        Path(str(options["keep"])).mkdir()
        return Recorded(7, ("dmatrace: anon-dio round 1 failed: no\x1b[2J reason",))

    monkeypatch.setattr(live, "on_terminal", lambda: True)
    monkeypatch.setattr(tui, "run_recorder", shown)
    monkeypatch.setattr(preflight, "check_root", lambda: None)
    monkeypatch.chdir(tmp_path)
    return found


def test_without_a_terminal_it_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", "--live", "-p", "1"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "dmatrace: --live needs a terminal; leave it out, and read with `report`\n"


@pytest.mark.parametrize(
    ("given", "words", "keep", "title"),
    [
        (
            ["--live", "--strategy", "anon-dio,anon-bio", "--size", "1M", "--rounds", "2"],
            ["--strategy", "anon-dio,anon-bio", "--size", "1M", "--rounds", "2"],
            "anon-dio+1.dmt",
            "anon-dio,anon-bio of a file",
        ),
        (
            ["--strategy", "all", "--file", "m", "--li", "-o", "x.dmt", "--force"],
            ["--strategy", "all", "--file", "m", "-o", "x.dmt", "--force"],
            "x.dmt",
            "all of m",
        ),
        (
            ["--live", "-d", "2m", "--", "/bin/sh", "-c", "exit", "--live"],
            ["-d", "2m", "--", "/bin/sh", "-c", "exit", "--live"],
            "sh.dmt",
            "/bin/sh -c exit --live",
        ),
        (["--live", "--comm", "none-such"], ["--comm", "none-such"], "none-such.dmt", None),
        (["--dma-bufs", "--live"], ["--dma-bufs"], "dma-bufs.dmt", "processes that use dma-bufs"),
    ],
)
def test_the_recorder_gets_the_users_words(
    asked: list[dict[str, object]],
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    words: list[str],
    keep: str,
    title: str | None,
) -> None:
    code = main(["record", *given])
    (one,) = asked
    assert (one["words"], one["keep"]) == (words, keep)
    assert one["group"] == ("--" in given)
    assert one["title"] == (title or "processes none-such")
    said = capsys.readouterr()
    assert said.out == f"{keep}\n"
    # What it ended with, and why, in words that do nothing to the terminal.
    assert code == 7
    assert said.err.startswith("dmatrace: anon-dio round 1 failed: no")
    assert "\x1b" not in said.err


def test_the_name_is_that_of_a_recording_without_the_view(asked: list[dict[str, object]]) -> None:
    main(["record", "--live", "-p", str(os.getppid())])
    comm = Path(f"/proc/{os.getppid()}/comm").read_text().strip()
    assert asked[0]["keep"] == f"{comm}-{os.getppid()}.dmt"
    assert asked[0]["title"] == f"PID {os.getppid()}"


def test_what_cannot_be_recorded_opens_no_view(
    asked: list[dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", "--live", "--", "/none/such"]) == 127
    assert main(["record", "--live", "-p", "4194303"]) == 1
    assert main(["record", "--live", "--strategy", "anon-dio"]) == 2
    assert capsys.readouterr().err.count("\n") == 3
    assert asked == []


def test_words_of_other_options_stay() -> None:
    given = ["record", "--live", "--load-module", "-d", "1", "--", "--live"]
    assert live.words(given) == ["--load-module", "-d", "1", "--", "--live"]


@pytest.mark.parametrize(
    ("more", "sampled"), [((), ["--interval", "2.0s"]), (("-o", "kept.dmt"), [])]
)
def test_top_has_memory_sampled_as_often_as_it_draws(
    more: tuple[str, ...], sampled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording that is kept has the recorder's own interval."""
    found: list[tuple[list[str], object]] = []

    def shown(words: list[str], *, interval: float, **_options: object) -> None:
        found.append((words, interval))

    monkeypatch.setattr(tui, "run_recorder", shown)
    monkeypatch.setattr(preflight, "check_root", lambda: None)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert main(["top", "-p", "4711", "--interval", "2", *more]) == 0
    assert found == [(["-p", "4711", *sampled], 2.0)]
