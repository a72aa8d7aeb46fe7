"""Some hundred cases of what `make fuzz` runs 100,000 of, and those it once found."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import fuzzing
import pyarrow as pa
import pytest
import synthetic

from dmatrace import safe
from dmatrace.analysis.frames import Frames
from dmatrace.cli import main
from dmatrace.errors import DmatraceError
from dmatrace.export import csv, parquet
from dmatrace.recording import Recording, Writer

CASES = 250


def test_no_traceback_and_no_escape_sequence(tmp_path: Path) -> None:
    fuzzer = fuzzing.Fuzzer(tmp_path)
    for number in range(CASES):
        try:
            fuzzer.case(number)
        except Exception as error:
            raise AssertionError(f"case {number}") from error
    # Each kind of case occurs, and damage is noticed.
    assert {name.split()[0] for name in fuzzer.seen} == {
        "document",
        "bytes",
        "meta",
        "cells",
        "export",
    }
    assert fuzzer.seen["bytes refused"] > 15
    assert fuzzer.seen["meta refused"] > 5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hooks", 5), ("hooks", [5]), ("hooks", [{"name": []}]), ("target", "x"),
        ("page_size", 0), ("page_size", "4096"), ("lost_events", [1]), ("lost_events", True),
        ("skipped", {}), ("skipped", [{"why": 1}]), ("self", []), ("self", {"bpf_ns": "1"}),
        ("self", {"ab": [{"strategy": "x"}]}), ("kernel", ["6.12"]),
        ("self", {"ab": [{"strategy": "x", "pairs": 1,
                          "ratio": {"median": float("nan"), "min": 1, "max": 1}}]}),
    ],
)  # fmt: skip
def test_a_meta_of_wrong_types_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    out = synthetic.write(tmp_path / "a.dmt")
    meta = json.loads((out / "meta.json").read_text())
    (out / "meta.json").write_text(json.dumps({**meta, key: value}))
    with pytest.raises(DmatraceError, match=f"meta.json is damaged: {key} is not"):
        Recording.open(out)
    (out / "meta.json").write_text(json.dumps({**meta, key: None}))
    if key not in ("kernel",):
        Recording.open(out)


def test_another_byte_order_is_read_as_what_it_was(tmp_path: Path) -> None:
    """An Arrow stream says its byte order; Parquet has but one."""
    writer = Writer.create(tmp_path / "a.dmt", synthetic.META)
    synthetic.write_load(writer, 1, "dmabuf-bio")
    before = Recording.open(tmp_path / "a.dmt").table("threads").to_dict("list")
    assert before["end_ns"], "there is something to read"
    stream = tmp_path / "a.dmt" / "threads.arrows"
    ours = stream.read_bytes()
    stream.write_bytes(_of_a_big_endian_machine(ours))
    assert Recording.open(tmp_path / "a.dmt").table("threads").to_dict("list") == before
    stream.write_bytes(ours)
    writer.close()


def _of_a_big_endian_machine(stream: bytes) -> bytes:
    """The same stream with every number and string offset turned, and the schema saying so."""
    with pa.ipc.open_stream(stream) as reader:
        batch = next(batch for batch in reader if batch.num_rows)  # the first one has none
    data = bytearray(_declared(stream))
    at = 0
    for array in batch.columns:
        width = 4 if pa.types.is_string(array.type) else 8
        raw = array.buffers()[1].to_pybytes()
        at = data.index(raw, at)
        for start in range(at, at + len(raw) - width + 1, width):
            data[start : start + width] = data[start : start + width][::-1]
        at += len(raw)
    return bytes(data)


def _declared(stream: bytes) -> bytes:
    """``stream`` with Schema.endianness Big (1) in its first message.

    The metadata is a flatbuffer, which leaves out what is 0 (Little): the table gets a
    vtable of its own with a slot for it, behind all else, and the 1 behind that.
    """
    data = bytearray(stream)
    root = 8 + int.from_bytes(data[8:12], "little")  # Message
    schema = _field(data, root, 2)
    assert schema is not None
    schema += int.from_bytes(data[schema : schema + 4], "little")
    assert _field(data, schema, 0) is None
    old = schema - int.from_bytes(data[schema : schema + 4], "little", signed=True)
    vtable = data[old : old + int.from_bytes(data[old : old + 2], "little")]
    end = 8 + int.from_bytes(data[4:8], "little")
    one = end + len(vtable)
    vtable[4:6] = (one - schema).to_bytes(2, "little")
    more = vtable + b"\x01\x00"
    more += bytes(-len(more) % 8)
    data[schema : schema + 4] = (schema - end).to_bytes(4, "little", signed=True)
    data[4:8] = (end - 8 + len(more)).to_bytes(4, "little")
    data[end:end] = more
    return bytes(data)


def _field(data: bytearray, table: int, number: int) -> int | None:
    """Where a flatbuffer table keeps a field; None if it leaves it out."""
    vtable = table - int.from_bytes(data[table : table + 4], "little", signed=True)
    slot = vtable + 4 + 2 * number
    offset = int.from_bytes(data[slot : slot + 2], "little")
    return table + offset if offset else None


def test_figures_beyond_64_bits_are_in_the_frames() -> None:
    """Sums of a damaged recording's times; no column of integers holds them."""
    recording = synthetic.InMemory(
        {
            "loads": [synthetic.load(1, "x")],
            "snapshots": [
                *synthetic.snapshot((1, 100, 0, 0, "begin"), {"user": (-(1 << 63), 0, 0, 1)}),
                *synthetic.snapshot((1, 100, 9, 0, "end"), {"user": ((1 << 63) - 1, 0, 0, 2)}),
            ],
        }
    )
    frames = Frames(recording)
    assert frames["phases"]["cpu_ns"].tolist() == [(1 << 64) - 1]
    out = io.BytesIO()
    csv.write_table(frames["phases"], out, "phases")
    assert str((1 << 64) - 1) in out.getvalue().decode()
    parquet.write_table(frames["phases"], out, "phases")


