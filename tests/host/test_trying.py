"""--try: which file is tried, what cannot be, and what the report says of what was measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmatrace.analysis.document import document
from dmatrace.analysis.tried import cached_took, covered, took
from dmatrace.cli import main
from dmatrace.errors import DmatraceError
from dmatrace.export import htmlloads
from dmatrace.recording import Recording, Writer
from dmatrace.report import text
from dmatrace.session import trying
from dmatrace.session.files import file_key
from dmatrace_loaders.table import strategies
from tests.host import synthetic
from tests.host.synthetic import DEV, SIZE

MIB = 1 << 20
PID = 100


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(bytes(4 * MIB))
    return path


def _reads(path: Path, **counts: int) -> dict[str, Any]:
    dev, ino = file_key(path.stat())
    return {"dev": dev, "ino": ino, "direct": 0, "buffered": 0, "spliced": 0, **counts}


@pytest.mark.parametrize(
    ("counts", "added", "way", "cold"),
    [
        ({"direct": 4 * MIB, "buffered": 4096}, 65536, "direct", True),
        ({"buffered": 4 * MIB}, 4 * MIB, "buffered", True),
        ({"buffered": 4 * MIB}, 0, "buffered", False),
        ({"buffered": 4096}, 4 * MIB, "mapped", True),
        ({"spliced": 4 * MIB}, 4 * MIB, "buffered", True),
        # Attached in mid-load: the rest came from the disk.
        ({"buffered": MIB}, MIB, "buffered", True),
    ],
)
def test_how_a_file_came(
    model: Path, counts: dict[str, int], added: int, way: str, cold: bool
) -> None:
    key = file_key(model.stat())
    found = trying.loaded([_reads(model, **counts)], {key: added}, {key: str(model)})
    assert (found.path, found.size, found.way, found.cold) == (str(model), 4 * MIB, way, cold)


def test_the_file_of_which_most_came(model: Path, tmp_path: Path) -> None:
    library = tmp_path / "lib.so"
    library.write_bytes(bytes(3 * MIB))
    named = {file_key(path.stat()): str(path) for path in (model, library)}
    reads = [_reads(library, buffered=3 * MIB), _reads(model, buffered=1000)]
    added = {file_key(library.stat()): 3 * MIB, file_key(model.stat()): 4 * MIB, (DEV, 0): 9 * MIB}
    assert trying.loaded(reads, added, named).path == str(model)


def test_what_is_read_again_and_again_is_no_larger(model: Path, tmp_path: Path) -> None:
    small = tmp_path / "index"
    small.write_bytes(bytes(MIB))
    named = {file_key(path.stat()): str(path) for path in (model, small)}
    reads = [_reads(small, buffered=500 * MIB), _reads(model, buffered=4 * MIB)]
    assert trying.loaded(reads, {}, named).path == str(model)


def test_what_cannot_be_tried(model: Path, tmp_path: Path) -> None:
    key = file_key(model.stat())
    reads = [_reads(model, buffered=4 * MIB)]
    with pytest.raises(DmatraceError, match="not seen to load a file of 1 MiB"):
        trying.loaded([], {}, {})
    with pytest.raises(DmatraceError, match="not seen to load a file of 1 MiB"):
        trying.loaded([_reads(model, buffered=4096)], {}, {key: str(model)})
    with pytest.raises(DmatraceError, match="has no name that is known"):
        trying.loaded(reads, {}, {})
    with pytest.raises(DmatraceError, match="is not the file that the target loaded any more"):
        trying.loaded(reads, {}, {key: str(tmp_path)})
    os.rename(model, tmp_path / "other")
    with pytest.raises(DmatraceError, match="No such file"):
        trying.loaded(reads, {}, {key: str(model)})


def test_memory_for_one_more_copy() -> None:
    trying.check_room(4 * MIB, 512 * MIB)
    with pytest.raises(DmatraceError, match=r"no memory to load 400 MiB .* 512 MiB are available"):
        trying.check_room(400 * MIB, 512 * MIB)
    assert trying.available() > 0


def test_what_is_suggested_exists() -> None:
    for names in trying.SUGGESTED.values():
        assert set(names) <= set(strategies())


def test_bytes_are_counted_once_and_a_head_is_no_load() -> None:
    assert covered([(0, 1, 0, 10), (0, 1, 5, 20), (0, 1, 30, 40), (0, 1, 0, 3)]) == 30
    assert took([]) is None
    # 1 % at 0, then nothing until 1,000.
    accesses = [(0, 10, 0, 10), (1_000, 1_500, 10, 500), (1_400, 2_000, 500, 1_000)]
    assert took(accesses) == 1_000
    assert took(accesses[1:]) == 1_000
    # Read again, and again.
    assert took([*accesses, (9_000, 9_500, 0, 1_000), (9_600, 9_900, 100, 800)]) == 1_000
    assert took([*accesses, (9_000, 9_500, 500, 1_001)]) == 8_500


def test_one_call_is_dated_by_what_it_reads_ahead() -> None:
    """read(2) of all at once: its run is dated by its end alone."""
    read = [(5_000, 5_000, 0, 1_000)]
    around = [(at, at + 400, at // 4, at // 4 + 100) for at in range(0, 4_000, 400)]
    assert cached_took(read, around) == 5_000
    assert cached_took(read, []) is None
    assert cached_took([], around) == 4_000
    many = [(at, at + 50, at, at + 50) for at in range(0, 1_000, 50)]
    assert cached_took(many, []) == 1_000
    assert cached_took(many[:10], []) is None


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 60), st.integers(0, 60))))
def test_bytes_that_come_again_count_once(found: list[tuple[int, int, int]]) -> None:
    accesses = [(at, at + 1, min(a, b), max(a, b)) for at, a, b in found]
    seen: set[int] = set()
    last = first = None
    for begin, end, start, stop in sorted(accesses):
        if new := set(range(start, stop)) - seen:
            seen |= new
            first = begin if first is None else first
            last = end if last is None else max(last, end)
    assert covered(accesses) == len(seen)
    # With at most 60 bytes, the first hundredth is none.
    assert took(accesses) == (None if first is None or last is None else last - first)


def _recording(path: Path, seen: int, **values: Any) -> Path:
    """A process that read ``seen`` bytes in 3.6 ms, and two strategies of 0.9 ms on that file."""
    meta = {
        "target": {"kind": "pid", "pids": [PID]},
        "tried": {
            "file": "/data/model.bin", "dev": DEV, "ino": 12, "bytes": SIZE, "cache": "cold",
            "way": "buffered", "asked": False, **values,
        },
    }  # fmt: skip
    with Writer.create(path, {**synthetic.META, **meta}) as writer:
        synthetic.write_load(
            writer, 1, "observed", file="", dev=0, ino=0, pid=PID, comm="runtime", bytes=seen,
            cache_before="",
        )  # fmt: skip
        run = {"load_id": 1, "tid": PID, "tgid": PID, "kind": "read", "dev": DEV, "ino": 12}
        pieces = [(0, 4096, 100, 200), (4096, seen // 2, 1_000_000, 2_000_000)]
        pieces.append((seen // 2, seen, 2_000_000, 4_600_000))
        writer.append(
            "runs",
            [
                {**run, "kind": kind, "start": start, "end": end, "since_ns": at, "until_ns": to}
                for start, end, at, to in pieces
                for kind in ("readahead", "read")
            ],
        )
        synthetic.write_load(writer, 2, "anon-bio")
        synthetic.write_load(writer, 3, "anon-dio")
    return path


def _document(path: Path) -> dict[str, Any]:
    return document(Recording.open(path))


def test_the_gain_is_what_was_measured(tmp_path: Path) -> None:
    found = _document(_recording(tmp_path / "a.dmt", SIZE))
    tried = found["tried"]
    assert (tried["file"], tried["bytes"], tried["cache"]) == ("/data/model.bin", SIZE, "cold")
    assert tried["target"] == tried["target"] | {
        "load_ids": [1], "bytes": SIZE, "ns": 3_600_000, "whole": True, "way": "buffered",
    }  # fmt: skip
    assert [(load["strategy"], load["ns"], load["gain"]) for load in tried["loads"]] == [
        ("anon-bio", 900_000, 4.0), ("anon-dio", 900_000, 4.0),
    ]  # fmt: skip
    lines = _section(text.render(found))
    assert lines[3].split() == ["the", "target", "(read)", "3.60", "ms", "278M", "0"]
    assert lines[4].startswith("anon-bio")
    assert lines[4].endswith("4.00x as fast")
    assert all(len(line) < 80 for line in lines)
    page = "".join(htmlloads.sections(found))
    assert page.count('<data value="900000">') == page.count('<data value="4.0">4.00x') == 2
    assert page.count('<data value="3600000">') == 1


def test_of_half_a_load_only_rates_compare(tmp_path: Path) -> None:
    found = _document(_recording(tmp_path / "a.dmt", SIZE // 2))
    assert found["tried"]["target"]["whole"] is False
    assert [load["gain"] for load in found["tried"]["loads"]] == [None, None]
    said = text.render(found)
    assert "as fast" not in said
    assert "512 KiB were seen: only the rates" in said


def test_a_time_that_is_not_known_is_no_zero(tmp_path: Path) -> None:
    found = _document(_recording(tmp_path / "a.dmt", SIZE))
    found["tried"]["target"]["ns"] = None
    for load in found["tried"]["loads"]:
        load["gain"] = None
    said = text.render(found)
    assert _section(said)[3].split()[-3:] == ["-", "-", "0"]
    assert "How long the target took is not known" in said


def test_why_nothing_was_tried(tmp_path: Path) -> None:
    path = tmp_path / "a.dmt"
    why = {"why": "the file is gone", "do": "keep it"}
    found = _document(synthetic.write(path, meta={"tried": why}))
    assert found["tried"] == found["tried"] | {**why, "target": None, "loads": []}
    assert _section(text.render(found))[1] == "  the file is gone; keep it"
    assert _document(synthetic.write(tmp_path / "b.dmt"))["tried"] is None


def _section(said: str) -> Sequence[str]:
    (block,) = (block for block in said.split("\n\n") if block.startswith("tried"))
    return block.splitlines()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["record", "--strategy", "anon-bio", "--size", "1M", "--try"], "--try is for processes"),
        (["record", "-p", "1", "--raise-limits"], "--raise-limits is for --strategy alone"),
        (["record", "-p", "1", "--try=anon-bi"], "anon-bi"),
        (["attach", "1", "--try", "anon-bio,nothing"], "nothing"),
        (["attach", "1", "--raise-limits"], "--raise-limits is for --try"),
    ],
)
def test_usage(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
