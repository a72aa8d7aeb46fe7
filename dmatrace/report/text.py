"""The text report: where the time and the memory of the loads went.

Below 80 columns.  A single strategy gets its phases in full, two or three
stand side by side, more get a line each.  What the recording does not show
(hooks this kernel lacks, lost events, an unfinished recorder) is said, not
left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dmatrace.analysis.summary import KINDS, Summary, summaries
from dmatrace.analysis.time import in_phase_order
from dmatrace.report import critical, fileloads, inventory, io, memory, sections, tried
from dmatrace.report.layout import WIDTH, Style
from dmatrace.sizes import format_ns, format_size, short_size

SIDE_BY_SIDE = 3
_STEPS = ("wall", "create", "io", "close")


def render(document: Mapping[str, Any], *, color: bool = False, ascii_only: bool = False) -> str:
    """The report of an analysis document, ending in one newline."""
    style = Style(color=color, ascii=ascii_only)
    loads = summaries(document["loads"])
    blocks: list[list[str]] = [list(_header(document, style))]
    if not loads:
        blocks.append(style.wrap("No loads in this recording."))
    elif len(loads) == 1:
        blocks += [list(_about(loads[0], style)), list(_one(loads[0], style))]
    elif len(loads) <= SIDE_BY_SIDE:
        blocks.append(list(_side_by_side(loads, style)))
    else:
        blocks.append(list(_lines(loads, style)))
    blocks += [
        list(fileloads.findings(document["loads"], style)),
        list(fileloads.loads(document, style)),
        list(fileloads.flows(document, style)),
    ]
    if loads:
        blocks += [
            list(sections.functions(document, loads, style)),
            list(sections.bill(loads, style)),
            list(memory.memory(loads, style)),
            list(io.copies(loads, style)),
            list(sections.block(loads, style)),
            list(io.kinds(loads, style)),
            list(io.depth(loads, style)),
            list(io.devices(loads, style)),
            list(sections.direct(loads, style)),
            list(io.files(loads, style, all_of_them=len(loads) <= SIDE_BY_SIDE)),
            list(tried.section(document, style)),
            list(critical.critical(loads, style)),
            list(sections.overlap(loads, style)),
            list(sections.workers(loads, style)),
            list(sections.module(loads, style)),
            list(sections.delays(loads, style)),
            list(inventory.section(loads, style)),
            list(sections.outcomes(loads, style)),
        ]
    blocks += [
        list(sections.skipped(document, style)),
        list(sections.hidden(document, style)),
        list(sections.trust(document, style)),
    ]
    return "\n".join("\n".join(block) + "\n" for block in blocks if block)


def _header(document: Mapping[str, Any], style: Style) -> Iterator[str]:
    parts = [f"dmatrace {document['dmatrace']}", f"kernel {document['kernel']}"]
    parts += [document[name] for name in ("machine", "detail", "started") if document.get(name)]
    yield from style.wrap(", ".join(parts), "  ", "")
    if not document.get("complete", True):
        torn = ", ".join(document.get("torn", []))
        lost = f" The tail of these tables is lost: {torn}." if torn else ""
        text = (
            "INCOMPLETE: the recorder ended before it closed this recording; what follows"
            f" is what it had written by then.{lost}"
        )
        yield from (style.paint(line, "bad") for line in style.wrap(text))


def _about(load: Summary, style: Style) -> Iterator[str]:
    """The one strategy's title: what was loaded, and the loader's own times."""
    rounds = f", median of {len(load.loads)} rounds" if len(load.loads) > 1 else ""
    cache = load.loads[0]["cache_before"]
    title = f"{load.label}: {format_size(load.size)}{', ' + cache if cache else ''}{rounds}"
    yield from (style.paint(line, "bold") for line in style.wrap(title))
    if load.loads[0]["file"]:
        yield from style.wrap(load.loads[0]["file"], "  ", "  ")
    if load.observed:
        one = load.loads[0]
        yield from style.wrap(one["command"] or one["comm"], "  ", "  ")
        end = f", {one['ended']}" if one["ended"] else ""
        wall = format_ns(load.times["wall_ns"])
        yield from style.wrap(f"followed for {wall}{_rate(load)} read{end}", "  ", "  ")
        return
    times = {name: format_ns(load.times[f"{name}_ns"]) for name in ("create", "io", "close")}
    yield from style.wrap(
        f"create {times['create']}, io {times['io']}, close {times['close']},"
        f" wall {format_ns(load.times['wall_ns'])}{_rate(load)}",
        "  ",
        "  ",
    )


def _rate(load: Summary) -> str:
    wall = load.times["wall_ns"]
    return f", {format_size(load.size * 1_000_000_000 // wall)}/s" if wall > 0 else ""


def _one(load: Summary, style: Style) -> Iterator[str]:
    """One strategy's phases: time, share, cpu, blocked, runnable, bar."""
    heads, widths = ["time", "%", "cpu", "blocked", "runnable"], [9, 5, 9, 9, 9]
    if load.reaches:
        heads.insert(3, style.plus_minus)
        widths.insert(3, 9)
    bar = WIDTH - 12 - sum(widths) - 1
    head = "".join(style.right(*each) for each in zip(heads, widths, strict=True))
    yield style.paint(style.left("phase", 12) + head, "bold")
    full = max((sum(parts) for parts in load.phases.values()), default=0)
    for phase in load.ranked():
        parts = load.phases[phase]
        figures = [format_ns(sum(parts)), _percent(load.share(phase)), *map(_ns, parts)]
        if load.reaches:
            figures.insert(3, _ns(load.reaches.get(phase, 0)))
        line = style.left(phase, 12)
        line += "".join(style.right(f, w) for f, w in zip(figures, widths, strict=True))
        yield (line + " " + style.bar(_kinds(parts), full, bar)).rstrip()
    sums = [sum(parts[i] for parts in load.phases.values()) for i in range(3)]
    figures = [format_ns(load.total), "100%" if load.total else "-", *map(_ns, sums)]
    if load.reaches:
        figures.insert(3, "")
    threads = f"{load.threads} thread{'' if load.threads == 1 else 's'}"
    yield (
        style.left("all", 12)
        + "".join(style.right(f, w) for f, w in zip(figures, widths, strict=True))
        + " "
        + style.cut(threads, bar)
    )
    yield _legend(style)


