"""The recording as files: what is written is read back, and refusals are one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from dmatrace.errors import DmatraceError
from dmatrace.recording import TABLES, Recording, Writer, schema
from dmatrace.recording.tail import Tail

BUFFER = {
    "t_ns": 5,
    "load_id": 1,
    "event": "export",
    "ino": (1 << 64) - 1,  # overlayfs and 9p use the top bits
    "size": 1 << 40,
    "exporter": "system",
    "tid": 1,
    "tgid": 1,
    "heap": "system",
}


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    out = tmp_path / "a.dmt"
    rows = [BUFFER | {"t_ns": i} for i in range(23)]
    with Writer.create(out, synthetic.META) as writer:
        for row in rows:
            writer.append("buffers", [row])
        writer.append("loads", [{"load_id": 1, "strategy": "x", "round": 1}])
        writer.append("loads", [synthetic.load(2, "dmabuf-bio", verified=False)])
    recording = Recording.open(out)
    assert recording.complete
    assert recording.table("buffers").to_dict("records") == rows
    loads = recording.table("loads")
    assert loads["verified"].tolist() == [pd.NA, False]
    assert loads["failed"].tolist() == ["", ""]
    assert recording.meta == {**synthetic.META, "schema": 1, "complete": True}
    assert sorted(file.name for file in out.iterdir()) == sorted(
        ["meta.json", *(name + ".parquet" for name in TABLES)]
    )
    assert recording.torn == set()


def test_every_table_exists_and_has_its_columns(tmp_path: Path) -> None:
    for complete, out in ((True, tmp_path / "a.dmt"), (False, tmp_path / "b.dmt")):
        writer = Writer.create(out, {})
        if complete:
            writer.close()
        recording = Recording.open(out)
        assert recording.tables() == list(TABLES)
        for name in recording.tables():
            frame = recording.table(name)
            assert list(frame.columns) == [column.name for column in TABLES[name]]
            assert len(frame) == 0
            wanted = [c.name for c in TABLES[name] if c.kind == "int64"]
            assert {str(frame[column].dtype) for column in wanted} <= {"int64"}
        writer.close()


def test_any_engine_reads_the_parquet(tmp_path: Path) -> None:
    out = synthetic.write(tmp_path / "a.dmt")
    file = pq.ParquetFile(out / "snapshots.parquet")
    assert file.metadata.num_row_groups == 1, "one row group, not one per append"
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert len(pd.read_parquet(out / "requests.parquet")) == 8


@given(
    st.lists(
        st.tuples(
            st.integers(-(1 << 63), (1 << 63) - 1),
            st.integers(0, (1 << 64) - 1),
            st.text(st.characters(codec="utf-8"), max_size=20),
        ),
        max_size=20,
    )
)
@settings(max_examples=30, deadline=None)
def test_any_value_comes_back(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[int, int, str]]
) -> None:
    out = tmp_path_factory.mktemp("any") / "a.dmt"
    rows = [BUFFER | {"size": size, "ino": ino, "exporter": name} for size, ino, name in values]
    with Writer.create(out, {}) as writer:
        writer.append("buffers", rows)
    assert Recording.open(out).table("buffers").to_dict("records") == rows


def test_bytes_that_are_no_utf8_do_not_stop_a_recording(tmp_path: Path) -> None:
    name = b"/data/\xff.bin".decode("utf-8", "surrogateescape")
    with Writer.create(tmp_path / "a.dmt", {"target": {"file": name}}) as writer:
        writer.append("loads", [synthetic.load(1, "dmabuf-bio", file=name)])
    recording = Recording.open(tmp_path / "a.dmt")
    assert recording.table("loads")["file"].tolist() == ["/data/\\udcff.bin"]
    assert recording.meta["target"]["file"] == name


def test_a_wrong_row_is_refused_and_the_rest_stands(tmp_path: Path) -> None:
    writer = Writer.create(tmp_path / "a.dmt", {})
    writer.append("buffers", [BUFFER])
    for table, row in (
        ("nonsense", BUFFER),
        ("buffers", {**BUFFER, "nonsense": 1}),
        ("buffers", {k: v for k, v in BUFFER.items() if k != "size"}),
        ("buffers", {**BUFFER, "size": None}),
        ("buffers", {**BUFFER, "exporter": None}),
    ):
        with pytest.raises(ValueError, match=r"."):
            writer.append(table, [BUFFER, row])
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.append("buffers", [BUFFER])
    assert len(Recording.open(tmp_path / "a.dmt").table("buffers")) == 1


def test_meta_is_never_half_written(tmp_path: Path) -> None:
    writer = Writer.create(tmp_path / "a.dmt", {"kernel": "k"})
    held = (tmp_path / "a.dmt/meta.json").open(encoding="utf-8")
    assert Recording.open(tmp_path / "a.dmt").meta["complete"] is False
    writer.update_meta(lost_events=3, self={"bpf_ns": 1})
    writer.close(complete=False)
    # The old file is replaced, not written over: a reader that has it open sees all of it.
    assert json.load(held) == {"schema": 1, "complete": False, "kernel": "k"}
    held.close()
    found = Recording.open(tmp_path / "a.dmt")
    assert found.meta["lost_events"] == 3
    assert not found.complete


def test_an_exception_closes_as_incomplete(tmp_path: Path) -> None:
    def record() -> None:
        with Writer.create(tmp_path / "a.dmt", {}) as writer:
            writer.append("buffers", [BUFFER])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        record()
    recording = Recording.open(tmp_path / "a.dmt")
    assert not recording.complete
    assert len(recording.table("buffers")) == 1


def test_an_existing_path_is_kept(tmp_path: Path) -> None:
    out = synthetic.write(tmp_path / "a.dmt")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DmatraceError, match="--force"):
        Writer.create(out, {})
    assert len(Recording.open(out).table("loads")) == 2
    Writer.create(out, {"kernel": "new"}, force=True).close()
    recording = Recording.open(out)
    assert recording.meta["kernel"] == "new"
    assert len(recording.table("loads")) == 0
    assert (out / "notes.txt").read_text() == "mine"


def test_force_replaces_recordings_only(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/loads.parquet").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("home", "file"):
        with pytest.raises(DmatraceError):
            Writer.create(tmp_path / name, {}, force=True)
    assert (tmp_path / "home/loads.parquet").read_text() == "mine"
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(DmatraceError, match="there is no directory"):
        Writer.create(tmp_path / "absent/a.dmt", {})


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    writer = Writer.create(tmp_path / "a.dmt", {})

    class Full:
        def write_batch(self, batch: object) -> None:
            raise OSError(28, "No space left on device")

    writer._streams["buffers"] = (writer._streams["buffers"][0], Full())
    with pytest.raises(DmatraceError, match="No space left"):
        writer.append("buffers", [BUFFER])


def _damage(out: Path, **meta: Any) -> Path:
    found = json.loads((out / schema.META).read_text())
    (out / schema.META).write_text(json.dumps({**found, **meta}))
    return out


def test_what_is_no_recording_is_one_line(tmp_path: Path) -> None:
    out = synthetic.write(tmp_path / "a.dmt")
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for path, text in (
        (tmp_path / "absent", "no such recording"),
        (tmp_path / "file", "not a dmatrace recording"),
        (tmp_path / "empty", "not a dmatrace recording"),
        (tmp_path / ("n" * 300), "no such recording"),
    ):
        with pytest.raises(DmatraceError, match=text) as caught:
            Recording.open(path)
        assert "\n" not in str(caught.value)
        assert caught.value.do
    for number, text in (
        (2, "newer"),
        ("1", "not a"),
        (None, "not a"),
        (True, "not a"),
        (0, "not"),
    ):
        with pytest.raises(DmatraceError, match=text):
            Recording.open(_damage(out, schema=number))
    for text in ("", "{", "[" * 100_000, "[]", "\x00"):
        (out / schema.META).write_text(text)
        with pytest.raises(DmatraceError, match=r"damaged|not a dmatrace"):
            Recording.open(out)
    (out / schema.META).write_bytes(b"\xff\xfe")
    with pytest.raises(DmatraceError, match="cannot read"):
        Recording.open(out)


@given(cut=st.integers(0, 100_000), flip=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_damaged_parquet_is_one_line(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: bool
) -> None:
    out = tmp_path_factory.mktemp("parquet") / "a.dmt"
    with Writer.create(out, {}) as writer:
        writer.append("buffers", [BUFFER] * 3)
    file = out / "buffers.parquet"
    data = file.read_bytes()
    cut %= len(data)
    file.write_bytes(data[:cut] + (b"\0" * (len(data) - cut) if flip else b""))
    with pytest.raises(DmatraceError) as caught:
        Recording.open(out).table("buffers")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [schema.FINAL, schema.STREAM])
def test_a_columns_name_that_is_no_utf8(tmp_path: Path, ending: str) -> None:
    """Arrow decodes it when it is asked for, long after the file was read."""
    out = tmp_path / "a.dmt"
    writer = Writer.create(out, {})
    writer.append("buffers", [BUFFER] * 3)
    writer.flush()
    file = out / f"buffers{ending}"
    if ending == schema.FINAL:
        writer.close()
    data = file.read_bytes()
    assert b"exporter" in data
    file.write_bytes(data.replace(b"exporter", b"\xf2xporter"))
    if ending == schema.FINAL:
        with pytest.raises(DmatraceError, match="is damaged"):
            Recording.open(out).table("buffers")
        with pytest.raises(DmatraceError, match="is damaged"):
            Tail.open(out).poll()
        return
    torn = Recording.open(out)
    assert torn.table("buffers").empty
    assert torn.torn == {"buffers"}
    assert "buffers" not in Tail.open(out).poll()


def test_a_column_more_or_less_is_tolerated(tmp_path: Path) -> None:
    out = synthetic.write(tmp_path / "a.dmt")
    frame = pd.read_parquet(out / "loads.parquet").drop(columns=["shmem", "failed", "verified"])
    frame["from_the_future"] = 1
    frame.to_parquet(out / "loads.parquet")
    loads = Recording.open(out).table("loads")
    assert list(loads.columns) == [column.name for column in TABLES["loads"]]
    assert loads["shmem"].tolist() == [0, 0]
    assert loads["failed"].tolist() == ["", ""]
    assert loads["verified"].isna().all()


def test_importing_the_packages_is_cheap() -> None:
    code = (
        "import sys, dmatrace.recording, dmatrace.cli.report, dmatrace.analysis.law\n"
        "import dmatrace.analysis.document, dmatrace.report.text\n"
        "print([m for m in ('pandas', 'pyarrow', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
