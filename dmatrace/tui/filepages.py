"""File loads of followed processes as text: cells of the loads' table, and their details."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.text import Text

from dmatrace.sizes import format_ns, format_size, short_size
from dmatrace.tui import draw
from dmatrace.tui.model import FileLoad, Load, Part, Snapshot

Cell = Callable[[FileLoad, frozenset[str], int], Text]


def label(file: FileLoad, width: int) -> str:
    """The file's name without its directory; its end tells files apart."""
    return draw.fit_name(os.path.basename(file.name) or file.name, width)


def mib(rate: int | None) -> str:
    """``54.2``: MiB a second."""
    if rate is None:
        return draw.UNKNOWN
    return f"{rate / (1 << 20):.0f}" if rate >= 100 << 20 else f"{rate / (1 << 20):.1f}"


def _progress(file: FileLoad, _hidden: frozenset[str], width: int) -> Text:
    if file.unseen:
        return Text(draw.HIDDEN, "yellow")
    if file.progress is None:
        return Text(f"{short_size(file.bytes)} read")
    return draw.gauge(file.progress, width)


def _time(file: FileLoad, _hidden: frozenset[str], _width: int) -> Text:
    return Text(draw.ns(file.end - file.start))


def _rate(file: FileLoad, _hidden: frozenset[str], _width: int) -> Text:
    return Text(draw.HIDDEN if file.unseen else mib(file.rate))


def _cached(file: FileLoad, hidden: frozenset[str], _width: int) -> Text:
    return Text(draw.size(file.cached, hidden="cached" in hidden))


def _verdict(file: FileLoad, _hidden: frozenset[str], width: int) -> Text:
    whole = file.verdict if len(file.verdict) <= width else file.method
    return Text(draw.fit(whole, width).rstrip(), style(file.method))


def style(method: str) -> str:
    """A method's colour: green where nothing is copied."""
    kind = "direct" if "direct" in method else "mixed" if method == "mixed" else ""
    return draw.VERDICT_STYLE.get(kind or method, "")


def _nothing(_file: FileLoad, _hidden: frozenset[str], _width: int) -> Text:
    return Text()


#: Of the loads' table: column -> what it shows of a file.
CELLS: Mapping[str, Cell] = {
    "load": lambda file, _hidden, width: Text(label(file, width)),
    "process": _nothing,
    "file": lambda file, _hidden, width: Text(draw.fit_name(file.name, width)),
    "progress": _progress,
    "time": _time,
    "rate": _rate,
    "cached": _cached,
    "copies": _nothing,
    "verdict": _verdict,
}
#: Column -> what the files of a process are sorted by.
RANKS: Mapping[str, Callable[[FileLoad], Any]] = {
    "load": lambda file: os.path.basename(file.name),
    "file": lambda file: file.name,
    "progress": lambda file: -1 if file.progress is None else file.progress,
    "time": lambda file: file.end - file.start,
    "rate": lambda file: -1 if file.rate is None else file.rate,
    "cached": lambda file: -1 if file.cached is None else file.cached,
    "verdict": lambda file: file.verdict,
}


def words(file: FileLoad) -> str:
    """What a filter looks at."""
    return f"{file.name} {file.format} {file.verdict}"


def section(snapshot: Snapshot, load: Load, width: int) -> Iterator[Text]:
    """The files of a followed process, each with its evidence; nothing of other loads."""
    if not load.observed:
        return
    yield Text("files loaded", "bold")
    if snapshot.unseen:
        yield from _wrapped(f"hidden: {'; '.join(snapshot.unseen)}", width, style="yellow")
    if not load.files and not snapshot.unseen:
        yield Text("None of 1 MiB or more was seen to be loaded.", "dim")
    for file in load.files:
        yield from _one(snapshot, file, width)
    if load.more_files:
        yield Text("It loaded others before; they are no longer listed.", "dim")
    yield Text()


def _one(snapshot: Snapshot, file: FileLoad, width: int) -> Iterator[Text]:
    yield Text(draw.fit_name(file.name + _format(file), width), "bold")
    held = _held(snapshot, file)
    yield from _wrapped(f"{_amount(file)}{held}: {file.verdict}", width, "  ")
    for part in file.parts:
        yield from _wrapped(_said(part, many=len(file.parts) > 1), width, "  · ")
    yield from _findings(file, width, "  ")


