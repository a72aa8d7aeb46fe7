"""The memory ledger in the text report: per file, who removed it, readahead, over time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dmatrace.analysis.summary import Summary
from dmatrace.report.layout import Style
from dmatrace.sizes import format_ns, format_size, short_size

_NAME = 22
_FILES = 6  # of one load; the JSON has all
_COLUMNS = 48  # of a timeline
_LEVELS = " ▁▂▃▄▅▆▇█"
_LEVELS_ASCII = " .:-=+*#@"
_HEADS = {
    "cache+": "added", "cache-": "removed", "peak": "peak", "end": "end", "B x s": "byte_seconds",
    "RA": "readahead", "refault": "refaulted",
}  # fmt: skip


def memory(loads: Sequence[Summary], style: Style) -> Iterator[str]:
    """Everything the ledger has of one load of each strategy; nothing where it was not kept."""
    shown = [(load.label, load.loads[-1]) for load in loads]
    kept = [(label, one) for label, one in shown if one["memory"].get("timeline")]
    if not kept:
        return
    yield from _files(kept, style)
    yield from _removed(kept, style)
    yield from _readahead(kept, style)
    yield from _held(kept, style)
    yield from _pressure(kept, style)
    yield from _timelines(kept, style)
    yield from _unavailable(kept, style)
    if any(len(load.loads) > 1 for load in loads):
        yield from style.wrap("These are of the last round.")


Kept = Sequence[tuple[str, Mapping[str, Any]]]


def _files(kept: Kept, style: Style) -> Iterator[str]:
    """A line per file that the load added to, removed from or allocated in memory."""
    yield style.paint(
        style.left("memory by file", _NAME) + "".join(style.right(head, 8) for head in _HEADS),
        "bold",
    )
    for label, load in kept:
        files = load["memory"]["files"] or []
        yield style.left(label, _NAME).rstrip()
        for file in files[:_FILES]:
            line = style.left("  " + _path(file), _NAME)
            for key in _HEADS.values():
                value = file[key]
                if key == "readahead" and value is not None:
                    value = value["added"]
                line += style.right(
                    "?" if value is None else short_size(value) if value else "-", 8
                )
            yield line
        if len(files) > _FILES:
            rest = files[_FILES:]
            added = format_size(sum(file["added"] for file in rest))
            yield from style.wrap(f"{len(rest)} more files, {added} added", "  ", "  ")
    yield from style.wrap(
        "B x s: bytes held times seconds, until the buffer was full; RA: added by readahead;"
        " refault: came back after reclaim took it; ?: not known, because what was cached"
        " before is not."
    )


def _path(file: Mapping[str, Any]) -> str:
    """The end of a path, which tells files apart."""
    path = str(file["path"]) or f"inode {file['ino']}"
    return path.rsplit("/", 1)[-1] if path.startswith("/") else path


def _removed(kept: Kept, style: Style) -> Iterator[str]:
    """Of the loaded file: who took its folios out of the page cache."""
    taken = [(label, load) for label, load in kept if any(_values(load["memory"]["removed_by"]))]
    if taken:
        yield style.paint("removed from the page cache by", "bold")
    for label, load in taken:
        by = load["memory"]["removed_by"]
        how = load["memory"]["removed_how"]
        parts = [f"{name} {format_size(n)}" for name, n in by.items() if n]
        text = ", ".join(parts)
        if by["process"]:
            done = [name for name in ("invalidate", "truncate", "unlink", "other") if how[name]]
            text += f" ({', '.join(done)})"
        yield from _item(style, label, text)


def _values(found: Mapping[str, int] | None) -> list[int]:
    return list((found or {}).values())


def _readahead(kept: Kept, style: Style) -> Iterator[str]:
    """What readahead brought, and how much of it was for nothing."""
    brought = [(label, load) for label, load in kept if any(_values(load["memory"]["readahead"]))]
    if brought:
        yield style.paint("readahead", "bold")
    for label, load in brought:
        found = load["memory"]["readahead"]
        parts = [f"{format_size(found['added'])} added"]
        parts.append(f"{format_size(found['used'])} used")
        if found["mapped"]:
            parts.append(f"{format_size(found['mapped'])} mapped around faults, perhaps used")
        share = 100 * found["unread"] / found["added"] if found["added"] else 0
        parts.append(f"{format_size(found['unread'])} wasted ({share:.0f}%)")
        yield from _item(style, label, ", ".join(parts))


def _held(kept: Kept, style: Style) -> Iterator[str]:
    """dma-bufs per exporter and heap, and pinned pages."""
    yield style.paint("dma-bufs and pinned pages", "bold")
    for label, load in kept:
        bill = load["memory"]
        parts = [_buffers(one) for one in bill["dmabufs"]]
        pinned = bill["pinned"]
        if pinned["peak"]:
            held = format_ns(pinned["held_ns"] or 0)
            parts.append(
                f"pinned: peak {format_size(pinned['peak'])}, for {held},"
                f" {format_size(pinned['byte_seconds'])} x s"
            )
        yield from _item(style, label, "; ".join(parts) or "none")


def _buffers(one: Mapping[str, Any]) -> str:
    heap = f" from heap {one['heap']}" if one["heap"] else ""
    kept = "" if one["released"] == one["bytes"] else ", not all released"
    size, held = format_size(one["bytes"]), format_size(one["byte_seconds"])
    return f"{one['count']} of {one['exporter']}{heap}: {size}, {held} x s{kept}"


def _pressure(kept: Kept, style: Style) -> Iterator[str]:
    """PSI, refaults, and what reclaim took from others meanwhile."""
    lines = []
    for label, load in kept:
        bill, parts = load["memory"], []
        for name in ("memory", "io"):
            found = bill["psi"][name]
            if found:
                parts.append(f"{name} some {format_ns(found.get('some_ns', 0))}")
        refaults, elsewhere = bill["refaults"], bill["reclaim_elsewhere"]
        if refaults["bytes"]:
            parts.append(f"{format_size(refaults['bytes'])} refaulted")
        if elsewhere and elsewhere["page_cache"]:
            parts.append(f"reclaim took {format_size(elsewhere['page_cache'])} of other files")
        if elsewhere and elsewhere["anon"]:
            parts.append(f"{format_size(elsewhere['anon'])} of anonymous memory (machine)")
        if parts:
            lines += _item(style, label, ", ".join(parts))
    if lines:
        yield style.paint("pressure (PSI: time in which tasks of the machine waited)", "bold")
        yield from lines


def _timelines(kept: Kept, style: Style) -> Iterator[str]:
    """Levels over the load's time, each line on its own scale."""
    yield style.paint("over time", "bold")
    for label, load in kept:
        timeline = load["memory"]["timeline"]
        times = timeline["t_ns"]
        yield from style.wrap(
            f"{label}: {format_ns(times[-1])}, {len(times)} samples", "    ", "  "
        )
        for name in ("page_cache", "shmem", "dmabuf", "pinned"):
            series = timeline[name]
            if not series or not any(value > 0 for value in series):
                continue
            line = "    " + style.left(name.replace("_", " "), 12)
            line += sparkline(times, series, _COLUMNS, ascii_only=style.ascii)
            yield (line + style.right(short_size(max(series)), 8)).rstrip()


