"""The published figures: against sums taken from the originals, and against their own arithmetic.

The sums were added up from the mails' text by a script that knew nothing of
the table here; a figure that was typed wrongly changes one.
"""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from dmatrace.literature import H2, H3, LL, TABLES, V2, Measure, Row, in_ns
from dmatrace_loaders.table import strategies

GIB = 1 << 30


@pytest.mark.parametrize(
    ("name", "rows", "sums"),
    [
        ("V2", 8, (26_725_367, 109_129_193, 13_810_412_613, 29_675_352_998)),
        ("LL", 2, (2118 + 1438, 4905 + 1554)),
        ("H2", 6, (2179, 7349, 9527)),
        ("H3", 23, (6616, 6334, 30388, 24209, 2626)),
    ],
)
def test_columns_add_up(name: str, rows: int, sums: tuple[int, ...]) -> None:
    table = TABLES[name]
    assert [row.number for row in table.rows] == list(range(1, rows + 1))
    assert all(len(row.figures) == len(table.columns) for row in table.rows)
    assert tuple(map(sum, zip(*(row.figures for row in table.rows), strict=True))) == sums


def test_every_table_says_where_it_is_from() -> None:
    assert list(TABLES) == ["V2", "LL", "H2", "H3"]
    for found in TABLES.values():
        assert found.title.startswith("[PATCH")
        assert found.message_id.count("@") == 1
        assert found.rows[0].number == 1


# --- H3's arithmetic


@pytest.mark.parametrize("row", H3.rows, ids=lambda row: f"{row.number}")
def test_h3_rates_are_a_gibibyte_over_the_time(row: Row) -> None:
    """Cut off, of 10^6 bytes; times are rounded up, so the true one lies in (ms - 1, ms]."""
    milliseconds, rate = row.figures[2], row.figures[3]
    at_least = Fraction(GIB, 1000 * (rate + 1))  # ms at rate + 1, which was not reached
    at_most = Fraction(GIB, 1000 * rate)
    assert max(at_least, milliseconds - 1) < min(at_most, milliseconds)


def test_h3_rates_are_not_of_1024_megabytes_nor_rounded() -> None:
    """What the other readings of the column would give, and how often it does not fit."""
    of_1024 = [row for row in H3.rows if abs(1024e3 / row.figures[2] - row.figures[3]) > 1]
    assert len(of_1024) == 23
    rounded = []
    for row in H3.rows:
        milliseconds, rate = row.figures[2], row.figures[3]
        slow = max(GIB / 1000 / (rate + 0.5), milliseconds - 0.5)
        fast = min(GIB / 1000 / (rate - 0.5), milliseconds + 0.5)
        rounded += [row.number] if slow >= fast else []
    assert rounded == [6, 16, 20, 22]


@pytest.mark.parametrize("row", H3.rows, ids=lambda row: f"{row.number}")
def test_h3_percents_are_of_the_rates(row: Row) -> None:
    assert row.figures[4] == 100 * row.figures[3] // H3.rows[0].figures[3]


