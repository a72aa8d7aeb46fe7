"""The part of the text report on what bounded a load at each moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dmatrace.analysis.critical import PARTS
from dmatrace.analysis.summary import Summary
from dmatrace.report.io import typical
from dmatrace.report.layout import Style
from dmatrace.sizes import format_ns

_HEADS = {
    "alloc_io": "alloc+io", "alloc": "alloc", "cpu_io": "cpu+io", "cpu": "cpu", "io": "io",
    "queue": "queue", "runnable": "ready", "wait": "wait",
}  # fmt: skip
_WIDTHS = dict.fromkeys(PARTS, 7) | {"alloc_io": 9}
# Of the wall time, what may be missing of the waits before it is said.
_UNSEEN = 0.02


def critical(loads: Sequence[Summary], style: Style) -> Iterator[str]:
    """Shares of the wall time, each moment to what bounded it; nothing where none can tell."""
    rows = [(load, typical(load).get("critical")) for load in loads]
    if not any(found for _, found in rows):
        return
    yield style.paint(
        style.left("bound by", 21) + "".join(style.right(_HEADS[p], _WIDTHS[p]) for p in PARTS),
        "bold",
    )
    for load, found in rows:
        line = style.left(load.label, 21)
        if found is None:
            yield line + "  cannot be told: no waits were recorded"
            continue
        wall = found["wall_ns"]
        for part in PARTS:
            ns = found[f"{part}_ns"]
            line += style.right(f"{100 * ns / wall:.0f}%" if ns else "-", _WIDTHS[part])
        yield line
        if found["unseen_ns"] > _UNSEEN * wall:
            yield from style.wrap(
                f"threads were off the CPU for {format_ns(found['unseen_ns'])} more in waits"
                " too short to be recorded: part of cpu is that.",
                "    ",
                "    ",
            )
    yield from style.wrap(
        "Each moment of the wall time counts once. alloc: a thread runs in an allocation; cpu:"
        " one runs elsewhere (copying, page cache); +io: a read is on the device meanwhile;"
        " io, queue: none runs, a read is on the device, or queued before it; ready: none runs"
        " for want of a CPU; wait: all sleep."
    )
