"""A killed recorder leaves a readable prefix: every acknowledged row, nothing torn."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from dmatrace.analysis import document
from dmatrace.recording import Recording, Writer
from dmatrace.report import text

_VICTIM = """
import sys
from dmatrace.recording import Writer
out, batches, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
writer = Writer.create(out, {})
n = 0
for _ in range(batches):
    writer.append("intervals", [
        {"load_id": 1, "tid": 7, "phase": "fault", "start_ns": n + i, "end_ns": n + i + 1}
        for i in range(rows)
    ])
    n += rows
    print(n, flush=True)
print("closing", flush=True)
writer.close()
print("closed", flush=True)
"""


def _victim(out: Path, batches: int, rows: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _VICTIM, str(out), str(batches), str(rows)],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("rows", "kill_after"), [(1, 1), (1, 97), (1000, 23), (20_000, 3)])
def test_sigkill_while_recording(tmp_path: Path, rows: int, kill_after: int) -> None:
    out = tmp_path / "a.dmt"
    victim = _victim(out, 1_000_000, rows)
    assert victim.stdout
    acknowledged = 0
    for _ in range(kill_after):
        acknowledged = int(victim.stdout.readline())
    victim.kill()
    rest = victim.stdout.read().split()
    assert victim.wait() == -signal.SIGKILL
    acknowledged = max([acknowledged, *map(int, rest)])
    recording = Recording.open(out)
    assert not recording.complete
    starts = recording.table("intervals")["start_ns"].tolist()
    assert len(starts) >= acknowledged
    assert len(starts) % rows == 0
    assert starts == list(range(len(starts)))
    assert "INCOMPLETE" in text.render(document(recording))


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_sigkill_while_closing(tmp_path: Path, delay: float) -> None:
    out = tmp_path / "a.dmt"
    victim = _victim(out, 20, 10_000)
    assert victim.stdout
    while victim.stdout.readline() != "closing\n":
        pass
    time.sleep(delay)
    victim.kill()
    closed = "closed" in victim.stdout.read()
    victim.wait()
    recording = Recording.open(out)
    assert recording.complete or not closed
    assert recording.table("intervals")["start_ns"].tolist() == list(range(200_000))
    for name in recording.tables():
        recording.table(name)


def test_a_killed_recording_keeps_the_loads_it_has(tmp_path: Path) -> None:
    """A recorder killed in its second load: the first is whole, the second partial."""
    out = tmp_path / "a.dmt"
    pid = os.fork()
    if pid == 0:
        writer = Writer.create(out, synthetic.META)
        synthetic.write_load(writer, 1, "dmabuf-bio")
        named = {"load_id": 2, "strategy": "udmabuf-dio", "round": 1, "bytes": synthetic.SIZE}
        writer.append("loads", [named])
        begin = (2, 100, 2_000_000, 0, "begin")
        writer.append("snapshots", synthetic.snapshot(begin, {"user": (1000, 0, 0, 1)}))
        for t in (100, 250):
            poll = (2, 100, 2_000_000 + t, 0, "poll")
            cells = {"user": (1000, 0, 0, 1), "gup": (t, 0, 0, 1)}
            writer.append("snapshots", synthetic.snapshot(poll, cells))
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    found = document(Recording.open(out))
    assert found["complete"] is False
    first, second = found["loads"]
    assert (first["partial"], second["partial"]) == (False, True)
    assert second["strategy"] == "udmabuf-dio"
    (thread,) = second["threads"]
    assert (thread["wall_ns"], thread["clock"]) == (250, "tracer")
    assert thread["phases"] == [
        {"phase": "gup", "cpu_ns": 250, "blocked_ns": 0, "runnable_ns": 0, "count": 1}
    ]
    assert "partial" in text.render(found)


BATCHES = (1, 7, 64, 3, 200, 1)


@functools.cache
def _stream() -> tuple[bytes, tuple[int, ...]]:
    """A stream a killed recorder left, and its length after each append."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "a.dmt"
        file = out / "requests.arrows"
        writer = Writer.create(out, {})
        ends, n = [], 0
        for size in BATCHES:
            writer.append("requests", [_request(n + i) for i in range(size)])
            n += size
            ends.append(file.stat().st_size)
        data = file.read_bytes()
        writer.close()
    return data, tuple(ends)


def _request(n: int) -> dict[str, int | str]:
    numbers = ("load_id", "tid", "tgid", "dev", "sector", "queue_ns", "issue_ns", "complete_ns")
    return dict.fromkeys(numbers, n) | {"bytes": n, "op": ("read", "write", "é")[n % 3]}


def _read(data: bytes) -> list[int]:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "meta.json").write_text('{"schema": 1, "complete": false}')
        (Path(directory) / "requests.arrows").write_bytes(data)
        frame = Recording.open(directory).table("requests")
    rows = frame.to_dict("records")
    for row in rows[: sum(BATCHES)]:
        assert set(_request(0)) <= set(row)
    return [int(row["sector"]) for row in rows]


@given(st.integers(0, len(_stream()[0])))
@settings(max_examples=400, deadline=None)
def test_any_truncation_reads_as_the_whole_batches_before_it(cut: int) -> None:
    data, ends = _stream()
    whole = sum(size for size, end in zip(BATCHES, ends, strict=True) if end <= cut)
    assert _read(data[:cut]) == list(range(whole))


@given(st.integers(0, len(_stream()[0])), st.integers(1, 64))
@settings(max_examples=200, deadline=None)
def test_blocks_never_written_do_not_hurt_the_rows_before_them(cut: int, zeroes: int) -> None:
    """After a power cut the tail may be zeroes; what was whole before is still read."""
    data, ends = _stream()
    whole = sum(size for size, end in zip(BATCHES, ends, strict=True) if end <= cut)
    found = _read(data[:cut] + bytes(zeroes * 64))
    assert found[:whole] == list(range(whole))


def test_a_tear_is_named() -> None:
    data, ends = _stream()
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "meta.json").write_text('{"schema": 1, "complete": false}')
        (Path(directory) / "requests.arrows").write_bytes(data[: ends[2] + 11])
        recording = Recording.open(directory)
        found = document(recording)
    assert found["torn"] == ["requests"]
    assert "requests" in text.render(found).split("INCOMPLETE")[1].split("No loads")[0]
