"""A bench as CSV: a line per row and place, times in ns, ours and the published beside each other.

Published times are turned into ns; an empty field is what there is no figure for.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from dmatrace.analysis.bench import CellResult, Result, Spread
from dmatrace.literature import Measure, in_ns

_TIMES = (Measure.CREATE, Measure.IO, Measure.CLOSE, Measure.TOTAL)
_ENDS = ("", "_min", "_max")

COLUMNS = (
    "table", "row", "label", "strategy", "size", "eaten", "rounds", "n", "verified", "failed",
    *(f"{measure}_ns{end}" for measure in _TIMES for end in _ENDS),
    *(f"rate_mb_s{end}" for end in _ENDS),
    *(f"ratio{end}" for end in _ENDS),
    *(f"published_{measure}_ns" for measure in _TIMES),
    "published_rate_mb_s", "published_ratio", "published_size", "why", "do", "failures",
)  # fmt: skip


def render(result: Result) -> str:
    """A head and the lines, as csv.DictReader reads them."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_lines(result))
    return out.getvalue()


def _lines(result: Result) -> Iterator[dict[str, Any]]:
    measured, table = result.measured, result.table
    for row in measured.rows:
        for place in result.places:
            found = result.cells.get((row.number, place))
            if found is None:
                continue
            samples = found.cell.samples
            line: dict[str, Any] = {
                "table": measured.table,
                "row": row.number,
                "label": row.label,
                "strategy": row.strategy,
                "size": place[0],
                "eaten": place[1],
                "rounds": measured.rounds,
                "n": len(samples) - len(found.failures),
                "verified": sum(sample.verified for sample in samples),
                "failed": len(found.failures),
                "why": found.cell.why,
                "do": found.cell.do,
                "failures": " | ".join(f"{s.round}: {s.failed}" for s in found.failures),
            }
            for measure in _TIMES:
                line |= _three(f"{measure}_ns", found.ours.get(measure), whole=True)
            line |= _three("rate_mb_s", found.ours.get(Measure.RATE))
            line |= _three("ratio", found.ratio)
            if table:
                line |= _published(result, found)
            yield line


def _published(result: Result, found: CellResult) -> dict[str, Any]:
    assert result.table is not None
    line: dict[str, Any] = {}
    for measure, figure in found.published.items():
        column = result.table.column(measure, found.cell.size, found.cell.eaten)
        if column is None:
            continue
        line["published_size"] = column.size
        if measure in _TIMES:
            line[f"published_{measure}_ns"] = in_ns(figure, column.unit)
        elif measure is Measure.RATE:
            line["published_rate_mb_s"] = figure
    if found.published_ratio is not None:
        line["published_ratio"] = found.published_ratio
    return line


def _three(name: str, spread: Spread | None, *, whole: bool = False) -> dict[str, float]:
    if spread is None:
        return {}
    values = (spread.median, spread.min, spread.max)
    return {
        name + end: round(value) if whole else value
        for end, value in zip(_ENDS, values, strict=True)
    }
