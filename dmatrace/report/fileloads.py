"""The parts of the text report on files that processes loaded, the dma-bufs they filled, and
what it means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dmatrace.analysis.bufferflow import filled
from dmatrace.report.layout import WIDTH, Style
from dmatrace.sizes import format_ns, format_size

_FEW = 8  # of each; more are counted
_BAR = 30


def loads(document: Mapping[str, Any], style: Style) -> Iterator[str]:
    """Each file that was loaded: bytes, rate, verdict, and the evidence of each part."""
    found = [load for load in document.get("file_loads", []) if load["strategy"] == "observed"]
    if found:
        yield style.paint("files loaded", "bold")
    largest = sorted(found, key=lambda load: -load["bytes"])[:_FEW]
    for load in (each for each in found if each in largest):
        yield from _load(load, style)
    if len(found) > _FEW:
        rest = sum(load["bytes"] for load in found) - sum(load["bytes"] for load in largest)
        yield from style.wrap(f"and {len(found) - _FEW} more, {format_size(rest)}", "    ", "  ")


def _load(load: Mapping[str, Any], style: Style) -> Iterator[str]:
    name = load["path"] or f"inode {load['ino']} of {load['dev']}"
    label = f" [{load['format']}]" if load["format"] else ""
    who = f" by {load['comm'] or 'process'} {load['pid']}"
    yield from style.wrap(f"{name}{label}{who}", "    ", "  ")
    size = format_size(load["size"])
    text = f"{format_size(load['bytes'])} of {size}"
    if load["progress"] is not None:
        text += f" ({100 * load['progress']:.0f}%)"
    text += f" in {format_ns(load['end_ns'] - load['start_ns'])}"
    if load["bytes_per_s"]:
        text += f", {format_size(load['bytes_per_s'])}/s"
    yield from style.wrap(f"{text}: {load['verdict']}", "    ", "    ")
    many = len(load["parts"]) > 1
    for part in load["parts"][:_FEW]:
        share = f"{format_size(part['bytes'])} {part['name']}: " if many else ""
        yield from style.wrap(share + "; ".join(part["evidence"]), "        ", "      ")


def flows(document: Mapping[str, Any], style: Style) -> Iterator[str]:
    """Each dma-buf: what filled it, and its steps over time."""
    observed = {load["load_id"] for load in document["loads"] if load["strategy"] == "observed"}
    found = [flow for flow in document.get("buffer_flows", []) if flow["load_id"] in observed]
    if found:
        yield style.paint("what filled the dma-bufs", "bold")
    for flow in sorted(found, key=lambda each: -each["size"])[:_FEW]:
        yield from _flow(flow, style)
    if len(found) > _FEW:
        yield from style.wrap(f"and {len(found) - _FEW} more", "    ", "  ")


def _flow(flow: Mapping[str, Any], style: Style) -> Iterator[str]:
    of = flow["heap"] or flow["exporter"]
    made = f" of {of}" if of else ""
    yield from style.wrap(
        f"dma-buf {flow['ino']}{made}, {format_size(flow['size'])}: "
        + ("; ".join(filled(fill) for fill in flow["fills"]) or "no read went into it"),
        "    ",
        "  ",
    )
    if flow["shared"] > 1:
        yield from style.wrap(
            f"{flow['shared']} dma-bufs are made of this memfd: its bytes are theirs together.",
            "    ",
            "    ",
        )
    steps = flow["steps"]
    if not steps:
        return
    start = min(step["start_ns"] for step in steps)
    whole = max(step["end_ns"] for step in steps) - start
    for step in steps[: 2 * _FEW]:
        line = style.left(f"    {step['step']}", 15)
        line += style.right("+" + format_ns(step["start_ns"] - start), 11)
        spent = step["end_ns"] - step["start_ns"]
        line += style.right(format_ns(spent) if spent else "", 10) + "  "
        before = (step["start_ns"] - start) * (_BAR - 1) // whole if whole else 0
        drawn = max(1, -(-spent * _BAR // whole)) if whole else 1
        line += " " * before + style.fill("cpu") * min(drawn, _BAR - before)
        device = step["step"] in ("attach", "detach")
        what = "device" if device else step["what"]
        line = style.left(line, 28 + 11 + _BAR - 1) + " " + style.cut(what, 9)
        yield style.cut(line.rstrip(), WIDTH)
        if device:
            yield style.cut(f"{'':28}{step['what']}", WIDTH)


def findings(loads: Sequence[Mapping[str, Any]], style: Style) -> Iterator[str]:
    """What the figures mean, per process, those about most time first."""
    found = [load for load in loads if load.get("findings")]
    if found:
        yield style.paint("findings", "bold")
    for load in found:
        if len(found) > 1:
            yield from style.wrap(f"{load.get('comm', '')} {load.get('pid', '')}", "    ", "  ")
        for finding in load["findings"][:_FEW]:
            estimate = " [estimate]" if finding["estimate"] else ""
            head = f"  {finding['rank']}. "
            yield from style.wrap(finding["text"] + estimate, "     ", head)
            yield from style.wrap(f"next: {finding['next']}", "     ", "     ")
