"""``dmatrace bench``'s command line: one-line errors, where output goes, saved benches."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import bench_data
import pytest
from bench_data import MIB

from dmatrace import cli
from dmatrace.analysis.bench import evaluate
from dmatrace.cli import bench
from dmatrace.report.bench import csv, text
from dmatrace.report.bench import json as as_json

MEASURED = bench_data.measurements("H3", (256 * MIB,))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "h3.json"
    path.write_text(as_json.render(evaluate(MEASURED)))
    return path


def _fails(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    try:
        found = cli.main(["bench", *arguments])
    except SystemExit as error:  # argparse's own
        found = int(error.code or 0)
    said = capsys.readouterr()
    assert said.out == ""
    assert found == code, said.err
    (line,) = said.err.splitlines()
    assert line.startswith("dmatrace")
    return line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--table", "H4"], "'V2', 'LL', 'H2', 'H3'"),
        (["--sizes", "3Q"], "write 512K, 8M"),
        (["--sizes", "1M,"], "not a size: ''"),
        (["--size", "1M", "--sizes", "1M"], "not allowed with"),
        (["--size", "1M", "--file", "x"], "not allowed with"),
        (["--rounds", "0"], "not a whole number above 0"),
        (["--warmup", "-1"], "whole number"),
        (["--memory-pressure", "lots"], "not a size"),
        (["-f", "xml"], "'text', 'json', 'csv'"),
        (["--plot", "x.pdf"], "end it in .png or .svg"),
        (["-o", "a.dmt"], "add --trace"),
        (["-o", "a.txt", "-o", "b.txt"], "-o was given twice"),
        (["--trace", "-o", "a.dmt", "-o", "b.dmt"], "-o was given twice"),
        (["--from", "x.json", "--table", "H3"], "measures nothing"),
        (["--from", "x.json", "--trace"], "measures nothing"),
        (["--strategies", "nosuch"], "did you mean|there are"),
        (["--table", "LL", "--strategies", "memfd-*"], "nothing in table LL"),
        (["--sizes", "0"], "at least 1 byte"),
        (["--nosuch"], "unrecognized arguments"),
    ],
)
def test_usage_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    line = _fails(capsys, 2, *arguments)
    assert any(part in line for part in said.split("|")), line


def test_outputs_are_not_overwritten(
    capsys: pytest.CaptureFixture[str], saved: Path, tmp_path: Path
) -> None:
    there = tmp_path / "there.txt"
    there.write_text("mine")
    assert "there.txt exists" in _fails(capsys, 1, "--from", str(saved), "-o", str(there))
    picture = tmp_path / "there.svg"
    picture.write_text("mine")
    assert "use --force" in _fails(capsys, 1, "--from", str(saved), "--plot", str(picture))
    assert there.read_text() == picture.read_text() == "mine"
    arguments = ["--from", str(saved), "-o", str(there), "--plot", str(picture), "--force"]
    assert cli.main(["bench", *arguments]) == 0
    assert there.read_text() == text.render(evaluate(MEASURED))
    assert "<svg" in picture.read_text()


def test_places_are_looked_at_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    missing = str(tmp_path / "none" / "a.txt")
    assert "mkdir -p" in _fails(capsys, 1, "-o", missing)
    assert "is a directory" in _fails(capsys, 1, "-o", str(tmp_path))
    assert "cannot read" in _fails(capsys, 1, "--from", str(tmp_path / "none.json"))
    (tmp_path / "bin").write_bytes(b"\xff\xfe\x00")
    assert "is not a bench" in _fails(capsys, 1, "--from", str(tmp_path / "bin"))


@pytest.mark.parametrize(
    ("name", "given", "form"),
    [
        ("a.json", None, "json"), ("a.CSV", None, "csv"), ("a.txt", None, "text"),
        ("a", None, "text"), ("a.json", "csv", "csv"),
    ],
)  # fmt: skip
def test_the_format_is_that_of_the_name(
    saved: Path, tmp_path: Path, name: str, given: str | None, form: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    arguments = ["--from", str(saved), "-o", str(out / name)] + (["-f", given] if given else [])
    assert cli.main(["bench", *arguments]) == 0
    render = {"json": as_json.render, "csv": csv.render, "text": text.render}[form]
    assert (out / name).read_text() == render(evaluate(MEASURED))
    assert [path.name for path in out.iterdir()] == [name]


def test_stdout_is_data(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--from", str(saved), "-f", "json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["kind"] == "bench"
    assert said.err == ""


def test_failed_loads_are_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def make(row: int, size: int, eaten: int, number: int) -> bench_data.Sample:
        if row == 2 and number == 1:
            return bench_data.Sample(number, failed="no memory")
        return bench_data.load(row, size, eaten, number)

    path = tmp_path / "a.json"
    path.write_text(as_json.render(evaluate(bench_data.measurements("LL", make=make))))
    assert cli.main(["bench", "--from", str(path)]) == 1
    said = capsys.readouterr()
    assert "2 round 1, 1G: no memory" in said.out
    assert said.err == "dmatrace: 1 load failed: the table says which\n"


def _on_terminal(*arguments: str, **environment: str) -> str:
    leader, follower = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    process = subprocess.Popen(
        [sys.executable, "-m", "dmatrace", "bench", *arguments],
        stdout=follower,
        env={**kept, "TERM": "xterm", **environment},
    )
    os.close(follower)
    said = b""
    try:
        while part := os.read(leader, 65536):
            said += part
    except OSError:
        pass  # EIO: the other end is closed
    os.close(leader)
    assert process.wait() == 0
    return said.decode()


def test_colour_is_for_terminals(saved: Path) -> None:
    assert "\033[" in _on_terminal("--from", str(saved))
    assert "\033" not in _on_terminal("--from", str(saved), NO_COLOR="1")
    assert "\033" not in _on_terminal("--from", str(saved), TERM="dumb")
    assert "\033" not in _on_terminal("--from", str(saved), "--color", "never")


def test_help_ends_with_examples_that_parse() -> None:
    parser = cli.parser()
    said = bench._EXAMPLES.split("examples:\n")[1].splitlines()
    assert len(said) >= 5
    for line in said:
        words = line.replace("'", "").split()
        words = words[words.index("dmatrace") + 1 :]
        assert parser.parse_args(words).verb == "bench"


def test_the_tables_of_the_help_are_those_there_are() -> None:
    from dmatrace.literature import TABLES

    assert tuple(TABLES) == bench._TABLES


def test_help_is_instant() -> None:
    """Neither pandas nor rich nor matplotlib nor bcc for --help."""
    script = (
        "import sys; from dmatrace import cli\n"
        "try: cli.main(['bench', '-h'])\n"
        "except SystemExit: pass\n"
        "heavy = {'pandas', 'pyarrow', 'rich', 'matplotlib', 'bcc'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) < 81


BAR = '''
import time
from dmatrace.session.bar import Bar

def drawn(bar, times=3):
    """Wait until it was drawn so often by itself, however busy the machine is."""
    if bar._bar is None:
        return
    live, seen, deadline = bar._bar.live, [], time.monotonic() + 60
    draw = live.refresh
    live.refresh = lambda: seen.append(draw())
    while len(seen) < times and time.monotonic() < deadline:
        time.sleep(0.01)
    live.refresh = draw

with Bar() as bar:
    bar.plan([(1, 1, 0), (2, 1, 0)])
    bar.begin("round 1/1, row 1 anon-bio")
    drawn(bar)
    bar.end(5.0, 1.0, "1.00 s")
    bar("a line that stays [bold]as it is[/]")
    bar.begin("round 1/1, row 2 anon-dio")
    drawn(bar)
    bar.end(5.0, 0.0, "failed: no", stays=True)
'''


def _bar(**environment: str) -> str:
    leader, follower = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    process = subprocess.Popen(
        [sys.executable, "-c", BAR],
        stderr=follower,
        env={**kept, "TERM": "xterm", "COLUMNS": "100", **environment},
    )
    os.close(follower)
    said = b""
    try:
        while part := os.read(leader, 65536):
            said += part
    except OSError:
        pass
    os.close(leader)
    assert process.wait() == 0
    return said.decode()


def test_the_bar_turns_and_tells() -> None:
    said = _bar()
    for part in ("[1/2] round 1/1, row 1 anon-bio", "50%", "about 5 s left", "[2/2]"):
        assert part in said, part
    assert "a line that stays [bold]as it is[/]" in said
    assert "failed: no" in said
    # It turns: the spinner was seen with more than one face before the bar.
    plain = re.sub(r"\033\[[0-9;?]*[A-Za-z]", "", said)
    faces = set(re.findall(r"(?:^|[\r\n])([-\\|/]) ", plain))
    assert len(faces) >= 2, plain


def test_the_bar_without_colour() -> None:
    said = _bar(NO_COLOR="1")
    assert "row 1 anon-bio" in said
    assert "\033[3" not in said  # no colour; moving the cursor is no colour


def test_the_bar_on_a_dumb_terminal() -> None:
    """Lines, as where there is none."""
    said = _bar(TERM="dumb").replace("\r\n", "\n").splitlines()
    assert said == [
        "[1/2] round 1/1, row 1 anon-bio: 1.00 s, about 5 s left",
        "a line that stays [bold]as it is[/]",
        "[2/2] round 1/1, row 2 anon-dio: failed: no",
    ]