def _side_by_side(loads: Sequence[Summary], style: Style) -> Iterator[str]:
    """Two or three strategies: a column each, a row per phase."""
    yield from _common(loads, style)
    width = (WIDTH - 12) // len(loads)
    room = 9 if any(load.reaches for load in loads) else 5
    bar = width - 9 - room - 2
    yield style.paint(
        (
            style.left("", 12) + "".join(" " + style.left(load.label, width - 1) for load in loads)
        ).rstrip(),
        "bold",
    )
    steps = ("wall",) if all(load.observed for load in loads) else _STEPS
    for name in steps:
        line = style.left(name, 12)
        for load in loads:
            figure = style.right(format_ns(load.times[f"{name}_ns"]), 9)
            rate = "  " + _rate(load)[2:] if name == "wall" else ""
            line += figure + style.left(rate, width - 9)
        yield line.rstrip()
    yield ""
    shares = {p: max(one.share(p) for one in loads) for one in loads for p in one.phases}
    full = max((sum(parts) for load in loads for parts in load.phases.values()), default=0)
    for phase in sorted(in_phase_order(shares), key=lambda name: -shares[name]):
        line = style.left(phase, 12)
        for load in loads:
            parts = load.phases.get(phase, (0, 0, 0))
            if any(parts):
                line += style.right(format_ns(sum(parts)), 9)
                share = _percent(load.share(phase)) + _reach(load.reach(phase), style)
                line += style.right(share, room) + " "
                drawn = Style(ascii=style.ascii).bar(_kinds(parts), full, bar)
                line += style.bar(_kinds(parts), full, bar) + " " * (bar - len(drawn) + 1)
            else:
                line += style.right("-", 9) + " " * (width - 9)
        yield line.rstrip()
    for i, kind in enumerate(KINDS):
        line = style.left(f"all {kind.removesuffix('_ns')}", 12)
        for load in loads:
            spent = sum(parts[i] for parts in load.phases.values())
            share = _percent(spent / load.total if load.total else 0)
            line += style.right(format_ns(spent), 9) + style.right(share, 5) + " " * (width - 14)
        yield line.rstrip()
    yield _legend(style)
    yield from _medians(loads, style)


def _lines(loads: Sequence[Summary], style: Style) -> Iterator[str]:
    """Many strategies: a line each, with the phases that took longest."""
    yield from _common(loads, style)
    head = "process" if all(load.observed for load in loads) else "strategy"
    yield style.paint(
        style.left(head, 24) + style.right("wall", 9) + style.right("rate/s", 8)
        + "  longest phases",
        "bold",
    )  # fmt: skip
    room = WIDTH - 24 - 9 - 8 - 2
    for load in loads:
        wall = load.times["wall_ns"]
        rate = short_size(load.size * 1_000_000_000 // wall) if wall > 0 else "-"
        top = ""
        for phase in load.ranked():
            more = f"{', ' if top else ''}{phase} {_percent(load.share(phase))}"
            if load.share(phase) < 0.005 or len(top) + len(more) > room:
                break
            top += more
        line = style.left(load.label, 24) + style.right(format_ns(wall), 9) + style.right(rate, 8)
        yield (line + "  " + style.cut(top, room)).rstrip()
    yield from style.wrap("Shares are of the time of all the load's threads.")
    yield from _medians(loads, style)


def _common(loads: Sequence[Summary], style: Style) -> Iterator[str]:
    """What all strategies loaded, where it is the same; labels tell them apart elsewhere."""
    sizes = {load.size for load in loads}
    first = loads[0].loads[0]
    parts = [format_size(loads[0].size)] if len(sizes) == 1 else []
    for name in ("cache_before", "file"):
        if first[name] and len({load.loads[0][name] for load in loads}) == 1:
            parts.append(first[name])
    if parts:
        yield from style.wrap(", ".join(parts), "  ", "")
        yield ""


def _medians(loads: Sequence[Summary], style: Style) -> Iterator[str]:
    rounds = {len(load.loads) for load in loads}
    if rounds != {1}:
        count = f"{min(rounds)}" + (f" to {max(rounds)}" if len(rounds) > 1 else "")
        yield from style.wrap(f"Every figure is the median of {count} rounds by itself.")


def _legend(style: Style) -> str:
    kinds = (kind.removesuffix("_ns") for kind in KINDS)
    drawn = (f"{style.paint(style.fill(kind), kind)} {kind}" for kind in kinds)
    return "bars: " + "  ".join(drawn)


def _reach(share: float | None, style: Style) -> str:
    """Points of a per cent that a share can be off; at least 1."""
    return "" if share is None else f"{style.plus_minus}{max(1, round(share * 100))}"


def _kinds(parts: Sequence[int]) -> list[tuple[str, int]]:
    return [(kind.removesuffix("_ns"), part) for kind, part in zip(KINDS, parts, strict=True)]


def _ns(ns: int) -> str:
    return format_ns(ns) if ns else "-"


def _percent(share: float) -> str:
    """Whole per cent; "<1%" for what is there but rounds to nothing."""
    return "<1%" if 0 < share < 0.005 else f"{share * 100:.0f}%"
