"""Groups and outliers of a fleet's rows.

A group is what ought to be alike: device, kernel, strategy, file size and cache
state.  An outlier is told by the modified z-score of Iglewicz and Hoaglin (How to
Detect and Handle Outliers, 1993): 0.6745 times its distance from the group's
median, over the median absolute deviation, is above 3.5.  Half of a group may be
anything before the median moves, which a mean and a standard deviation do not
survive.  A group of fewer than 5 is judged by its strategy, size and cache state
on all devices; if these are fewer, too, by nothing.

Every figure is an order statistic of a whole group, so neither the order of rows
nor how they are spread over machines changes an answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dmatrace.analysis.comparison.measures import measure
from dmatrace.fleet.harvest import FIGURES

if TYPE_CHECKING:
    import pandas as pd

#: What must be in one place for an answer.
WIDE = ("strategy", "bytes", "cache")
NARROW = ("device", "kernel", *WIDE)
#: What is looked at for outliers.
JUDGED = ("wall", "page_cache_added", "page_cache_end")
SCORE = 3.5
LEAST = 5
#: Closer to the median than this share of it (of the file, for bytes) nothing is an outlier.
MARGIN = 0.05
_QUANTILES = {"min": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95,
              "max": 1.0}  # fmt: skip
PACKED = ("kind", "order", "row")


def method() -> dict[str, Any]:
    """How outliers are told, for the document."""
    return {"name": "modified z-score", "score": SCORE, "least": LEAST, "margin": MARGIN}


def packed(rows: pd.DataFrame) -> pd.DataFrame:
    """Groups, outliers, damaged recordings and counts of rows that hold whole WIDE groups.

    Each is a line (kind, order, row as JSON), so that an engine carries one kind of frame.
    """
    import pandas as pd

    lines = list(_lines(rows))
    return pd.DataFrame(
        {
            name: pd.Series([line[n] for line in lines], dtype=object)
            for n, name in enumerate(PACKED)
        }
    )


def unpacked(lines: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """{kind: its rows}, in an order that does not depend on who found them."""
    result: dict[str, list[dict[str, Any]]] = {
        kind: [] for kind in ("group", "outlier", "damaged", "unjudged")
    }
    found = zip(*(lines[name].tolist() for name in PACKED), strict=True)
    for kind, _, row in sorted(found):
        result[kind].append(json.loads(row))
    return result


def _lines(rows: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    for row in _records(rows[rows["error"] != ""][["recording", "error"]]):
        yield _line("damaged", {"recording": row["recording"], "why": row["error"]})
    good = rows[(rows["error"] == "") & (rows["rounds"] > 0)]
    for row in _records(rows[(rows["error"] == "") & (rows["rounds"] == 0)]):
        yield _line("damaged", {"recording": row["recording"],
                                "why": f"{row['strategy']}: no load that ended well"})  # fmt: skip
    for _, wide in good.groupby(list(WIDE), sort=True):
        for _, narrow in wide.groupby(list(NARROW), sort=True):
            yield _line("group", _group(narrow))
            reference = narrow if len(narrow) >= LEAST else wide
            if len(reference) < LEAST:
                for row in _records(narrow):
                    yield _line("unjudged", _where(row))
                continue
            of = "group" if reference is narrow else "strategy on all devices"
            yield from (_line("outlier", found) for found in _outliers(narrow, reference, of))


def _line(kind: str, row: Mapping[str, Any]) -> tuple[str, str, str]:
    text = json.dumps(row, ensure_ascii=True)
    order = [str(row.get(name, "")) for name in ("strategy", "device", "kernel")]
    # The worst first, so that a text report may stop early.
    rank = f"{1e9 - row['score']:.3f}" if kind == "outlier" else ""
    return kind, json.dumps([rank, *order, f"{row.get('bytes', 0):020d}"]), text


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(zip(rows.columns, row, strict=True)) for row in rows.itertuples(index=False)]


def _where(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "recording": row["recording"],
        **{name: row[name] for name in NARROW if name != "bytes"},
        "bytes": int(row["bytes"]),
    }


def _group(narrow: pd.DataFrame) -> dict[str, Any]:
    first = narrow.iloc[0]
    result: dict[str, Any] = {
        **{name: str(first[name]) for name in NARROW if name != "bytes"},
        "bytes": int(first["bytes"]),
        "recordings": len(narrow),
    }
    for name in JUDGED:
        values = narrow[name].dropna()
        result[name] = (
            {at: round(float(values.quantile(q))) for at, q in _QUANTILES.items()}
            if len(values)
            else None
        )
    return result


def _outliers(narrow: pd.DataFrame, reference: pd.DataFrame, of: str) -> Iterator[dict[str, Any]]:
    figures = reference[list(FIGURES)]
    medians = figures.median()
    deviations = (figures - medians).abs().median()
    for row in _records(narrow):
        size = float(max(row["bytes"], 1))
        found = []
        for name in JUDGED:
            scale = size if measure(name).unit == "bytes" else float(medians[name])
            distance = row[name] - medians[name]
            # All of a group may be equal to the byte: then a hundredth stands for its spread.
            spread = max(float(deviations[name]), 0.01 * scale, 1.0)
            score = 0.6745 * abs(distance) / spread
            if score > SCORE and abs(distance) > MARGIN * scale:
                found.append((name, round(float(score), 3)))
        if found:
            yield {
                **_where(row),
                "score": max(score for _, score in found),
                "measures": [
                    {"name": name, "value": round(row[name]), "median": round(medians[name]),
                     "score": score}
                    for name, score in found
                ],
                "against": of,
                "of": len(reference),
                "why": _why(row, medians, size),
            }  # fmt: skip


def _why(row: Mapping[str, Any], medians: Any, size: float) -> list[dict[str, Any]]:
    """The phases and memory rows that differ most from the group's median, at most 4.

    Weighed as in a comparison: time by the load's wall time, bytes by the file.
    """
    wall = max(float(row["wall"]), float(medians["wall"]), 1.0)
    weights = []
    for order, name in enumerate(FIGURES):
        about = measure(name)
        if about.section not in ("phase", "memory") or row[name] != row[name]:
            continue
        difference = float(row[name]) - float(medians[name])
        weight = abs(difference) / {"ns": wall, "bytes": size, "ratio": 1.0}[about.unit]
        if weight >= 0.02:
            weights.append((-weight, order, name, difference))
    return [
        {
            "name": name,
            "unit": measure(name).unit,
            "value": _plain(row[name]),
            "median": _plain(medians[name]),
            "difference": _plain(difference),
        }
        for _, _, name, difference in sorted(weights)[:4]
    ]


def _plain(value: float) -> float:
    """A whole number as one; copies per byte keep six digits."""
    number = round(float(value), 6)
    return int(number) if number == int(number) else number
