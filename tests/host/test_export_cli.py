"""`dmatrace export`: where it writes, what it refuses, and names that mean harm."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import everything
import pandas as pd
import pytest
import synthetic

import dmatrace
from dmatrace.analysis.columns import DERIVED, TABLES
from dmatrace.cli import main
from dmatrace.export import FORMATS
from dmatrace.recording import schema
from dmatrace.safe import escaped

HOSTILE = "/data/\x1b[2J\x1b]0;x\x07a;b\n</script><script>alert(1)</script>\u202e.bin"


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return synthetic.write(tmp_path / "a.dmt", rounds=2)


def _fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["export", *arguments])
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Traceback" not in error
    return code, error


@pytest.mark.parametrize("name", FORMATS)
def test_the_name_is_the_recordings_and_nothing_is_overwritten(
    out: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = Path("a" + FORMATS[name].suffix)
    assert main(["export", str(out) + "/", "-f", name]) == 0
    assert capsys.readouterr().out == f"{where}\n"
    assert where.is_dir() == FORMATS[name].tables
    code, error = _fails(capsys, str(out), "-f", name)
    assert (code, "--force" in error) == (1, True)
    before = {file: file.read_bytes() for file in [where, *where.glob("*")] if file.is_file()}
    assert main(["export", str(out), "-f", name, "--force"]) == 0
    assert before == {file: file.read_bytes() for file in before}
    assert sorted(os.listdir()) == sorted(["a.dmt", where.name])


def test_stdout_takes_what_is_text(out: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["export", str(out), "-f", "csv", "--table", "phases", "-o", "-"]) == 0
    text = capfdbinary.readouterr().out.decode()
    rows = list(csv.DictReader(text.splitlines()))
    assert sum(int(row["cpu_ns"]) for row in rows) == 4 * 600_000
    assert main(["export", str(out), "-f", "folded", "-o", "-"]) == 0
    assert capfdbinary.readouterr().out.splitlines()[0] == b"dmabuf-bio;loader;user;cpu 120000"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-f", "csv", "-o", "-"), "--table"),
        (("-f", "html", "-o", "-"), "-o"),
        (("-f", "html", "--table", "loads"), "csv or parquet"),
        (("-f", "csv", "--weight", "page-cache"), "folded"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    out: Path, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, error = _fails(capsys, str(out), *arguments)
    assert code == 2
    assert said in error


def test_it_never_writes_into_a_recording_or_over_another_kind(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(file.name for file in out.iterdir())
    for name in ("csv", "html"):
        code, error = _fails(capsys, str(out), "-f", name, "-o", str(out), "--force")
        assert (code, "is a recording" in error) == (1, True)
    assert sorted(file.name for file in out.iterdir()) == before
    Path("dir").mkdir()
    assert _fails(capsys, str(out), "-f", "html", "-o", "dir", "--force")[0] == 1
    Path("file").touch()
    assert _fails(capsys, str(out), "-f", "csv", "-o", "file", "--force")[0] == 1
    assert _fails(capsys, str(out), "-f", "html", "-o", "absent/a.html")[0] == 1
    assert _fails(capsys, "absent.dmt", "-f", "html")[0] == 1
    assert sorted(os.listdir()) == ["a.dmt", "dir", "file"]


def test_a_failed_export_leaves_what_was_there(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.html").write_text("before")
    (out / "requests.parquet").write_bytes(b"PAR1 torn")
    assert _fails(capsys, str(out), "-f", "html", "--force")[0] == 1
    assert Path("a.html").read_text() == "before"
    assert sorted(os.listdir()) == ["a.dmt", "a.html"]


def test_a_killed_recorder_s_recording_is_exported_and_said_to_be_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    writer = synthetic.Writer.create(tmp_path / "k.dmt", synthetic.META)
    synthetic.write_load(writer, 1, "dmabuf-bio")
    for name in FORMATS:  # the writer is never closed
        assert main(["export", "k.dmt", "-f", name]) == 0
        assert "incomplete" in capsys.readouterr().err
    assert "Incomplete" in Path("k.html").read_text()


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_recording_is_exported(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    synthetic.write(tmp_path / "e.dmt", strategies=())
    assert main(["export", "e.dmt", "-f", name]) == 0
    assert Path("e" + FORMATS[name].suffix).exists()


def test_hostile_names_stay_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    meta = {"kernel": HOSTILE, "skipped": [{"strategy": HOSTILE, "why": HOSTILE, "do": ""}]}
    with synthetic.Writer.create(tmp_path / "h.dmt", {**synthetic.META, **meta}) as writer:
        synthetic.write_load(writer, 1, "dmabuf-bio", file=HOSTILE, failed="")
        synthetic.write_load(writer, 2, "udmabuf-dio" + HOSTILE, file=HOSTILE, refused=HOSTILE)
    for name in FORMATS:
        assert main(["export", "h.dmt", "-f", name]) == 0
    texts = [Path("h.html"), Path("h.folded"), *Path("h.csv").iterdir()]
    assert main(["export", "h.dmt", "-f", "folded", "--weight", "page-cache", "-o", "c"]) == 0
    for file in (*texts, Path("c")):
        text = file.read_text(encoding="utf-8")
        found = text if file.suffix != ".html" else text[: text.index("<script>")]
        assert not {char for char in found if not char.isprintable()} - {"\n"}, file
        if file.suffix == ".html":
            assert "<script>alert" not in text
    assert b"\x1b[2J" not in Path("h.perfetto-trace").read_bytes()
    for line in Path("h.folded").read_text().splitlines():
        assert line.rsplit(" ", 1)[0].count(";") == 3
        assert int(line.rsplit(" ", 1)[1]) > 0
    with Path("h.csv/loads.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["file"] for row in rows] == [escaped(HOSTILE)] * 2
    assert Path("h.csv/loads.csv").read_text().count("\n") == 3
    # Whoever wants the very name has it in Parquet.
    assert list(pd.read_parquet("h.parquet/loads.parquet")["file"]) == [HOSTILE] * 2


def test_a_meddled_meta_json_is_exported_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hooks: list[dict[str, Any]] = [
        {"name": "\ud800", "phase": "", "attached": None, "hides": "\ud800"},
        {"name": "a", "phase": "", "attached": "fentry", "hides": None},
    ]
    out = synthetic.write(tmp_path / "m.dmt", meta={"hooks": hooks})
    for name in FORMATS:
        assert main(["export", str(out), "-f", name]) == 0
    names = list(pd.read_parquet("m.parquet/hooks.parquet")["name"])
    assert names == ["\\ud800", "a"]
    assert "\\ud800" in Path("m.html").read_text()


def test_frames_have_the_columns_that_are_documented_and_no_others(out: Path) -> None:
    full = dmatrace.open(everything.write(out.parent / "full.dmt"))
    for name in full:
        assert list(full[name].columns) == [column.name for column in TABLES[name].columns], name
        assert len(full[name]), f"{name} has no row to test with"
        unknown = [
            column
            for column in full[name].columns
            if full[name][column].isna().all() and column not in _UNKNOWN
        ]
        assert not unknown, name
    frames = dmatrace.open(out)
    assert set(schema.TABLES) | set(DERIVED) <= set(frames.names)
    for name, table in TABLES.items():
        known = [column.name for column in table.columns]
        assert len(set(known)) == len(known)
        assert list(frames[name].columns[: len(known)]) == known, name
        for column in table.columns:
            kind = frames[name][column.name].dtype
            if column.unit:
                assert str(kind).lower() == "int64", f"{name}.{column.name} is {kind}"
            assert column.unit in ("", "ns", "bytes", "512 bytes", "byte s")
            assert column.name.endswith("_ns") <= (column.unit == "ns")
            assert column.name.rpartition("byte_s")[2] not in ("", "_error") or column.unit
    assert frames.loads is frames["loads"]
    with pytest.raises(AttributeError, match="no table 'load'"):
        _ = frames.load
    with pytest.raises(KeyError):
        _ = frames["load"]


# Workers, sampled detail, cachestat's counts and statx are not in it.
_UNKNOWN = {"owner", "ci_ns", "evicted", "recently_evicted", "align_known"}


def _content(where: Path) -> str:
    """All text of an export; Parquet files column by column."""
    files = sorted(where.iterdir()) if where.is_dir() else [where]
    texts = []
    for file in files:
        if file.suffix == ".parquet":
            frame = pd.read_parquet(file)
            texts.append(frame.to_csv())
            texts.append(file.read_bytes().decode("latin-1"))
        else:
            texts.append(file.read_bytes().decode("utf-8", "replace"))
    return "\n".join(texts)


@pytest.mark.parametrize("name", FORMATS)
def test_redacted_exports_tell_no_path_command_or_host(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    everything.write(tmp_path / "secret-dir.dmt")
    weights = (["--weight", "page-cache"], []) if name == "folded" else ([],)
    for number, more in enumerate(weights):
        shown = []
        for option in ("--redact", "--redact-comms", ""):
            where = Path(f"{name}{number}{option}")
            argv = ["export", "secret-dir.dmt", "-f", name, "-o", str(where), *more]
            assert main([*argv, option] if option else argv) == 0
            shown.append(_content(where))
        redacted, without_comms, plain = shown
        assert "secret" in plain, "there is something to hide"
        for text in (redacted, without_comms):
            assert not [word for word in everything.SECRETS if word in text]
        assert (everything.COMM in redacted) == (everything.COMM in plain)
        assert "secret" not in without_comms
    if name == "csv":
        loads = dmatrace.open("secret-dir.dmt").loads
        found = pd.read_csv("csv0--redact/loads.csv", keep_default_na=False)
        assert list(found["file"]) == ["path-1", "path-1", ""]
        assert list(found["wall_ns"]) == list(loads["wall_ns"])
        paths = pd.read_csv("csv0--redact/files.csv")
        assert set(paths["path"]) == {"path-1", "path-2"}, "a file is one name in all tables"


def test_what_is_not_known_is_null(tmp_path: Path) -> None:
    writer = synthetic.Writer.create(tmp_path / "n.dmt", synthetic.META)
    with writer:
        synthetic.write_load(writer, 1, "dmabuf-bio", verified=None)
        request: dict[str, Any] = {
            "load_id": 1, "tid": 1, "tgid": 1, "dev": 1, "sector": 8, "bytes": 4096,
            "op": "read", "queue_ns": 1_100_000, "issue_ns": 1_200_000, "complete_ns": 0,
        }  # fmt: skip
        writer.append("requests", [request, {**request, "load_id": -1}])
    frames = dmatrace.open(tmp_path / "n.dmt")
    assert frames.loads["verified"].isna().all()
    lost = frames.requests[frames.requests["complete_ns"].isna()]
    assert len(lost) == 2
    assert lost["latency_ns"].isna().all()
    assert list(lost["wait_ns"]) == [100_000, 100_000]
    assert lost["strategy"].isna().tolist() == [False, True]


def test_importing_dmatrace_is_light() -> None:
    code = "import sys, dmatrace; sys.exit('pandas' in sys.modules or 'pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
