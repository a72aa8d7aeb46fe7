"""What follows from measurements: medians, extremes, ratios, the model, remarks."""

from __future__ import annotations

import dataclasses
from statistics import median

import bench_data
import pytest
from bench_data import GIB, MIB
from hypothesis import given
from hypothesis import strategies as st

from dmatrace.analysis.bench import (
    Cell,
    Sample,
    Spread,
    evaluate,
    gathered_ns,
    ratio,
    slow_start,
    spread,
    undecided,
)
from dmatrace.literature import H3, V2, Measure

TIMES = st.integers(1, 10**13)
PLACE = (GIB, 0)


def _cell(row: int, times: list[int | None]) -> Cell:
    """A cell of I/O times by round; None is a load that failed."""
    samples = tuple(
        Sample(number, failed="no") if time is None else Sample(number, io_ns=time, verified=True)
        for number, time in enumerate(times, start=1)
    )
    return Cell(row, GIB, 0, samples)


# --- spreads and ratios


@given(st.lists(TIMES, min_size=1, max_size=30))
def test_a_spread_encloses_its_median(values: list[int]) -> None:
    found = spread(values)
    assert found.min == min(values) <= found.median <= max(values) == found.max
    assert found.n == len(values)
    below = sum(value <= found.median for value in values)
    above = sum(value >= found.median for value in values)
    assert min(below, above) * 2 >= len(values)


def test_a_spread_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing"):
        spread([])


ROUNDS = st.lists(
    st.tuples(st.none() | TIMES, st.none() | TIMES), min_size=1, max_size=12
)  # row 1 and the row, in each round


@given(ROUNDS)
def test_a_ratio_lies_between_those_of_its_rounds(
    rounds: list[tuple[int | None, int | None]],
) -> None:
    first, mine = _cell(1, [one for one, _ in rounds]), _cell(2, [other for _, other in rounds])
    both = [(a, b) for a, b in rounds if a is not None and b is not None]
    found = ratio(first, mine, Measure.IO)
    if not both:
        assert found is None
        return
    assert found
    each = [a / b for a, b in both]
    assert (found.min, found.max, found.n) == (min(each), max(each), len(both))
    assert found.min <= found.median <= found.max
    of_medians = median(a for a, _ in both) / median(b for _, b in both)
    assert found.median == pytest.approx(of_medians, rel=1e-12)


@given(st.lists(TIMES, min_size=1, max_size=12))
def test_row_1_is_as_fast_as_itself(times: list[int]) -> None:
    cell = _cell(1, list(times))
    assert ratio(cell, cell, Measure.IO) == Spread(1, 1, 1, len(times))


@given(st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=8), st.integers(2, 1000))
def test_a_slower_row_has_a_smaller_ratio(rounds: list[tuple[int, int]], factor: int) -> None:
    first = _cell(1, [a for a, _ in rounds])
    mine = ratio(first, _cell(2, [b for _, b in rounds]), Measure.IO)
    slower = ratio(first, _cell(2, [b * factor for _, b in rounds]), Measure.IO)
    assert mine
    assert slower
    assert slower.median == pytest.approx(mine.median / factor)


def test_a_load_of_no_time_has_no_ratio() -> None:
    assert ratio(_cell(1, [5]), _cell(2, [0]), Measure.IO) is None


# --- a whole table


def test_a_table_by_hand() -> None:
    """Row n creates in n ms and reads in 10 n, 20 n and 30 n ms."""
    result = evaluate(bench_data.measurements("H3"))
    cell = result.cells[4, PLACE]
    assert cell.ours[Measure.CREATE] == Spread(4e6, 4e6, 4e6, 3)
    assert cell.ours[Measure.IO] == Spread(80e6, 40e6, 120e6, 3)
    assert cell.ours[Measure.CLOSE] == Spread(1e6, 1e6, 1e6, 3)
    assert cell.ours[Measure.TOTAL] == Spread(84e6, 44e6, 124e6, 3)
    # 1 GiB in 80 ms are 13,421.8 MB/s.
    assert cell.ours[Measure.RATE].median == pytest.approx(13421.8, abs=0.1)
    assert cell.ours[Measure.RATE].max == pytest.approx(26843.5, abs=0.1)
    assert cell.ratio == Spread(0.25, 0.25, 0.25, 3)
    assert cell.ours[Measure.PERCENT].median == 25
    assert cell.published == {
        Measure.CREATE: 1, Measure.CLOSE: 321, Measure.IO: 1058, Measure.RATE: 1014,
        Measure.PERCENT: 110,
    }  # fmt: skip
    assert cell.published_ratio == 1170 / 1058
    assert len(result.cells) == 23
    assert result.base == 1
    assert result.compared is Measure.IO


