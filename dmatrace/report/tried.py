"""The part of the text report on what ``--try`` measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dmatrace.analysis.tried import WAYS
from dmatrace.report.layout import Style
from dmatrace.sizes import format_ns, format_size, short_size

_NAME = 26


def section(document: Mapping[str, Any], style: Style) -> Iterator[str]:
    """The target's load of a file and what strategies took for the same; nothing without --try."""
    tried = document.get("tried")
    if not tried:
        return
    if tried["why"]:
        yield style.paint("tried: nothing", "bold")
        yield from style.wrap(f"{tried['why']}; {tried['do']}", "  ", "  ")
        return
    yield style.paint("tried on the file that the target loaded", "bold")
    size = format_size(tried["bytes"])
    yield from style.wrap(f"{tried['file']}: {size}, {tried['cache']}", "  ", "  ")
    heads = (("time", 9), ("a second", 10), ("cache+", 8))
    head = "".join(style.right(*each) for each in heads)
    yield style.paint(style.left("", _NAME) + head + "  against the target", "bold")
    target = tried["target"]
    name = f"the target ({WAYS.get(target['way'], target['way'])})"
    yield _line(name, target["ns"], target["bytes"], target["page_cache_added"], "", style)
    for load in tried["loads"]:
        gain = f"{load['gain']:.2f}x as fast" if load["gain"] else "-"
        if load["ns"] is None:
            gain = "failed, see below"
        yield _line(
            load["strategy"], load["ns"], tried["bytes"], load["page_cache_added"], gain, style
        )
    if target["whole"] and not target["ns"]:
        yield from style.wrap(
            "How long the target took is not known: it read what was cached in a few calls, whose"
            " beginnings are not recorded."
        )
    if not target["whole"]:
        yield from style.wrap(
            f"Of the target's load {format_size(target['bytes'])} were seen: only the rates"
            " compare."
        )
    yield from style.wrap(
        "The target's time is that in which all but the first 1 % of its bytes came, with"
        " whatever it did between its reads; a strategy's is that of create and io."
    )


def _line(name: str, ns: int | None, size: int, added: int | None, gain: str, style: Style) -> str:
    rate = short_size(size * 1_000_000_000 // ns) if ns else "-"
    figures = (format_ns(ns) if ns else "-", 9), (rate, 10), (short_size(added or 0), 8)
    line = style.left(name, _NAME) + "".join(style.right(*each) for each in figures)
    return f"{line}  {gain}".rstrip()
