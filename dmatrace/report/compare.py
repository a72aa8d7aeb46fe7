"""A comparison as text, below 80 columns: what got worse first, then better, then no different."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dmatrace.analysis.comparison.limits import figure
from dmatrace.report.layout import Style
from dmatrace.sizes import format_size

_NAME = 20
#: Rows that change less of the load than this share a line.
SMALL = 0.005

_TITLES = {
    "worse": "worse, beyond the spread",
    "different": "different, beyond the spread",
    "better": "better, beyond the spread",
}
_UNKNOWN = {
    "worse": "more, but of too few rounds to tell from noise",
    "different": "different, but of too few rounds to tell from noise",
    "better": "less, but of too few rounds to tell from noise",
}


def render(found: Mapping[str, Any], *, color: bool = False, ascii_only: bool = False) -> str:
    """The comparison ``found``, ending in one newline."""
    style = Style(color=color, ascii=ascii_only)
    blocks = [list(_header(found, style)), list(_differences(found, style))]
    blocks += [list(_pair(pair, style)) for pair in found["pairs"]]
    if not found["pairs"]:
        blocks.append(style.wrap("No loads on both sides that can be held against each other."))
    blocks += [
        list(_unmatched(found, style)),
        list(_method(found, style)),
        list(_limits(found, style)),
    ]
    return "\n".join("\n".join(line.rstrip() for line in block) + "\n" for block in blocks if block)


def _header(found: Mapping[str, Any], style: Style) -> Iterator[str]:
    yield from (
        style.paint(line, "bold")
        for line in style.wrap(f"By {found['by']}; all against {found['base']}", "  ", "")
    )
    for one in found["recordings"]:
        parts = [f"kernel {one['kernel']}"]
        parts += [str(one[key]) for key in ("device", "machine", "detail", "started") if one[key]]
        if one["lost_events"]:
            parts.append(f"{one['lost_events']} events LOST")
        if not one["complete"]:
            parts.append("INCOMPLETE: its recorder was killed")
        yield from _item(style, one["label"], ", ".join(parts))


def _differences(found: Mapping[str, Any], style: Style) -> Iterator[str]:
    if found["differences"]:
        yield style.paint("not the loads alone differ", "bold")
    for row in found["differences"]:
        text = f"{_value(row['what'], row['base'])} -> {_value(row['what'], row['new'])}"
        if row["hides"]:
            text += f"; hidden without it: {row['hides']}"
        text += f" ({row['recordings'][1]})" if len(found["recordings"]) > 2 else ""
        yield from _item(style, row["what"], text)


def _value(what: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_value(what, one) for one in value) or "none"
    if what in ("bytes", "file size", "page size") and isinstance(value, int):
        return format_size(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not known" if value in ("", None) else str(value)


def _pair(pair: Mapping[str, Any], style: Style) -> Iterator[str]:
    base, new = pair["base"], pair["new"]
    shared = {k: v for k, v in base["where"].items() if new["where"].get(k) == v}
    parts = [str(shared["strategy"])] if "strategy" in shared else []
    parts += [format_size(shared["bytes"])] if "bytes" in shared else []
    parts += [shared["cache"]] if shared.get("cache") else []
    against = f"{new['name']} against {base['name']}"
    title = f"{', '.join(parts)}: {against}" if parts else against
    rounds = f" ({new['rounds']} and {base['rounds']} rounds)"
    for line in style.wrap(title + rounds, "  ", ""):
        yield style.paint(line, "bold")
    for row in pair["differs"]:
        text = f"{_value(row['what'], row['base'])} -> {_value(row['what'], row['new'])}"
        for line in style.wrap(f"NOT ALIKE: {row['what']} {text}", "    ", "  "):
            yield style.paint(line, "bad")
    left = base["left_out"] + new["left_out"]
    if left:
        yield f"  {left} failed, refused or partial loads are left out"
    if not pair["rows"]:
        yield "  no whole load on one side: nothing to compare"
        return
    yield from _rows(pair["rows"], style)


def _rows(rows: Sequence[Mapping[str, Any]], style: Style) -> Iterator[str]:
    yield style.paint(
        style.left("", _NAME)
        + "".join(
            style.right(text, width)
            for text, width in (("base", 9), ("new", 9), ("change", 10), ("", 8))
        )
        + "  spread of the change",
        "bold",
    )
    for title, part in _sections(rows):
        large = [row for row in part if row["weight"] >= SMALL]
        small = [row for row in part if row["weight"] < SMALL]
        yield f"{title}:"
        yield from (_line(row, style) for row in large)
        if small:
            names = ", ".join(f"{row['name']} {_percent(row)}".rstrip() for row in small)
            first = "  and little (under 0.5% of the load): " if large else "  little: "
            yield from style.wrap(names, "    ", first)
    same = [row["name"] for row in rows if row["verdict"] == "same"]
    if same:
        yield from style.wrap(", ".join(same), "  ", "no difference seen: ")
    missing = [row["name"] for row in rows if row["verdict"] == "not measured"]
    if missing:
        yield from style.wrap(", ".join(missing), "  ", "not measured on one side: ")


def _sections(
    rows: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    for verdict, title in _TITLES.items():
        part = [row for row in rows if row["verdict"] == verdict]
        if part:
            yield title, part
    for direction, title in _UNKNOWN.items():
        part = [r for r in rows if r["verdict"] == "unknown" and r["direction"] == direction]
        if part:
            yield title, part


def _line(row: Mapping[str, Any], style: Style) -> str:
    unit = row["unit"]
    line = style.left("  " + row["name"], _NAME)
    line += style.right(figure(row["base"], unit), 9) + style.right(figure(row["new"], unit), 9)
    line += style.right(figure(row["difference"], unit, sign=True), 10)
    line += style.right(_percent(row), 8)
    if row["interval"]:
        low, high = (figure(value, unit, sign=True) for value in row["interval"])
        line += style.cut(f"  {low} .. {high}", 23)
    if row["verdict"] == "worse":
        return style.paint(line, "bad")
    return line


def _percent(row: Mapping[str, Any]) -> str:
    if not row["base"]:
        return "new" if row["new"] else ""
    percent = 100 * row["difference"] / abs(row["base"])
    # In full up to 999 %, beyond as a factor.
    return f"{percent:+.1f}%" if abs(percent) < 999 else f"x{row['new'] / row['base']:.3g}"


def _unmatched(found: Mapping[str, Any], style: Style) -> Iterator[str]:
    if found["unmatched"]:
        yield style.paint("on one side only", "bold")
    for row in found["unmatched"]:
        where = row["where"]
        parts = [str(where[key]) for key in ("strategy", "cache") if where.get(key)]
        if "bytes" in where:
            parts.insert(1, format_size(where["bytes"]))
        against = f", not in {row['against']}" if "against" in row else f", not in {found['base']}"
        yield from _item(style, row["side"], ", ".join(parts) + against)


def _method(found: Mapping[str, Any], style: Style) -> Iterator[str]:
    method = found["method"]
    rows = [row for pair in found["pairs"] for row in pair["rows"]]
    if not rows:
        return
    if any(row["interval"] for row in rows):
        yield from style.wrap(
            f"Medians of rounds. Spread: {method['confidence']:.0%} interval of the difference of"
            f" medians (bootstrap, {method['resamples']} resamples); a difference is seen where"
            " it does not hold 0. With 3 rounds a side that errs in about 10 rows of 100, with 5"
            " or more in 4.",
            "  ",
            "",
        )
    if any(row["interval"] is None and row["verdict"] != "not measured" for row in rows):
        yield from style.wrap(
            f"Fewer than {method['least_rounds']} rounds on a side have no spread: record with"
            " --rounds 5 or more to tell a difference from noise.",
            "  ",
            "",
        )


def _limits(found: Mapping[str, Any], style: Style) -> Iterator[str]:
    for row in found.get("failed", []):
        for line in style.wrap(f"FAILED {row['limit']}: {where(row)}{row['why']}", "  ", ""):
            yield style.paint(line, "bad")


def where(row: Mapping[str, Any]) -> str:
    """Which pair an exceeded limit is of, for a sentence."""
    parts = [str(row[key]) for key in ("new", "strategy") if row[key]]
    return f"{', '.join(dict.fromkeys(parts))}: " if parts else ""


def _item(style: Style, name: str, text: str) -> list[str]:
    column = "  " + style.left(name, 22) + "  "
    return style.wrap(text, " " * 26, column)