def sparkline(
    times: Sequence[int], values: Sequence[int], width: int, *, ascii_only: bool = False
) -> str:
    """A row of ``width`` levels, each the most that was sampled in its part of the time.

    A part without a sample shows the last one before it; the highest is the full block.
    """
    levels = _LEVELS_ASCII if ascii_only else _LEVELS
    most, whole = max(values), (times[-1] - times[0]) or 1
    drawn, last, at = "", values[0], 0
    for column in range(width):
        until = times[0] + whole * (column + 1) // width
        seen = []
        while at < len(times) and (times[at] < until or column == width - 1):
            seen.append(values[at])
            at += 1
        level = max(seen, default=last)
        last = seen[-1] if seen else last
        # Whatever is there is drawn.
        step = -(-max(level, 0) * (len(levels) - 1) // most) if most > 0 else 0
        drawn += levels[step]
    return drawn


def _unavailable(kept: Kept, style: Style) -> Iterator[str]:
    seen: dict[str, str] = {}
    for _, load in kept:
        seen |= load["memory"]["unavailable"]
    if seen:
        yield style.paint("not measured", "bold")
    for name, why in seen.items():
        yield from _item(style, name, why)


def _item(style: Style, name: str, text: str) -> list[str]:
    return style.wrap(text, " " * 26, "  " + style.left(name, 22) + "  ")
