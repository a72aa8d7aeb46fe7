"""Compare recordings, strategies, rounds, kernels, machines or devices.

Loads are grouped by what is compared (``by``) and by all else that makes them
alike: strategy, file size, cache state and, where recordings are not what is
compared, the recording.  Every group is held against the group of the baseline
that is like it.  What is left on both sides is paired if no other choice is
left, and then says in what it differs.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dmatrace.analysis.comparison import spread
from dmatrace.analysis.comparison.about import differences, facts
from dmatrace.analysis.comparison.loads import ALIKE, Document, Group, groups, loads
from dmatrace.analysis.comparison.measures import Value, known, measure
from dmatrace.errors import UsageError

SCHEMA = 1
BY = ("recording", "strategy", "round", "kernel", "machine", "device")
#: What is compared of several recordings may be spread over them.
_ACROSS = ("recording", "kernel", "machine", "device")
#: Verdicts in the order in which rows stand.
VERDICTS = ("worse", "different", "better", "unknown", "same", "not measured")


def compare(
    documents: Sequence[tuple[str, Document]], by: str | None = None, base: str = ""
) -> dict[str, Any]:
    """The comparison of labelled analysis documents: plain values, as docs/compare.md says.

    ``by`` is one of BY (default: recording, of a single one strategy); ``base`` is the value
    of it that all others are compared with (default: the first).  Raises UsageError where
    there is no such value, or only one.
    """
    by = by or ("recording" if len(documents) > 1 else "strategy")
    found = loads(documents)
    values = list(dict.fromkeys(str(load.where[by]) for load in found))
    if by == "recording":
        values = [label for label, _ in documents]
    base = base or (values[0] if values else "")
    if base not in values:
        raise UsageError(f"--base: no {by} {base!r} here", do=f"there is {_several(values)}")
    if len(values) < 2:
        raise UsageError(
            f"there is one {by} here ({values[0]}): nothing to compare it with",
            do=f"name more recordings, or another --by ({', '.join(BY)})",
        )
    alike = [key for key in ALIKE if key != by and not (key == "recording" and by in _ACROSS)]
    parts: dict[str, list[Group]] = {value: [] for value in values}
    for group in groups(found, [by, *alike]):
        parts[str(group.where[by])].append(group)
    pairs, unmatched = [], []
    for value in values:
        if value != base:
            matched, left = _match(parts[base], parts[value], alike)
            pairs += [_pair(one, other, by, base, value) for one, other in matched]
            unmatched += [{"side": value, **_group(group)} for group in left[1]]
            unmatched += [{"side": base, "against": value, **_group(group)} for group in left[0]]
    return {
        "schema": SCHEMA,
        "by": by,
        "base": base,
        "method": spread.method(),
        "recordings": [facts(label, document) for label, document in documents],
        "differences": differences(documents),
        "pairs": pairs,
        "unmatched": unmatched,
    }


def _several(values: Sequence[str]) -> str:
    return ", ".join(values[:8]) + (", ..." if len(values) > 8 else "") or "none"


def _match(
    base: Sequence[Group], new: Sequence[Group], alike: Sequence[str]
) -> tuple[list[tuple[Group, Group]], tuple[list[Group], list[Group]]]:
    """Pairs of groups, and what is left of each side.

    First those that agree in everything, then those that are each other's only choice:
    with the same strategy, at last without.
    """
    matched: list[tuple[Group, Group]] = []
    rest = (list(base), list(new))
    for keys in (alike, [key for key in alike if key == "strategy"], []):
        sides = [_by(side, keys) for side in rest]
        for key, ones in sides[0].items():
            others = sides[1].get(key, [])
            if len(ones) == len(others) == 1:
                matched.append((ones[0], others[0]))
        used = {id(group) for pair in matched for group in pair}
        left = [[group for group in side if id(group) not in used] for side in rest]
        rest = (left[0], left[1])
    order = {id(group): n for n, group in enumerate(new)}
    matched.sort(key=lambda pair: order[id(pair[1])])
    return matched, rest


def _by(found: Sequence[Group], keys: Sequence[str]) -> dict[tuple[Any, ...], list[Group]]:
    parts: dict[tuple[Any, ...], list[Group]] = {}
    for group in found:
        parts.setdefault(tuple(group.where.get(key) for key in keys), []).append(group)
    return parts


def _group(group: Group) -> dict[str, Any]:
    return {
        "where": dict(group.where),
        "rounds": len(group.loads),
        "left_out": group.left_out,
    }


def _pair(one: Group, other: Group, by: str, base: str, new: str) -> dict[str, Any]:
    differs = [
        {"what": name, "base": one.where.get(name), "new": other.where.get(name)}
        for name in ("strategy", "bytes", "cache")
        if name != by and one.where.get(name) != other.where.get(name)
    ]
    return {
        "base": {"name": base, **_group(one)},
        "new": {"name": new, **_group(other)},
        "differs": differs,
        "rows": rows(one, other) if one.loads and other.loads else [],
    }


def rows(one: Group, other: Group) -> list[dict[str, Any]]:
    """Every figure of two groups, regressions first, then by how much of the load it is.

    Figures that are 0 in all loads of both are left out.
    """
    wall, size = _scale(one, other, "wall"), _size(one, other)
    both = [*one.loads, *other.loads]
    names = dict.fromkeys([*known(), *(name for load in both for name in load.figures)])
    result = []
    for name in names:
        row = _row(name, one.values(name), other.values(name), wall, size)
        if row:
            result.append(row)
    order = {verdict: n for n, verdict in enumerate(VERDICTS)}
    # A stable sort: what weighs the same stands in the measures' own order.
    return sorted(result, key=lambda row: (order[row["verdict"]], _better(row), -row["weight"]))


def _better(row: Mapping[str, Any]) -> bool:
    """Of rows whose verdict is unknown, whether it stands behind what may be regressions."""
    return bool(row["verdict"] == "unknown" and row["direction"] == "better")


def _scale(one: Group, other: Group, name: str) -> float:
    found = [value for group in (one, other) for value in group.values(name) if value]
    return float(max(found, default=1))


def _size(one: Group, other: Group) -> float:
    sizes = [load.where["bytes"] for group in (one, other) for load in group.loads]
    return float(max([*sizes, 1]))


def _row(
    name: str, base: Sequence[Value], new: Sequence[Value], wall: float, size: float
) -> dict[str, Any] | None:
    about = measure(name)
    row = {"name": name, "section": about.section, "unit": about.unit}
    before = [value for value in base if value is not None]
    after = [value for value in new if value is not None]
    if not before or not after:
        if not any(before) and not any(after):
            return None
        return {
            **row, "base": _median(before), "new": _median(after), "difference": None,
            "ratio": None, "interval": None, "direction": None, "verdict": "not measured",
            "weight": 0.0,
        }  # fmt: skip
    if not any(before) and not any(after):
        return None
    medians = _median(before), _median(after)
    assert medians[0] is not None
    assert medians[1] is not None
    difference = medians[1] - medians[0]
    if isinstance(difference, float):
        difference = round(difference, 6)
    found = spread.interval(before, after)
    if found is not None and about.unit != "ratio":
        found = (round(found[0]), round(found[1]))
    direction = _direction(difference, about.worse)
    return {
        **row,
        "base": medians[0],
        "new": medians[1],
        "difference": difference,
        "ratio": round(medians[1] / medians[0], 6) if medians[0] else None,
        "interval": None if found is None else list(found),
        "direction": direction,
        "verdict": _verdict(difference, found, direction),
        "weight": round(_weight(name, about.unit, difference, medians, wall, size), 6),
    }


def _direction(difference: float, worse: int) -> str:
    if difference * worse > 0:
        return "worse"
    if difference * worse < 0:
        return "better"
    return "different" if difference else "same"


def _verdict(difference: float, found: tuple[float, float] | None, direction: str) -> str:
    if not difference:
        return "same"
    if found is None:
        return "unknown"
    low, high = found
    # Beyond its spread, and the median of the resamples on the same side as the medians.
    return direction if (low > 0 and difference > 0) or (high < 0 and difference < 0) else "same"


def _weight(
    name: str,
    unit: str,
    difference: float,
    medians: tuple[float | None, float | None],
    wall: float,
    size: float,
) -> float:
    """How much of the load the difference is: of its wall time, of the file, copies per byte.

    Counts and latencies, which are part of neither, weigh a tenth of their own change.
    """
    if unit == "count" or name.startswith("latency_"):
        return 0.1 * abs(difference) / max(1.0, *(abs(value or 0) for value in medians))
    return abs(difference) / {"ns": wall, "bytes": size, "ratio": 1.0}[unit]


def _median(values: Sequence[int | float]) -> int | float | None:
    if not values:
        return None
    if all(isinstance(value, int) for value in values):
        ordered = sorted(int(value) for value in values)
        middle = len(ordered) // 2
        # In integers, as in the report: the mean of two large ones has no exact float.
        return (ordered[middle] + ordered[~middle]) // 2
    return statistics.median(values)
