"""A bench as text, JSON, CSV and a plot: everything is in it, and it fits."""

from __future__ import annotations

import contextlib
import csv as csv_module
import dataclasses
import io
import json as json_module
import re
import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import bench_data
import pytest
from bench_data import GIB, MIB
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmatrace.analysis.bench import Measurements, Sample, evaluate
from dmatrace.errors import CannotHere, DmatraceError, UsageError
from dmatrace.literature import TABLES
from dmatrace.report.bench import csv, json, plot, text
from dmatrace.report.layout import WIDTH, cells

WHY, DO = "the loader module is not loaded", "load it: make -C native load"


def _with_gaps(measured: Measurements) -> Measurements:
    """Row 2 cannot run, row 3 fails in round 2."""
    changed = []
    for cell in measured.cells:
        if cell.row == 2:
            cell = dataclasses.replace(cell, samples=(), why=WHY, do=DO)
        if cell.row == 3:
            samples = [
                Sample(sample.round, failed="out of memory; load less")
                if sample.round == 2
                else sample
                for sample in cell.samples
            ]
            cell = dataclasses.replace(cell, samples=tuple(samples))
        changed.append(cell)
    return dataclasses.replace(measured, cells=tuple(changed))


def _split(row: int, size: int, eaten: int, number: int) -> Sample:
    sample = bench_data.load(row, size, eaten, number)
    return dataclasses.replace(sample, split=bench_data.SPLIT if row == 6 else {})


BENCHES = {
    "H3": bench_data.measurements("H3", (256 * MIB,)),
    "H3 gaps": _with_gaps(bench_data.measurements("H3", (256 * MIB,))),
    "H3 pressed": bench_data.measurements("H3", (256 * MIB,), (0, GIB)),
    "H2": bench_data.measurements("H2"),
    "V2": bench_data.measurements("V2", TABLES["V2"].sizes, make=_split),
    "V2 pressed": bench_data.measurements("V2", TABLES["V2"].sizes, (0, GIB), make=_split),
    "V2 gaps": _with_gaps(bench_data.measurements("V2", (MIB,))),
    "LL": bench_data.measurements("LL", TABLES["LL"].sizes),
    "LL pressed": bench_data.measurements("LL", (3287 * MIB,), (0, 4 * GIB)),
    "own": bench_data.measurements("", (256 * MIB, GIB)),
    "own gaps": _with_gaps(bench_data.measurements("", (256 * MIB,))),
    "one round": bench_data.measurements("H3", rounds=1),
    "interrupted": dataclasses.replace(
        bench_data.measurements("V2", TABLES["V2"].sizes),
        cells=bench_data.measurements("V2", TABLES["V2"].sizes).cells[:5],
        interrupted=True,
    ),
    "nothing": dataclasses.replace(bench_data.measurements("LL"), cells=()),
}


@pytest.fixture(params=BENCHES.values(), ids=BENCHES)
def measured(request: pytest.FixtureRequest) -> Measurements:
    found: Measurements = request.param
    return found


# --- text


def test_text_fits(measured: Measurements) -> None:
    for line in text.render(evaluate(measured)).splitlines():
        assert cells(line) <= WIDTH, line
        assert line == line.rstrip()


def test_every_row_is_in_each_table(measured: Measurements) -> None:
    said = text.render(evaluate(measured))
    for row in measured.rows:
        assert re.search(rf"^ *{row.number} {re.escape(row.label)} ", said, re.MULTILINE), row


def test_the_machine_and_the_words_on_emulation(measured: Measurements) -> None:
    said = " ".join(text.render(evaluate(measured)).split())
    assert "kernel 6.12.0-test x86_64" in said
    assert "emulated: absolute times are no evidence" in said


def test_columns_of_h3() -> None:
    """Row 4 reads in 80 ms: beside 1058, and 13,422 MB/s beside 1014, a quarter of row 1."""
    said = text.render(evaluate(bench_data.measurements("H3")))
    (line,) = [line for line in said.splitlines() if line.startswith(" 4 memfd direct R/W  ")][:1]
    assert line.split()[4:] == (
        ["4.00", "1", "1.00", "321", "80.0", "1058", "13422", "1014", "25", "110"]
    )
    heads = said.splitlines()[8].split()
    assert heads == ["1G", "Creat-ms", "Close-ms", "I/O-ms", "I/O-MB/s", "I/O%"]
    assert TABLES["H3"].message_id in said


