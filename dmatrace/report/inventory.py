"""The part of the text report on the dma-bufs that were held at the end of a load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dmatrace.analysis.summary import Summary
from dmatrace.report.layout import Style
from dmatrace.sizes import format_size

_FEW = 3


def section(loads: Sequence[Summary], style: Style) -> Iterator[str]:
    """Who held dma-bufs at the end of the last round; of many loads, those of others alone."""
    lines: list[str] = []
    sources = set()
    for load in loads:
        found = load.loads[-1].get("inventory")
        if not found or not found["buffers"]:
            continue
        sources.add(found["source"])
        own = {thread["tid"] for thread in load.loads[-1]["threads"]}
        for buffer in found["buffers"]:
            others = [holder for holder in buffer["holders"] if holder["pid"] not in own]
            if len(loads) <= _FEW or others or not buffer["holders"]:
                name = "  " + style.left(load.label, 22) + "  "
                lines += style.wrap(_said(buffer), " " * 26, name)
    if lines:
        yield style.paint(f"dma-bufs at the end of a load ({', '.join(sorted(sources))})", "bold")
        yield from lines


def _said(buffer: Mapping[str, Any]) -> str:
    size = "of unknown size" if buffer["size"] is None else format_size(buffer["size"])
    exporter = f" of {buffer['exporter']}" if buffer["exporter"] else ""
    name = f' "{buffer["name"]}"' if buffer["name"] else ""
    holders = ", ".join(_holder(holder) for holder in buffer["holders"])
    devices = "".join(f", device {device}" for device in buffer["devices"] or ())
    return f"{size}{exporter}{name}: {holders or 'no process holds it'}{devices}"


def _holder(holder: Mapping[str, Any]) -> str:
    parts = [f"{holder['fds']} fd{'' if holder['fds'] == 1 else 's'}"] if holder["fds"] else []
    if holder["mapped"]:
        parts.append(f"maps {format_size(holder['mapped'])}")
    return f"{holder['comm']} {holder['pid']} ({', '.join(parts)})"
