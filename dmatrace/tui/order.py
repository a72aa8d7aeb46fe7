"""Columns of the loads' table, and which rows it shows in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from rich.text import Text

from dmatrace.sizes import format_ns, short_size
from dmatrace.tui import draw, filepages
from dmatrace.tui.model import FileLoad, Load, Snapshot

_WIDE = 110  # columns of the terminal that have room for all of what is said of files
#: Columns of the verdict where it says how files are loaded.
VERDICT = 16


class Column(NamedTuple):
    """A column: where there is room for it, what it shows, and what it sorts by."""

    key: str
    head: str
    width: int
    room: int  # columns of the terminal from which on it is shown
    right: bool
    cell: Callable[[Load, frozenset[str], int], Text]
    rank: Callable[[Load], Any]


def _name(load: Load, _hidden: frozenset[str], width: int) -> Text:
    return Text(draw.fit(draw.label(load), width))


def _progress(load: Load, _hidden: frozenset[str], width: int) -> Text:
    if load.observed and load.state == "running":
        return Text(f"{short_size(load.done_bytes or 0)} read", draw.STATE_STYLE["running"])
    if load.state in ("running", "done"):
        return draw.gauge(load.progress, width)
    bad = load.state == "exited" and load.note not in ("", "exit code 0")
    text = draw.fit(draw.outcome(load), width).rstrip()
    return Text(text, draw.STATE_STYLE["failed" if bad else load.state])


def _rate(load: Load, _hidden: frozenset[str], _width: int) -> Text:
    return Text(filepages.mib(load.rate))


def _cached(load: Load, hidden: frozenset[str], _width: int) -> Text:
    return Text(
        draw.size(load.memory.cached, hidden="cached" in hidden and load.verdict is not None)
    )


def _copies(load: Load, hidden: frozenset[str], _width: int) -> Text:
    if load.copies_per_byte is None:
        return Text(draw.HIDDEN if "copies" in hidden and load.verdict else draw.UNKNOWN)
    return Text(f"{load.copies_per_byte:.2f}")


def _verdict(load: Load, _hidden: frozenset[str], _width: int) -> Text:
    return Text(load.verdict or draw.UNKNOWN, draw.VERDICT_STYLE.get(load.verdict or "", ""))


def _time(load: Load, _hidden: frozenset[str], _width: int) -> Text:
    return Text(format_ns(load.elapsed) if load.elapsed else draw.UNKNOWN)


def _file(load: Load, _hidden: frozenset[str], width: int) -> Text:
    return Text(draw.fit_name(load.file, width) or draw.UNKNOWN)


def _process(load: Load, _hidden: frozenset[str], width: int) -> Text:
    return Text(draw.fit(f"{load.pid} {load.process}" if load.pid else draw.UNKNOWN, width))


def _number(value: float | None) -> float:
    return -1 if value is None else value


COLUMNS = (
    Column("load", "load", 20, 0, False, _name, lambda load: (load.strategy, load.round)),
    Column("process", "process", 18, 110, False, _process, lambda load: (load.process, load.pid)),
    Column("file", "file", 24, 124, False, _file, lambda load: load.file),
    Column("progress", "progress", 12, 0, False, _progress, lambda load: _number(load.progress)),
    Column("time", "time", 8, 0, True, _time, lambda load: load.elapsed),
    Column("rate", "MiB/s", 6, 0, True, _rate, lambda load: _number(load.rate)),
    Column("cached", "cache", 7, 0, True, _cached, lambda load: _number(load.memory.cached)),
    Column("copies", "copy/B", 7, 0, True, _copies, lambda load: _number(load.copies_per_byte)),
    Column("verdict", "verdict", 8, 0, False, _verdict, lambda load: load.verdict or ""),
)

#: What ``s`` goes through; the first is the order of recording.
SORTS = ("", *(column.key for column in COLUMNS))


def columns(width: int, snapshot: Snapshot | None = None) -> list[Column]:
    """The columns for a terminal of this width.

    Where files are shown the verdict is wider, for it says how; on a narrow terminal it has
    the room of the copies, which are a process's.
    """
    found = [column for column in COLUMNS if width >= column.room]
    if snapshot is None or not any(load.files for load in snapshot.loads):
        return found
    return [
        column._replace(width=VERDICT) if column.key == "verdict" else column
        for column in found
        if column.key != "copies" or width >= _WIDE
    ]


def _named(load: Load) -> str:
    return " ".join(
        (load.strategy, load.process, str(load.pid or ""), load.file, load.state,
         load.verdict or "", load.command)
    )  # fmt: skip


def _has(text: str, pattern: str) -> bool:
    lower = text.lower()
    return all(word in lower for word in pattern.lower().split())


def matches(load: Load, pattern: str) -> bool:
    """Whether every word of the pattern is in what names the load, or the load and one file."""
    return _has(_named(load), pattern) or any(
        _has(f"{_named(load)} {filepages.words(file)}", pattern) for file in load.files
    )


def files(load: Load, pattern: str, sort: str, *, backwards: bool) -> Sequence[FileLoad]:
    """The files to show below a load, in order: all of one that matches by itself."""
    found = list(load.files)
    if not found:
        return found
    if not _has(_named(load), pattern):
        found = [f for f in found if _has(f"{_named(load)} {filepages.words(f)}", pattern)]
    if sort in filepages.RANKS:
        found.sort(key=filepages.RANKS[sort])
    if backwards:
        found.reverse()
    return found


def chosen(loads: Iterable[Load], pattern: str, sort: str, *, backwards: bool) -> Sequence[Load]:
    """The loads to show, in order."""
    found = [load for load in loads if matches(load, pattern)] if pattern else list(loads)
    by = next((column for column in COLUMNS if column.key == sort), None)
    if by is not None:
        found.sort(key=by.rank)
    if backwards:
        found.reverse()
    return found