def detail(snapshot: Snapshot, load: Load, file: FileLoad, width: int) -> Text:
    """Everything about one file that a process loads."""
    return Text("\n").join(_detail(snapshot, load, file, width))


def _detail(snapshot: Snapshot, load: Load, file: FileLoad, width: int) -> Iterator[Text]:
    yield from _wrapped(file.name + _format(file), width, style="bold")
    yield Text(draw.plain(f"loaded by {draw.label(load)} ({draw.outcome(load)})"), "dim")
    yield Text()
    yield Text(draw.plain(file.verdict), f"bold {style(file.method)}".strip())
    yield from _wrapped(_amount(file), width)
    if file.unseen:
        yield from _wrapped(f"hidden: {'; '.join(file.unseen)}", width, style="yellow")
    cached = draw.size(file.cached, hidden="cached" in snapshot.hidden)
    at = f"+{format_ns(file.start - load.start)}" if 0 < load.start <= file.start else draw.UNKNOWN
    for name, value in (
        ("file size", short_size(file.size)),
        ("page cache held", cached),
        ("first read", at),
        ("device, inode", f"{file.dev}, {file.ino}"),
    ):
        yield Text(f"{name:<20}{value:>10}")
    yield Text()
    yield Text("why", "bold")
    for part in file.parts:
        yield from _wrapped(_said(part, many=True), width, "· ")
    yield Text()
    yield from _table(file, width)
    yield Text()
    yield Text("findings", "bold")
    if not file.findings:
        yield Text("Nothing stands out.", "dim")
    yield from _findings(file, width, "")


def _table(file: FileLoad, width: int) -> Iterator[Text]:
    """Sizes and depths of the parts."""
    room = max(width - 38, 12)
    yield Text(
        f"{'way':<{room}}{'bytes':>7}{'share':>6}{'calls':>8}{'each':>6}{'depth/most':>11}", "bold"
    )
    shares = draw.shares([part.bytes for part in file.parts])
    for part, share in zip(file.parts, shares, strict=True):
        depth = draw.UNKNOWN if part.depth is None else f"{part.depth:.1f}/{part.depth_max}"
        each = short_size(part.block) if part.block else draw.UNKNOWN
        yield Text(
            draw.fit(part.name, room - 1)
            + f" {short_size(part.bytes):>7}{share:>6}{part.calls:>8}{each:>6}{depth:>11}"
        )


def _format(file: FileLoad) -> str:
    return f" [{file.format}]" if file.format else ""


def _amount(file: FileLoad) -> str:
    """``4 MiB of 8 MiB (50%) in 120 ms, 33.3 MiB/s``."""
    text = f"{'at least ' if file.unseen else ''}{format_size(file.bytes)}"
    if file.size:
        text += f" of {format_size(file.size)}"
    if file.progress is not None:
        text += f" ({100 * file.progress:.0f}%)"
    text += f" in {format_ns(file.end - file.start)}"
    return f"{text}, {format_size(file.rate)}/s" if file.rate else text


def _held(snapshot: Snapshot, file: FileLoad) -> str:
    if "cached" in snapshot.hidden:
        return f"; the page cache is hidden ({snapshot.hiding('cached')})"
    return "" if file.cached is None else f"; {format_size(file.cached)} in the page cache"


def _said(part: Part, *, many: bool) -> str:
    share = f"{format_size(part.bytes)} {part.name}: " if many else ""
    return share + "; ".join(part.evidence)


def _findings(file: FileLoad, width: int, indent: str) -> Iterator[Text]:
    for finding in file.findings:
        # The file is named above.
        text = finding.text.removeprefix(f"{file.path or f'inode {file.ino}'}: ")
        yield from _wrapped(text, width, f"{indent}! ", style="yellow")
        yield from _wrapped(f"next: {finding.next}", width, f"{indent}  ", style="dim")


def _wrapped(text: str, width: int, lead: str = "", *, style: str = "") -> Iterator[Text]:
    room = max(width - len(lead) - 2, 20)
    for n, line in enumerate(textwrap.wrap(draw.plain(text), room)):
        yield Text((lead if n == 0 else " " * len(lead)) + line, style)
