"""``--fail-on``: differences that a build must not make.

A limit is exceeded if the difference of medians goes beyond it and is more than
noise, which is: its interval does not hold 0.  Where there is no interval (under
three rounds on a side), the medians alone decide, and the message says so: a
check that passes because it was not given enough rounds would be no check.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dmatrace.analysis.comparison.measures import known, measure
from dmatrace.errors import UsageError
from dmatrace.sizes import format_ns, format_size, parse_size

_LIMIT = re.compile(r"\s*([A-Za-z0-9_.-]+)\s*([<>])\s*([+-]?)([0-9.]+)\s*([A-Za-z]*|%)\s*")
_TIMES = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "min": 60_000_000_000}
_WRITE = "write for example 'wall>5%', 'copy>20ms' or 'page_cache_added>1M'"


@dataclass(frozen=True)
class Limit:
    """``name`` must not change by more (``sign`` 1) or less (-1) than ``value``.

    ``value`` is in percent of the baseline where ``relative``, else in the measure's unit.
    """

    text: str
    name: str
    sign: int
    value: float
    relative: bool


def parse(text: str) -> Limit:
    """The limit that ``text`` says; UsageError for what it cannot mean."""
    match = _LIMIT.fullmatch(text)
    if match is None:
        raise UsageError(f"not a limit: {text!r}", do=_WRITE)
    name, comparison, minus, number, unit = match.groups()
    about = measure(name)
    try:
        if unit == "%":
            value = float(number)
        elif about.unit == "ns":
            value = float(number) * _TIMES[unit]
        elif about.unit == "bytes":
            value = float(parse_size(number + unit))
        elif not unit:
            value = float(number)
        else:
            raise ValueError
    except (ValueError, KeyError, UsageError):
        kind = {"ns": "a time (ns, us, ms, s, min)", "bytes": "a size"}.get(about.unit, "a number")
        raise UsageError(
            f"not a limit: {text!r}: {name} takes {kind} or a percentage", do=_WRITE
        ) from None
    return Limit(
        text=text.strip(),
        name=name,
        sign=1 if comparison == ">" else -1,
        value=-value if minus == "-" else value,
        relative=unit == "%",
    )


def exceeded(limits: Sequence[Limit], comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What exceeds its limit: {limit, base, new, strategy, why}.

    A limit whose figure nobody measured, and a comparison without a pair, are failures, too.
    Raises UsageError for a name that no recording here has.
    """
    pairs = comparison["pairs"]
    names = {row["name"] for pair in pairs for row in pair["rows"]} | set(known())
    result = []
    for limit in limits:
        if limit.name not in names:
            raise UsageError(
                f"--fail-on: there is no figure {limit.name!r}",
                do=f"there is {', '.join(sorted(names))}",
            )
        if not pairs:
            result.append(_failed(limit, None, "no loads could be compared"))
        result += [_failed(limit, pair, why) for pair in pairs for why in _over(limit, pair)]
    return result


def _failed(limit: Limit, pair: Mapping[str, Any] | None, why: str) -> dict[str, Any]:
    return {
        "limit": limit.text,
        "base": pair["base"]["name"] if pair else None,
        "new": pair["new"]["name"] if pair else None,
        "strategy": pair["new"]["where"].get("strategy") if pair else None,
        "why": why,
    }


def _over(limit: Limit, pair: Mapping[str, Any]) -> Iterator[str]:
    if not pair["rows"]:
        yield "no whole load on one side"
        return
    row = next((row for row in pair["rows"] if row["name"] == limit.name), None)
    if row is None:  # 0 on both sides
        return
    if row["verdict"] == "not measured":
        yield f"{limit.name} was not measured on one side"
        return
    difference, base = row["difference"], row["base"]
    if limit.relative:
        # Of nothing, any more is infinitely many percent.
        change = 100 * difference / abs(base) if base else float("inf") * (difference or 0)
        beyond = bool(difference) and limit.sign * (change - limit.value) > 0
    else:
        beyond = limit.sign * (difference - limit.value) > 0
    if not beyond:
        return
    if row["interval"] is None:
        yield f"{_change(row)}; too few rounds for a spread, so this may be noise"
    elif row["interval"][0] > 0 or row["interval"][1] < 0 or not difference:
        yield _change(row)


def _change(row: Mapping[str, Any]) -> str:
    percent = f" ({100 * row['difference'] / abs(row['base']):+.1f}%)" if row["base"] else ""
    return f"{row['name']} {figure(row['base'], row['unit'])} -> " + (
        f"{figure(row['new'], row['unit'])}{percent}"
    )


def figure(value: float | None, unit: str, *, sign: bool = False) -> str:
    """A figure in its unit, for people; "-" is what was not measured."""
    if value is None:
        return "-"
    plus = "+" if sign and value > 0 else ""
    if unit == "ns":
        return plus + format_ns(int(value))
    if unit == "bytes":
        return plus + format_size(int(value))
    if unit == "ratio":
        return f"{plus}{value:.3f}"
    return f"{plus}{value:.0f}"