def test_h3_percents_by_times_differ_in_one_row() -> None:
    first = H3.rows[0].figures[2]
    other = [row.number for row in H3.rows if 100 * first // row.figures[2] != row.figures[4]]
    assert other == [11]


def test_h3_text_against_its_table() -> None:
    """The gains that its text names, and those that its figures give (in percent)."""
    rate = {row.number: row.figures[3] for row in H3.rows}
    assert 100 * rate[10] // rate[4] - 100 == 18  # "+15%"
    assert 100 * rate[20] // rate[12] - 100 == 59  # "+50%"
    assert 100 * rate[22] // rate[1] - 100 == 270  # "260% faster"
    assert 100 * rate[22] // rate[20] - 100 == 46  # "40% faster"


# --- H2's


@pytest.mark.parametrize("row", H2.rows, ids=lambda row: f"{row.number}")
def test_h2_totals(row: Row) -> None:
    alloc, read, total = row.figures
    assert abs(alloc + read - total) <= 1


def test_h2_text_is_not_of_its_table() -> None:
    """It names 1032 and 3776 MB/s for what the table gives as 1068 and 297 ms."""
    assert GIB // 1000 // H2.rows[4].figures[1] == 1005
    assert GIB // 1000 // H2.rows[5].figures[1] == 3615


def test_h2_and_h3_agree_where_they_measured_the_same() -> None:
    """The same rows by the same author two weeks later, within 15 %."""
    same = {1: 11, 2: 12, 4: 14, 5: 1}
    for mine, other in same.items():
        read = H2.rows[mine - 1].figures[1]
        assert read == pytest.approx(H3.rows[other - 1].figures[2], rel=0.15)


# --- LL's


def test_ll_averages() -> None:
    """Cut off in three, rounded in one."""
    for row in LL.rows:
        assert len(row.rounds) == 2
        for average, rounds in zip(row.figures, row.rounds, strict=True):
            exact = Fraction(sum(rounds), len(rounds))
            assert average in (math.floor(exact), math.ceil(exact))
    rounded_up = [
        (row.number, average)
        for row in LL.rows
        for average, rounds in zip(row.figures, row.rounds, strict=True)
        if average > Fraction(sum(rounds), 3)
    ]
    assert rounded_up == [(1, 4905)]


def test_ll_size_is_what_its_head_says() -> None:
    assert round(LL.sizes[0] / GIB, 2) == 3.21


# --- V2's


def test_v2_text_against_its_table() -> None:
    normal, patch1, patch14 = (V2.rows[number - 1].figures[3] for number in (1, 6, 8))
    assert round(100 * (1 - patch14 / normal)) == 58  # "a 50% improvement"
    assert round(100 * (1 - normal / patch1)) == 41  # "a degradation of 41%": of throughput
    assert round(100 * (patch1 / normal - 1)) == 70


def test_v2_breakdown_against_its_table() -> None:
    """Its sum is none of the figures of the row that it breaks down, and no model of row 8."""
    assert V2.breakdown
    found = V2.breakdown
    total = found.alloc_ns + found.vmap_ns + found.read_ns
    assert total == 4_412_170_780
    row = V2.rows[V2.breakdown_row - 1]
    assert row.label == "patch1 direct I/O"
    assert row.figures[2] < total < row.figures[3]
    gathered = V2.rows[V2.gather_row - 1]
    assert gathered.label == "patch1-4 direct I/O"
    assert max(found.alloc_ns, found.read_ns) > 2 * gathered.figures[3]


# --- how they are looked up


def test_figures_beside_ours() -> None:
    row = V2.rows[0]
    assert V2.figure(row, Measure.TOTAL, 1 << 19, 0) == 2_790_861
    # The published size nearest in ratio: 64M is 8 times 8M and a 16th of 1G.
    assert V2.figure(row, Measure.TOTAL, 64 << 20, 0) == 14_535_784
    assert V2.figure(row, Measure.TOTAL, 128 << 20, 0) == 1_520_790_492
    assert V2.figure(row, Measure.TOTAL, 1 << 40, 0) == 3_332_438_754
    assert V2.figure(row, Measure.CLOSE, 1 << 30, 0) is None
    assert V2.figure(row, Measure.TOTAL, 1 << 30, 1 << 30) is None  # it was not under pressure
    assert LL.figure(LL.rows[0], Measure.TOTAL, 1 << 20, 1 << 20) == 4905
    assert H3.figure(H3.rows[21], Measure.PERCENT, 1 << 24, 0) == 370


def test_ratios_to_row_1() -> None:
    assert H3.ratio(H3.rows[21], GIB, 0) == 1170 / 316
    assert H2.ratio(H2.rows[5], GIB, 0) == 2555 / 349
    assert LL.ratio(LL.rows[1], GIB, 4 * GIB) == 4905 / 1554
    assert V2.ratio(V2.rows[7], 3 * GIB, 0) == 3_332_438_754 / 1_400_006_107
    assert V2.ratio(V2.rows[7], GIB, GIB) is None
    for table in TABLES.values():
        for column in table.columns:
            assert table.ratio(table.rows[0], column.size, column.eaten) in (1.0, None)


def test_units() -> None:
    assert in_ns(3, "ms") == 3_000_000
    assert in_ns(3, "ns") == 3
    with pytest.raises(ValueError, match="MB/s is not a unit of time"):
        in_ns(3, "MB/s")


def test_sizes_and_pressures() -> None:
    found = {each.name: (each.sizes, each.pressures) for each in TABLES.values()}
    assert found["V2"] == ((1 << 19, 8 << 20, GIB, 3 * GIB), (0,))
    assert found["LL"] == ((3287 << 20,), (0, 4 * GIB))
    assert found["H2"] == found["H3"] == ((GIB,), (0,))


def _claims(strategy: str, table: str) -> set[str]:
    """The rows of a table that a strategy's own description names."""
    found: set[str] = set()
    for source in strategies()[strategy].sources:
        name, _, rest = source.partition(" ")
        if name == table:
            found |= {part.strip().replace("patch ", "patch") for part in rest.split(",")}
    return found


@pytest.mark.parametrize(
    ("table", "row"),
    [(table.name, row) for table in TABLES.values() for row in table.rows],
    ids=lambda each: each if isinstance(each, str) else str(each.number),
)
def test_each_strategy_claims_its_rows(table: str, row: Row) -> None:
    """Two tables, written apart: the strategies' and this one."""
    claimed = _claims(row.strategy, table)
    if table == "H3":
        assert str(row.number) in claimed
    elif table == "LL":
        assert row.label.removesuffix("-Time/ms") in claimed
    else:
        label = row.label.replace("patch ", "patch")
        assert any(label.startswith(claim) for claim in claimed), claimed


def test_no_other_strategy_claims_a_row_of_h3() -> None:
    for name in strategies():
        for claim in _claims(name, "H3"):
            if claim.isdecimal():
                assert H3.rows[int(claim) - 1].strategy == name


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_that_is_none_has_no_column_beside_it(size: int) -> None:
    """Found by fuzzing: recordings that are damaged have such."""
    for table in TABLES.values():
        assert table.column(table.compared, size, 0) is None
        assert table.ratio(table.rows[0], size, 0) is None