def test_columns_of_v2() -> None:
    said = text.render(evaluate(BENCHES["V2"]))
    lines = [line.split() for line in said.splitlines() if line.startswith(" 8 patch1-4 direct")]
    assert lines[0][4:] == ["168", "1.96", "168", "6.58", "168", "520", "168", "1400"]
    assert lines[1][4:] == ["0.12", "1.43", "0.12", "2.21", "0.12", "2.92", "0.12", "2.38"]
    assert "512KB" in said
    where = said[said.index("Where row 6 goes") :]
    assert re.search(r"published +189 ms +42.5 ms +4.18 s +4.41 s\n", where)
    assert re.search(r"ours, 1G +100 ms +20.0 ms +300 ms +420 ms +126 ms\n", where)
    assert re.search(r"ours, 1G +312 ms +168 ms\n", where[where.index("The model of row 8") :])


def test_both_tables_of_ll_stand_side_by_side() -> None:
    said = text.render(evaluate(BENCHES["LL pressed"]))
    (line,) = [line for line in said.splitlines() if "3.21G, 4G eaten" in line and "total" in line][
        :1
    ]
    assert line.split()[:3] == ["total,", "ms", "3.21G"]
    assert re.search(r"1 BIO-Time/ms +21.0 +2118 +42.0 +4905\n", said)
    assert re.search(r"2 DIO-Time/ms +1.?0.50 +1.47 +0.50 +3.16\n|2 DIO-Time/ms +0.50 +1.47", said)


def test_columns_of_h2() -> None:
    said = text.render(evaluate(BENCHES["H2"]))
    (line, *_) = [line for line in said.splitlines() if line.startswith(" 6 patch 1-2")]
    assert line.split()[5:] == ["6.00", "52", "120", "297", "126", "349", "0.17", "7.32"]


def test_gaps_are_dashes_with_their_reason() -> None:
    said = text.render(evaluate(BENCHES["H3 gaps"]))
    (line, *_) = [line for line in said.splitlines() if line.startswith(" 2 udmabuf buffer R/W")]
    assert line.split()[4:] == ["-", "591", "-", "326", "-", "1281", "-", "838", "-", "91"]
    flat = " ".join(said.split())
    assert f"2 udmabuf-mmap-bio: {WHY}; {DO}" in flat
    assert "3 round 2, 256M: out of memory; load less" in flat
    assert "65 of 66 loads were compared" in flat
    assert re.search(r" 3 memfd buffer R/W +30.0..90.0 +0.33..0.33 +2/3\n", said)


def test_a_reason_is_given_once_with_all_its_rows() -> None:
    measured = bench_data.measurements("V2", (MIB, GIB))
    cells_ = [
        dataclasses.replace(cell, samples=(), why=WHY, do=DO)
        if cell.row in (3, 5)
        else dataclasses.replace(cell, samples=(), why="no memory", do="free some")
        if (cell.row, cell.size) == (4, GIB)
        else cell
        for cell in measured.cells
    ]
    said = text.render(evaluate(dataclasses.replace(measured, cells=tuple(cells_))))
    flat = " ".join(said.split())
    assert f"3 dmabuf-sendfile-bio, 5 dmabuf-sendfile-dio: {WHY}; {DO}" in flat
    assert "4 dmabuf-gather-bio at 1G: no memory; free some" in flat
    assert flat.count(WHY) == 1


def test_one_round_has_no_spread() -> None:
    assert "Spread" not in text.render(evaluate(BENCHES["one round"]))
    assert "Spread, 256M" in text.render(evaluate(BENCHES["H3"]))


def test_an_interrupted_bench_says_so() -> None:
    assert "INTERRUPTED" in text.render(evaluate(BENCHES["interrupted"]))
    assert "INTERRUPTED" not in text.render(evaluate(BENCHES["V2"]))


