"""The published tables beside a recording: ratios to row 1, theirs and ours.

Only ratios are set side by side: the machines are others.  ``dmatrace bench`` measures
these tables as they were published; a recording was traced and is what was loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dmatrace.analysis.summary import Summary
from dmatrace.literature import TABLES, Measure, Table


@dataclass(frozen=True)
class Row:
    """A row of a published table: its figure in ``unit``, our time in ns, and both ratios."""

    number: int
    label: str
    strategy: str
    figure: int | None
    unit: str
    ratio: float | None
    ours_ns: int | None
    ours_ratio: float | None


@dataclass(frozen=True)
class Beside:
    """A published table with what this recording has of it."""

    table: Table
    rows: tuple[Row, ...]


def beside(loads: Sequence[Summary]) -> Iterator[Beside]:
    """The tables of which two rows or more were recorded, row 1 among them."""
    ours = {load.loads[0]["strategy"]: load for load in reversed(loads) if _counts(load)}
    for table in TABLES.values():
        first = ours.get(table.rows[0].strategy)
        recorded = {row.strategy for row in table.rows} & ours.keys()
        if first is None or len(recorded) < 2:
            continue
        base = _time(first, table)
        rows = []
        for row in table.rows:
            load = ours.get(row.strategy)
            mine = _time(load, table) if load and load.size == first.size else None
            column = table.column(table.compared, first.size, 0)
            rows.append(
                Row(
                    row.number,
                    row.label,
                    row.strategy,
                    table.figure(row, table.compared, first.size, 0),
                    column.unit if column else "",
                    table.ratio(row, first.size, 0),
                    mine,
                    base / mine if mine and base else None,
                )
            )
        yield Beside(table, tuple(rows))


def _counts(load: Summary) -> bool:
    """Whether its times are those of a whole cold load."""
    one = load.loads[0]
    return not (one["failed"] or one["partial"] or one["refused"]) and one["cache_before"] == "cold"


def _time(load: Summary, table: Table) -> int:
    both = table.compared is Measure.TOTAL
    return load.times["io_ns"] + (load.times["create_ns"] if both else 0)