def test_ratios_are_of_what_the_table_compares() -> None:
    """V2 sets totals against each other: at equal I/O times, creation decides."""

    def make(row: int, size: int, eaten: int, number: int) -> Sample:
        return Sample(number, create_ns=row * 100, io_ns=100)

    result = evaluate(bench_data.measurements("V2", (8 * MIB,), make=make))
    cell = result.cells[3, (8 * MIB, 0)]
    assert cell.ratio
    assert cell.ratio.median == 200 / 400
    assert cell.ours[Measure.PERCENT].median == 100
    assert cell.published_ratio == 14_535_784 / 12_112_292


def test_each_place_has_a_row_1_of_its_own() -> None:
    """Everything is twice as slow under pressure, so ratios are the same there."""
    result = evaluate(bench_data.measurements("LL", (GIB,), (0, 2 * GIB)))
    clean, eaten = result.cells[2, (GIB, 0)], result.cells[2, (GIB, 2 * GIB)]
    assert eaten.ours[Measure.TOTAL].median == 2 * clean.ours[Measure.TOTAL].median
    assert eaten.ratio == clean.ratio
    assert (clean.published_ratio, eaten.published_ratio) == (2118 / 1438, 4905 / 1554)
    assert result.places == ((GIB, 0), (GIB, 2 * GIB))


def test_failed_rounds_do_not_count() -> None:
    def make(row: int, size: int, eaten: int, number: int) -> Sample:
        if (row, number) in ((1, 1), (2, 2)):
            return Sample(number, failed="no memory")
        return bench_data.load(row, size, eaten, number)

    result = evaluate(bench_data.measurements("H3", make=make))
    first, second = result.cells[1, PLACE], result.cells[2, PLACE]
    assert [sample.round for sample in first.failures] == [1]
    assert first.ours[Measure.IO] == Spread(25e6, 20e6, 30e6, 2)
    assert second.ours[Measure.IO] == Spread(40e6, 20e6, 60e6, 2)
    # Only round 3 has both.
    assert second.ratio == Spread(0.5, 0.5, 0.5, 1)


def test_without_row_1_there_are_no_ratios_of_ours() -> None:
    measured = bench_data.measurements("H3")
    cells = [
        dataclasses.replace(cell, samples=(), why="no dma-heap", do="boot another kernel")
        if cell.row == 1
        else cell
        for cell in measured.cells
    ]
    result = evaluate(dataclasses.replace(measured, cells=tuple(cells)))
    assert not result.cells[1, PLACE].ours
    for cell in result.cells.values():
        assert cell.ratio is None
        assert Measure.PERCENT not in cell.ours
        assert cell.published_ratio is not None
    assert any("Row 1 has no figures" in remark for remark in result.remarks)


def test_without_a_table_the_first_that_ran_is_the_base() -> None:
    measured = bench_data.measurements("", (MIB,))
    cells = [
        dataclasses.replace(cell, samples=(), why="refused") if cell.row == 1 else cell
        for cell in measured.cells
    ]
    result = evaluate(dataclasses.replace(measured, cells=tuple(cells)))
    assert result.base == 2
    third = result.cells[3, (MIB, 0)]
    assert third.ratio
    assert third.ratio.median == pytest.approx(2 / 3)
    assert third.published == {}
    assert third.published_ratio is None


def test_an_interrupted_bench() -> None:
    """Rows that were not reached have no cells."""
    measured = bench_data.measurements("H3")
    short = dataclasses.replace(measured, cells=measured.cells[:2], interrupted=True)
    result = evaluate(short)
    assert set(result.cells) == {(1, PLACE), (2, PLACE)}
    assert evaluate(dataclasses.replace(measured, cells=())).cells == {}


# --- the model


