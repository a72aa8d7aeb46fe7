"""Following a recording: every row once, in order, whatever moment it is looked at."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import synthetic

from dmatrace.errors import DmatraceError
from dmatrace.recording import Recording, Writer, schema
from dmatrace.recording.tail import Tail


def _all(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Every row as the reader that is not ours to test sees it."""
    recording = Recording.open(path)
    found = {}
    for table in recording.tables():
        frame = recording.table(table).astype(object)
        rows = frame.where(frame.notna(), None).to_dict("records")
        if rows:
            found[table] = rows
    return found


def _join(into: dict[str, list[dict[str, Any]]], new: dict[str, list[dict[str, Any]]]) -> None:
    for table, rows in new.items():
        into[table] += rows


def test_a_finished_recording_at_once(tmp_path: Path) -> None:
    path = synthetic.write(tmp_path / "a.dmt", rounds=2)
    tail = Tail.open(path)
    assert tail.poll() == _all(path)
    assert tail.poll() == {}
    assert tail.complete


def test_each_batch_as_it_comes_and_the_rest_from_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.dmt"
    got: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with Writer.create(path, synthetic.META) as writer:
        tail = Tail.open(path)
        assert tail.poll() == {}
        for load_id in range(1, 4):
            synthetic.write_load(writer, load_id, "dmabuf-bio", load_id)
            new = tail.poll()
            assert {row["load_id"] for rows in new.values() for row in rows} == {load_id}
            _join(got, new)
            assert not tail.complete
        writer.update_meta(lost_events=7)
        tail.poll()
        assert tail.meta["lost_events"] == 7
        synthetic.write_load(writer, 4, "udmabuf-dio", 1)
    _join(got, tail.poll())
    assert tail.complete
    assert got == _all(path)
    assert tail.poll() == {}


def test_a_poll_that_has_a_loads_last_row_has_all_of_the_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load is written while a poll has read some of the tables, and not yet the others."""
    writer = Writer.create(tmp_path / "a.dmt", synthetic.META)
    tail = Tail.open(tmp_path / "a.dmt")
    read, left = Tail._bytes, [1, 2, 3]

    def meanwhile(self: Tail, table: str) -> bytes:
        data = read(self, table)
        if left:
            synthetic.write_load(writer, left.pop(0), "dmabuf-bio")
        return data

    monkeypatch.setattr(Tail, "_bytes", meanwhile)
    with writer:
        seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for _ in range(4):
            for table, rows in tail.poll().items():
                seen[table] += rows
            for load in seen["loads"]:
                kinds = [row for row in seen["snapshots"] if row["load_id"] == load["load_id"]]
                assert len(kinds) == 8, load["load_id"]
    assert len(seen["loads"]) == 3


@pytest.mark.parametrize("step", [1, 7, 64, 1000])
def test_half_written_batches_are_left_for_later(tmp_path: Path, step: int) -> None:
    """The stream of a table grows by ``step`` bytes; every whole batch is read once."""
    source = tmp_path / "a.dmt"
    writer = Writer.create(source, synthetic.META)
    for load_id in range(1, 3):
        writer.append("loads", [synthetic.load(load_id, "dmabuf-bio")])
    writer.flush()
    copy = tmp_path / "b.dmt"
    shutil.copytree(source, copy)
    whole = (source / ("loads" + schema.STREAM)).read_bytes()
    grown = copy / ("loads" + schema.STREAM)
    tail = Tail.open(copy)
    ids = []
    seen_at = []
    for end in range(0, len(whole) + step, step):
        grown.write_bytes(whole[:end])
        rows = tail.poll().get("loads", [])
        ids += [row["load_id"] for row in rows]
        seen_at += [end] * len(rows)
    assert ids == [1, 2]
    assert seen_at[0] < len(whole)
    writer.close()


def test_what_no_recorder_wrote_is_not_read(tmp_path: Path) -> None:
    """Blocks of zeroes behind a torn stream (a crashed machine's) are no rows."""
    path = tmp_path / "a.dmt"
    writer = Writer.create(path, synthetic.META)
    writer.append("loads", [synthetic.load(1, "dmabuf-bio")])
    writer.flush()
    with (path / ("loads" + schema.STREAM)).open("ab") as stream:
        stream.write(bytes(4096))
    tail = Tail.open(path)
    assert [row["load_id"] for row in tail.poll()["loads"]] == [1]
    assert tail.poll() == {}
    writer.close()


def test_a_damaged_table_is_one_line(tmp_path: Path) -> None:
    path = synthetic.write(tmp_path / "a.dmt")
    (path / ("loads" + schema.FINAL)).write_bytes(b"PAR1 no more")
    with pytest.raises(DmatraceError, match=r"loads\.parquet is damaged"):
        Tail.open(path).poll()
    with pytest.raises(DmatraceError, match="no such recording"):
        Tail.open(tmp_path / "none.dmt")
