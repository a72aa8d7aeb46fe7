"""A fleet's analysis as text, below 80 columns: distributions, outliers and why, damage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dmatrace.analysis.comparison.limits import figure
from dmatrace.report.layout import Style
from dmatrace.sizes import format_ns, format_size, short_size

#: So many of each are named; the JSON has all.
SHOWN = 20


def render(found: Mapping[str, Any], *, color: bool = False, ascii_only: bool = False) -> str:
    """The analysis ``found``, ending in one newline."""
    style = Style(color=color, ascii=ascii_only)
    parts = (_header, _groups, _outliers, _damaged)
    blocks = [list(part(found, style)) for part in parts]
    return "\n".join("\n".join(line.rstrip() for line in block) + "\n" for block in blocks if block)


def _header(found: Mapping[str, Any], style: Style) -> Iterator[str]:
    devices = {row["device"] for row in found["groups"]}
    text = (
        f"{found['recordings']} recordings, {found['readable']} readable;"
        f" {len(devices)} device models, {len(found['groups'])} groups,"
        f" {len(found['outliers'])} outliers"
    )
    for line in style.wrap(text):
        yield style.paint(line, "bold")


def _groups(found: Mapping[str, Any], style: Style) -> Iterator[str]:
    """Per strategy, size and cache state a table: a line for each device and kernel."""
    widths = (("n", 6), ("p5", 9), ("median", 9), ("p95", 9), ("cache+", 8), ("p95", 8))
    before = None
    for row in sorted(
        found["groups"],
        key=lambda row: (row["strategy"], row["bytes"], row["cache"], row["device"], row["kernel"]),
    ):
        title = (row["strategy"], row["bytes"], row["cache"])
        if title != before:
            if before:
                yield ""
            parts = [row["strategy"], format_size(row["bytes"]), row["cache"]]
            head = "".join(style.right(*column) for column in widths)
            yield style.paint(style.cut(", ".join(filter(None, parts)), 79), "bold")
            yield style.paint(style.left("  device, kernel: wall time", 30) + head, "bold")
            before = title
        line = style.left(f"  {row['device']}, {row['kernel']}", 29) + " "
        line += style.right(str(row["recordings"]), 6)
        for at in ("p5", "median", "p95"):
            line += style.right(format_ns(row["wall"][at]) if row["wall"] else "-", 9)
        for at in ("median", "p95"):
            bill = row["page_cache_added"]
            line += style.right(short_size(bill[at]) if bill else "-", 8)
        yield line
    if found["groups"]:
        yield from style.wrap("cache+: page cache added, its median and 95th percentile.")


def _outliers(found: Mapping[str, Any], style: Style) -> Iterator[str]:
    rows = found["outliers"]
    if rows:
        yield style.paint("outliers, the farthest first", "bold")
    for row in rows[:SHOWN]:
        yield from style.wrap(row["recording"], "    ", "  ")
        about = f"{row['device']}, {row['kernel']}, {row['strategy']}"
        measures = "; ".join(
            f"{one['name']} {figure(one['value'], _unit(one['name']))}, median"
            f" {figure(one['median'], _unit(one['name']))}"
            for one in row["measures"]
        )
        against = "" if row["against"] == "group" else f" (of its {row['against']})"
        yield from style.wrap(f"{about}: {measures}{against}", "      ", "    ")
        why = ", ".join(
            f"{one['name']} {figure(one['difference'], one['unit'], sign=True)}"
            for one in row["why"]
        )
        yield from style.wrap(f"why: {why or 'no phase or memory row of it stands out'}",
                              "      ", "    ")  # fmt: skip
    if len(rows) > SHOWN:
        yield f"  and {len(rows) - SHOWN} more, in -f json"
    if found["not_judged"]:
        least = found["method"]["least"]
        yield from style.wrap(
            f"{len(found['not_judged'])} loads are in groups of fewer than {least}, which nothing"
            " can be an outlier of.",
            "  ",
            "",
        )


def _unit(name: str) -> str:
    return "ns" if name == "wall" else "bytes"


def _damaged(found: Mapping[str, Any], style: Style) -> Iterator[str]:
    rows = found["damaged"]
    if rows:
        yield style.paint(f"damaged: {len(rows)}, left out", "bad")
    for row in rows[:SHOWN]:
        # The reason names the recording, as a rule.
        named = row["recording"] in row["why"]
        text = row["why"] if named else f"{row['recording']}: {row['why']}"
        yield from style.wrap(text, "    ", "  ")
    if len(rows) > SHOWN:
        yield f"  and {len(rows) - SHOWN} more, in -f json"