def test_hostile_recordings_by_the_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Truncated, empty, newer, not text: one line on stderr, exit 1, nothing a terminal obeys."""
    out = synthetic.write(tmp_path / "b\x1b[31m\n\u202e.dmt")
    loads = out / "loads.parquet"
    whole, meta = loads.read_bytes(), (out / "meta.json").read_bytes()
    for name, data in (
        ("loads.parquet", whole[:-9]), ("loads.parquet", b""), ("loads.parquet", whole[:4] * 99),
        ("meta.json", b""), ("meta.json", b"\xff\xfe{}"), ("meta.json", b"[" * 100_000),
        ("meta.json", b'{"schema": 99}'), ("meta.json", b'{"schema": 1e999}'),
        ("meta.json", b'{"schema": 1, "page_size": ' + b"9" * 5000 + b"}"),
    ):  # fmt: skip
        (out / name).write_bytes(data)
        for verb in ("report", "compare"):
            assert main([verb, str(out)]) == 1, (name, data[:20])
            shown = capfd.readouterr()
            assert (shown.out, shown.err.count("\n")) == ("", 1)
            assert not any(safe.unfit(char) for char in shown.err.rstrip("\n"))
        loads.write_bytes(whole)
        (out / "meta.json").write_bytes(meta)
    assert main(["report", str(out)]) == 0


def test_a_line_is_one_line_of_which_nothing_is_obeyed() -> None:
    assert safe.line("plain \u00e9\u6a21 text") == "plain \u00e9\u6a21 text"
    for text in fuzzing.HOSTILE:
        line = safe.line(text)
        assert len(line) == len(text)
        assert not any(safe.unfit(char) for char in line)
    assert safe.line("a\x1b[2J\n\t\u202e\x85") == "a?[2J????"