@given(
    alloc=st.integers(1, 10**12),
    io=st.integers(1, 10**12),
    size=st.integers(1, 1 << 40),
    gather=st.integers(1, 1 << 40),
)
def test_the_model_lies_between_its_bounds(alloc: int, io: int, size: int, gather: int) -> None:
    """Never better than the longer of both, never worse than one after the other."""
    found = gathered_ns(alloc, io, size, gather)
    assert max(alloc, io) * (1 - 1e-9) <= found <= (alloc + io) * (1 + 1e-9)
    # One batch overlaps nothing.
    if gather >= size:
        assert found == pytest.approx(alloc + io)


def test_the_model_by_hand() -> None:
    """100 ms for 1 GiB are 12.5 ms for the first 128 MiB; 300 ms of reading outlast the rest."""
    assert gathered_ns(100e6, 300e6, GIB, 128 * MIB) == 312.5e6
    assert gathered_ns(300e6, 100e6, GIB, 256 * MIB) == 75e6 + 225e6


def test_the_breakdown_is_of_row_6() -> None:
    def make(row: int, size: int, eaten: int, number: int) -> Sample:
        sample = bench_data.load(row, size, eaten, number)
        split = bench_data.SPLIT if row == V2.breakdown_row else {"alloc_ns": 1}
        return dataclasses.replace(sample, split=split)

    (model,) = evaluate(bench_data.measurements("V2", (GIB,), make=make)).models
    assert (model.alloc_ns, model.vmap_ns, model.read_ns) == (100e6, 20e6, 300e6)
    assert model.plain_ns == 420e6
    assert model.plain_measured_ns == 126e6
    assert model.gathered_ns == 312.5e6
    assert model.gathered_measured_ns == 168e6


def test_no_breakdown_where_the_kernel_says_nothing() -> None:
    assert evaluate(bench_data.measurements("V2", (GIB,))).models == ()
    assert evaluate(bench_data.measurements("H3")).models == ()


# --- remarks


def _rounds(*totals: int) -> bench_data.Make:
    return lambda row, size, eaten, number: Sample(number, io_ns=totals[number - 1] * row)


def test_a_slow_first_round_is_remarked() -> None:
    measured = bench_data.measurements("H3", rounds=4, make=_rounds(200, 100, 100, 110))
    assert slow_start(measured) == 2
    assert any("--warmup 1" in remark for remark in evaluate(measured).remarks)


@pytest.mark.parametrize("totals", [(100, 100, 100), (110, 100, 100), (150, 160, 100), (200, 100)])
def test_an_ordinary_first_round_is_not(totals: tuple[int, ...]) -> None:
    measured = bench_data.measurements("H3", rounds=len(totals), make=_rounds(*totals))
    assert slow_start(measured) is None


@given(st.lists(TIMES, min_size=2, max_size=5), st.integers(1, 10**13))
def test_slow_start_is_against_the_median_of_the_others(others: list[int], more: int) -> None:
    totals = (max(others) + more, *others)
    measured = bench_data.measurements("LL", rounds=len(totals), make=_rounds(*totals))
    factor = totals[0] / median(others)
    found = slow_start(measured)
    assert found == (pytest.approx(factor) if factor >= 1.25 else None)


def test_rows_that_are_not_told_apart_are_named() -> None:
    def make(row: int, size: int, eaten: int, number: int) -> Sample:
        # Row 3 is faster in round 1 alone, row 5 the same as row 1 in round 2.
        times = {3: (50, 200, 200), 5: (200, 100, 200)}.get(row, (100, 100, 100))
        return Sample(number, io_ns=times[number - 1] * (1 if row != 7 else 2))

    result = evaluate(bench_data.measurements("H3", make=make))
    assert undecided(result.base, result.cells) == [3]
    assert any("do not tell row 3 from row 1" in remark for remark in result.remarks)
    assert not any("do not tell" in each for each in evaluate(bench_data.measurements()).remarks)


def test_emulation_is_said() -> None:
    measured = bench_data.measurements("H3")
    assert "no evidence" in evaluate(measured).remarks[0]
    real = dataclasses.replace(measured, emulated=False)
    assert not any("no evidence" in remark for remark in evaluate(real).remarks)


def test_a_tables_own_remarks_are_kept() -> None:
    assert set(H3.remarks) <= set(evaluate(bench_data.measurements("H3")).remarks)