def test_colour_is_asked_for() -> None:
    result = evaluate(BENCHES["H3 gaps"])
    coloured = text.render(result, color=True)
    assert "\033[" in coloured
    assert re.sub(r"\033\[[0-9;]*m", "", coloured) == text.render(result)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0.00"), (0.8132, "0.81"), (9.994, "9.99"), (9.996, "10.0"), (99.94, "99.9"),
        (99.96, "100"), (1234.5, "1234"), (99_999, "99999"), (123_456, "1e5"), (9.9e7, "1e8"),
    ],
)  # fmt: skip
def test_numbers(value: float, said: str) -> None:
    assert text.number(value) == said


@given(st.floats(0, 1e12))
def test_numbers_are_short_and_near(value: float) -> None:
    said = text.number(value)
    assert len(said) <= 5
    assert float(said) == pytest.approx(value, rel=0.5, abs=0.006)


# --- JSON


def test_json_is_read_back_whole(measured: Measurements) -> None:
    result = evaluate(measured)
    said = json.render(result)
    again = json.read(said, "a.json")
    assert again == measured
    assert json.render(evaluate(again)) == said


def test_the_keys_of_json() -> None:
    found = json_module.loads(json.render(evaluate(BENCHES["H3 gaps"])))
    assert found["schema"] == 1
    assert found["kind"] == "bench"
    assert found["machine"]["kernel"] == "6.12.0-test x86_64"
    assert found["table"]["message_id"] == TABLES["H3"].message_id
    assert [row["row"] for row in found["rows"]] == list(range(1, 24))
    (cell,) = found["rows"][3]["cells"]
    assert set(cell) == {
        "size", "eaten", "why", "do", "ours", "ratio", "published", "published_ratio",
        "verified", "samples",
    }  # fmt: skip
    assert cell["ours"]["io_ns"] == {
        "median": 80_000_000, "min": 40_000_000, "max": 120_000_000, "n": 3,
    }  # fmt: skip
    assert cell["ratio"] == {"median": 0.25, "min": 0.25, "max": 0.25, "n": 3}
    io = {each["measure"]: each for each in cell["published"]}["io"]
    assert io == {
        "measure": "io", "title": "I/O-ms", "unit": "ms", "size": GIB, "eaten": 0, "figure": 1058,
    }  # fmt: skip
    assert len(cell["samples"]) == cell["verified"] == 3
    (missing,) = found["rows"][1]["cells"]
    assert (missing["why"], missing["do"]) == (WHY, DO)
    assert missing["ours"] == {}
    assert missing["samples"] == []
    assert missing["ratio"] is None


def test_times_in_json_are_integers(measured: Measurements) -> None:
    """An even number of rounds has its median between two of them."""
    even = dataclasses.replace(bench_data.measurements("V2", rounds=4, make=_split))

    def check(value: object, name: str = "") -> None:
        if isinstance(value, dict):
            for key, each in value.items():
                check(each, name if name.endswith("_ns") else key)
        elif isinstance(value, list):
            for each in value:
                check(each, name)
        elif name.endswith("_ns") and value is not None:
            assert isinstance(value, int), name

    check(json.document(evaluate(measured)))
    check(json.document(evaluate(even)))


@pytest.mark.parametrize(
    "said",
    ["", "{", "[]", "{}", "3", '{"schema": 1}', '{"kind": "bench"}', '{"kind":"bench","schema":9}',
     '{"kind":"bench","schema":"x"}', "[" * 100_000, '{"kind":"bench","schema":1,"rows":[3]}'],
)  # fmt: skip
def test_what_is_no_bench(said: str) -> None:
    with pytest.raises(DmatraceError, match=r"^x\.json is not a bench of dmatrace: ") as caught:
        json.read(said, "x.json")
    assert "\n" not in str(caught.value)
    assert caught.value.do


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.data())
def test_a_damaged_document_is_never_a_traceback(data: st.DataObject) -> None:
    """Any one value of it replaced by any other: read, or refused."""
    found = json.document(evaluate(BENCHES["LL pressed"]))
    junk = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())
    key = data.draw(st.sampled_from(sorted(found)))
    found[key] = data.draw(junk)
    with contextlib.suppress(DmatraceError):
        json.read(json_module.dumps(found), "x.json")


