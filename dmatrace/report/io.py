"""The parts of the text report on I/O: kinds of reads, queue depth, devices, copies, files.

Where a strategy has several rounds, they show the one whose wall time is the median.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dmatrace.analysis.summary import Summary
from dmatrace.report.layout import WIDTH, Style
from dmatrace.sizes import format_ns, format_size, short_size

_NAME = 22
_LEVELS = " ▁▂▃▄▅▆▇█"
_LEVELS_ASCII = " .:-=+*#@"


def typical(load: Summary) -> Mapping[str, Any]:
    """The round whose wall time is the median (the lower one of two)."""
    ordered = sorted(load.loads, key=lambda one: int(one["wall_ns"]))
    return ordered[(len(ordered) - 1) // 2]


def kinds(loads: Sequence[Summary], style: Style) -> Iterator[str]:
    """Read requests by kind, with the time they were queued; the file system's own apart."""
    rows = [(load, kind, row) for load in loads for kind, row in _kinds(load).items()]
    if not rows:
        return
    heads = (("requests", 9), ("read", 8), ("queued p50", 12), ("p99", 10), ("device p50", 12))
    yield style.paint(
        style.left("reads by kind", _NAME - 6)
        + style.left("", 11)
        + "".join(style.right(*head) for head in heads),
        "bold",
    )
    last = None
    for load, kind, row in rows:
        name = load.label if load is not last else ""
        last = load
        yield (
            style.left(name, _NAME - 6)
            + style.left(" " + kind, 11)
            + style.right(str(row["requests"]), 9)
            + style.right(short_size(row["read_bytes"]), 8)
            + style.right(format_ns(row["queue_ns"]["p50"]), 12)
            + style.right(format_ns(row["queue_ns"]["p99"]), 10)
            + style.right(format_ns(row["latency_ns"]["p50"]), 12)
        )


def _kinds(load: Summary) -> Mapping[str, Any]:
    found: Mapping[str, Any] = typical(load)["block"].get("kinds", {})
    return found


def depth(loads: Sequence[Summary], style: Style) -> Iterator[str]:
    """Requests on the device at once, and over time; what has no request of its own is said."""
    shown = [load for load in loads if typical(load)["block"].get("depth", {}).get("max")]
    if shown:
        yield style.paint("queue depth", "bold")
    for load in shown:
        block = typical(load)["block"]
        on, waiting = block["depth"], block["waiting"]
        yield from _item(
            style,
            load.label,
            f"mean {on['mean']:.2f}, most {on['max']} on the device; mean"
            f" {waiting['mean']:.2f}, most {waiting['max']} queued before it",
        )
        line = block["timeline"]
        drawn = _line(line["depth_mean"], style)
        if drawn:
            each = f" a column is {format_ns(line['interval_ns'])}"
            if len(drawn) + len(each) <= WIDTH - 26:
                drawn += each
            yield (" " * 26 + drawn).rstrip()
    for load in loads:
        block = typical(load)["block"]
        if block.get("unseen_bytes"):
            yield from _item(
                style,
                load.label,
                f"{format_size(block['unseen_bytes'])} of {format_size(block['queued_bytes'])}"
                " asked of the block layer have no request here: a driver handed them to a"
                " thread of its own (dm-crypt, dm-delay), or the recording ended first",
            )


def _line(values: Sequence[float], style: Style) -> str:
    """One character per value, scaled to the largest."""
    levels = _LEVELS_ASCII if style.ascii else _LEVELS
    top = max(values, default=0.0)
    if top <= 0:
        return ""
    return "".join(
        # What is there at all is never drawn as nothing.
        levels[max(1, round(value / top * (len(levels) - 1))) if value > 0 else 0]
        for value in values[: WIDTH - 26]
    )


def devices(loads: Sequence[Summary], style: Style) -> Iterator[str]:
    """Where the requests went, if that is more than one disk or a stacked one."""
    rows = []
    for load in loads:
        found = typical(load)["block"].get("devices", [])
        if len(found) > 1 or any(device["label"] for device in found):
            rows.append((load, found))
    if rows:
        yield style.paint("devices", "bold")
    for load, found in rows:
        for device in found:
            name = device["name"] or device["dev"]
            label = f" ({device['label']})" if device["label"] else ""
            yield from _item(
                style,
                load.label,
                f"{name}{label}: {device['requests']} reads,"
                f" {format_size(device['read_bytes'])}, p50"
                f" {format_ns(device['latency_ns']['p50'])}, depth most {device['depth']['max']}",
            )


def copies(loads: Sequence[Summary], style: Style) -> Iterator[str]:
    """Bytes that copying functions moved, by path, and those that were not hooked.

    Nothing where nothing was copied.
    """
    rows = []
    for load in loads:
        found = typical(load)["copies"].get("paths", {})
        parts = [f"{path} {format_size(n)}" for path, n in found.items()]
        if "copies" in load.hidden:
            parts.append(f"hidden: what passed {', '.join(load.hidden['copies'])}")
        if parts:
            rows.append((load, ", ".join(parts)))
    if rows:
        yield style.paint("copied by the CPU", "bold")
    for load, text in rows:
        yield from _item(style, load.label, text)


def files(loads: Sequence[Summary], style: Style, *, all_of_them: bool) -> Iterator[str]:
    """Per file: whether its reads were direct, and the evidence.

    Not ``all_of_them``: those that fell back, were refused or took both paths.
    """
    rows = [
        (load, file)
        for load in loads
        for file in typical(load).get("files", [])
        if all_of_them or _odd(file)
    ]
    if rows:
        yield style.paint("files", "bold")
    for load, file in rows:
        name = file["path"] or f"inode {file['ino']} of {file['dev']}"
        yield from _item(style, load.label, f"{name}: {file['verdict']}: {file['why']}")


def _odd(file: Mapping[str, Any]) -> bool:
    return bool(
        file["fallback_bytes"] or any(file["errors"].values()) or file["verdict"] == "mixed"
    )


def _item(style: Style, name: str, text: str) -> list[str]:
    return style.wrap(text, " " * 26, "  " + style.left(name, 22) + "  ")
