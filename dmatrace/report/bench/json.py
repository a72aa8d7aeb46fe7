"""A bench as one JSON document, and back.

Times are ns and sizes bytes, both integers; rates are MB/s (10^6 bytes).
Published figures stand as printed, each with its unit.  ``samples`` are what
was measured; everything else follows from them and is there for readers.
Keys are added, never changed in meaning.
"""

from __future__ import annotations

import json
from typing import Any

from dmatrace.analysis.bench import (
    Cell,
    CellResult,
    Entry,
    Measurements,
    Modelled,
    Result,
    Sample,
    Spread,
)
from dmatrace.errors import DmatraceError
from dmatrace.literature import Measure

SCHEMA = 1
KIND = "bench"
_PLAIN = (
    "dmatrace", "started", "rounds", "buffers", "block", "jobs", "depth", "gather", "file",
    "emulated", "recording", "interrupted",
)  # fmt: skip
_RATES = (Measure.RATE, Measure.PERCENT)


def render(result: Result) -> str:
    """The document, ending in a newline."""
    return json.dumps(document(result), indent=1) + "\n"


def document(result: Result) -> dict[str, Any]:
    """The document as plain values."""
    measured, table = result.measured, result.table
    return {
        "schema": SCHEMA,
        "kind": KIND,
        **{name: getattr(measured, name) for name in _PLAIN},
        "machine": dict(measured.machine),
        "table": table
        and {
            "name": table.name,
            "author": table.author,
            "title": table.title,
            "message_id": table.message_id,
            "published": table.published,
            "setting": table.setting,
        },
        "compared": str(result.compared),
        "base": result.base,
        "sizes": list(measured.sizes),
        "pressures": list(measured.pressures),
        "rows": [
            {
                "row": row.number,
                "label": row.label,
                "strategy": row.strategy,
                "cells": [
                    _cell(result, result.cells[row.number, place])
                    for place in result.places
                    if (row.number, place) in result.cells
                ],
            }
            for row in measured.rows
        ],
        "models": [_model(model) for model in result.models],
        "remarks": list(result.remarks),
    }


def _cell(result: Result, found: CellResult) -> dict[str, Any]:
    cell, table = found.cell, result.table
    published = []
    for measure, figure in found.published.items():
        column = table.column(measure, cell.size, cell.eaten) if table else None
        if column:
            published.append(
                {
                    "measure": str(measure),
                    "title": column.title,
                    "unit": column.unit,
                    "size": column.size,
                    "eaten": column.eaten,
                    "figure": figure,
                }
            )
    return {
        "size": cell.size,
        "eaten": cell.eaten,
        "why": cell.why,
        "do": cell.do,
        "ours": {
            _key(measure): _spread(spread, whole=measure not in _RATES)
            for measure, spread in found.ours.items()
        },
        "ratio": found.ratio and _spread(found.ratio, whole=False),
        "published": published,
        "published_ratio": found.published_ratio,
        "verified": sum(sample.verified for sample in cell.samples),
        "samples": [
            {
                "round": sample.round,
                "create_ns": sample.create_ns,
                "io_ns": sample.io_ns,
                "close_ns": sample.close_ns,
                "verified": sample.verified,
                "failed": sample.failed,
                "split": dict(sample.split),
            }
            for sample in cell.samples
        ],
    }


def _key(measure: Measure) -> str:
    return {Measure.RATE: "rate_mb_s", Measure.PERCENT: "io_percent"}.get(measure, f"{measure}_ns")


def _spread(spread: Spread, *, whole: bool) -> dict[str, float]:
    values = {"median": spread.median, "min": spread.min, "max": spread.max}
    if whole:
        values = {name: round(value) for name, value in values.items()}
    return {**values, "n": spread.n}


def _model(model: Modelled) -> dict[str, int | None]:
    return {name: None if value is None else round(value) for name, value in vars(model).items()}


def read(text: str, name: str) -> Measurements:
    """The measurements in a document that ``render`` wrote; DmatraceError for any other."""
    try:
        found = json.loads(text)
        if found.get("kind") != KIND:
            raise ValueError("it is no bench")
        if found["schema"] > SCHEMA:
            raise ValueError(f"schema {found['schema']} is newer than {SCHEMA}")
        return Measurements(
            **{key: found[key] for key in _PLAIN},
            table=found["table"]["name"] if found["table"] else "",
            rows=tuple(Entry(row["row"], row["label"], row["strategy"]) for row in found["rows"]),
            sizes=tuple(found["sizes"]),
            pressures=tuple(found["pressures"]),
            machine=tuple(found["machine"].items()),
            cells=tuple(_cells(found)),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).split("\n")[0]
        raise DmatraceError(
            f"{name} is not a bench of dmatrace: {reason}",
            do="name a file that `dmatrace bench -f json` wrote",
        ) from None


def _cells(found: dict[str, Any]) -> list[Cell]:
    """As they were measured: place by place."""
    cells = [
        Cell(
            row["row"],
            cell["size"],
            cell["eaten"],
            tuple(Sample(**sample) for sample in cell["samples"]),
            cell["why"],
            cell["do"],
        )
        for row in found["rows"]
        for cell in row["cells"]
    ]
    sizes, pressures = found["sizes"], found["pressures"]
    return sorted(cells, key=lambda each: (sizes.index(each.size), pressures.index(each.eaten)))