# --- CSV


def _rows(measured: Measurements) -> list[dict[str, str]]:
    said = csv.render(evaluate(measured))
    return list(csv_module.DictReader(io.StringIO(said), strict=True))


def test_csv_has_a_line_for_each_cell(measured: Measurements) -> None:
    rows = _rows(measured)
    assert len(rows) == len(measured.cells)
    for row in rows:
        assert tuple(row) == csv.COLUMNS
        assert None not in row.values()


def test_csv_round_trip() -> None:
    """Every figure of the result, as csv reads it back."""
    result = evaluate(BENCHES["V2 pressed"])
    for row in _rows(BENCHES["V2 pressed"]):
        cell = result.cells[int(row["row"]), (int(row["size"]), int(row["eaten"]))]
        for measure, spread in cell.ours.items():
            if measure in ("rate", "percent"):
                continue
            assert int(row[f"{measure}_ns"]) == round(spread.median)
            assert int(row[f"{measure}_ns_min"]) == round(spread.min)
            assert int(row[f"{measure}_ns_max"]) == round(spread.max)
        assert cell.ratio
        assert float(row["ratio"]) == cell.ratio.median
        if cell.published_ratio is None:
            assert row["published_ratio"] == row["published_total_ns"] == ""
        else:
            assert float(row["published_ratio"]) == cell.published_ratio
            assert int(row["published_total_ns"]) == cell.published["total"]  # type: ignore[index]


def test_published_times_in_csv_are_ns() -> None:
    row = _rows(BENCHES["H3"])[3]
    assert row["published_io_ns"] == "1058000000"
    assert row["published_create_ns"] == "1000000"
    assert row["published_close_ns"] == "321000000"
    assert row["published_rate_mb_s"] == "1014"
    assert row["published_size"] == str(GIB)


def test_csv_keeps_reasons_as_they_are() -> None:
    measured = _with_gaps(BENCHES["H3"])
    awkward = 'a, "b";\nc'
    cells_ = [
        dataclasses.replace(cell, why=awkward) if cell.row == 2 else cell for cell in measured.cells
    ]
    rows = _rows(dataclasses.replace(measured, cells=tuple(cells_)))
    assert rows[1]["why"] == awkward
    assert rows[2]["failures"] == "2: out of memory; load less"
    assert (rows[2]["n"], rows[2]["failed"], rows[2]["verified"]) == ("2", "1", "2")
    assert rows[1]["io_ns"] == rows[1]["ratio"] == ""


# --- plot


def test_a_plot_is_a_picture(measured: Measurements, tmp_path: Path) -> None:
    plot.save(evaluate(measured), str(tmp_path / "a.svg"))
    root = ET.parse(tmp_path / "a.svg").getroot()
    assert root.tag.endswith("svg")


def test_a_png(tmp_path: Path) -> None:
    plot.save(evaluate(BENCHES["V2"]), str(tmp_path / "a.png"))
    data = (tmp_path / "a.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    assert width > height > 300


def test_the_same_bench_gives_the_same_picture(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        plot.save(evaluate(BENCHES["H3 gaps"]), str(tmp_path / name))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_plot_is_grey(tmp_path: Path) -> None:
    """No colour carries meaning: there is none."""
    plot.save(evaluate(BENCHES["H3 gaps"]), str(tmp_path / "a.svg"))
    colours = set(re.findall(r"#([0-9a-f]{6})", (tmp_path / "a.svg").read_text()))
    assert colours
    for colour in colours:
        assert colour[0:2] == colour[2:4] == colour[4:6], colour


def test_a_name_that_is_no_picture() -> None:
    with pytest.raises(UsageError, match=r"\.png or \.svg") as caught:
        plot.check("table.pdf")
    assert caught.value.code == 2
    plot.check("a.SVG")
    plot.check("dir/a.png")


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CannotHere, match="--plot needs matplotlib; pip install matplotlib"):
        plot.check("a.png")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DmatraceError, match="cannot write"):
        plot.save(evaluate(BENCHES["LL"]), str(tmp_path / "missing" / "a.png"))
