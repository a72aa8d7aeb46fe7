"""Pictures of snapshots as text: bars, charts, lines of a given width.

Pure functions of the model.  Every kind of time has a shade of its own besides its
colour, every state a word, so that nothing is lost without colour.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from dmatrace.sizes import format_ns, format_size, short_size
from dmatrace.tui.model import Load, Times

KINDS = ("cpu", "blocked", "runnable")
FILL = {"cpu": "█", "blocked": "▒", "runnable": "░"}
COLOR = {"cpu": "green", "blocked": "dark_orange", "runnable": "magenta"}
LEVELS = " ▁▂▃▄▅▆▇█"
HIDDEN = "hidden"
UNKNOWN = "-"

STATE_STYLE = {
    "running": "bold cyan",
    "done": "green",
    "failed": "bold red",
    "refused": "bold yellow",
    "cut off": "yellow",
    "waiting": "dim",
    "skipped": "dim",
    "exited": "green",
    "ran on": "bold cyan",
}
VERDICT_STYLE = {
    "direct": "green", "buffered": "dark_orange", "mixed": "yellow", "none": "dim",
    HIDDEN: "yellow",
}  # fmt: skip


def plain(text: str) -> str:
    """``text`` without control characters: names come from outside."""
    return "".join("?" if unicodedata.category(char)[0] == "C" else char for char in text)


def fit(text: str, width: int) -> str:
    """``text`` in exactly ``width`` cells, with a mark where it is cut."""
    text = plain(text)
    if cell_len(text) > width > 0:
        text = set_cell_size(text, width - 1).rstrip() + "…"
    return set_cell_size(text, max(width, 0))


def fit_name(path: str, width: int) -> str:
    """A file's path, cut at its beginning: its end tells files apart."""
    path = plain(path)
    if cell_len(path) <= width:
        return path
    return "…" + path[-(width - 1) :] if width > 1 else "…"[:width]


def percent(part: int, whole: int) -> str:
    """Whole per cent; "<1%" for what is there but rounds to nothing."""
    if whole <= 0:
        return UNKNOWN
    share = 100 * part / whole
    return "<1%" if 0 < share < 0.5 else f"{share:.0f}%"


def shares(parts: Sequence[int]) -> list[str]:
    """Percentages that add up to 100 (largest remainder); "<1%" where 0 stands for something."""
    whole = sum(parts)
    if whole <= 0:
        return [UNKNOWN] * len(parts)
    exact = [100 * part / whole for part in parts]
    down = [int(share) for share in exact]
    rest = sorted(range(len(parts)), key=lambda n: (down[n] - exact[n], n))
    for n in rest[: 100 - sum(down)]:
        down[n] += 1
    return [
        "<1%" if part and not share else f"{share}%"
        for part, share in zip(parts, down, strict=True)
    ]


def size(value: int | None, *, hidden: bool = False) -> str:
    """``256M``; the word "hidden", or "-" where it is not known yet."""
    if value is None:
        return HIDDEN if hidden else UNKNOWN
    return short_size(value)


def ns(value: int) -> str:
    """A time, "-" for none."""
    return format_ns(value) if value else UNKNOWN


def bar(parts: Sequence[tuple[str, int]], full: int, width: int) -> Text:
    """Segments of (kind of time, amount), ``full`` being the whole width."""
    result, drawn, amount = Text(), 0, 0
    for kind, part in parts:
        amount += max(part, 0)
        # From the running sum, so that rounding does not add up.
        end = min(width, (2 * amount * width + full) // (2 * full)) if full > 0 else 0
        result.append(FILL[kind] * (end - drawn), COLOR[kind])
        drawn = max(drawn, end)
    return result


def kinds(times: Times) -> list[tuple[str, int]]:
    """What ``bar`` wants of a phase."""
    return [("cpu", times.cpu), ("blocked", times.blocked), ("runnable", times.runnable)]


def gauge(share: float | None, width: int) -> Text:
    """A progress bar with its percentage."""
    if share is None:
        return Text(UNKNOWN)
    inner = max(width - 5, 1)
    filled = min(inner, round(share * inner))  # a file may be read more than once
    text = Text("█" * filled, "cyan")
    text.append("·" * (inner - filled), "dim")
    return text.append(f"{share * 100:4.0f}%")


def spark(values: Sequence[float], full: float, width: int, height: int = 1) -> list[str]:
    """A chart of ``width`` columns and ``height`` lines, the top one first; ``full`` fills it."""
    columns = _resampled(values, width)
    lines = []
    for line in range(height - 1, -1, -1):
        text = ""
        for value in columns:
            level = 0.0 if full <= 0 else value / full * height - line
            eighths = min(8, max(0, round(level * 8)))
            # What is there is seen, however little.
            text += LEVELS[max(eighths, 1 if line == 0 and value > 0 else 0)]
        lines.append(text)
    return lines


def _resampled(values: Sequence[float], width: int) -> list[float]:
    """The largest value of each of ``width`` equal parts."""
    if not values:
        return [0.0] * width
    result = []
    for place in range(width):
        first = place * len(values) // width
        last = max(first + 1, (place + 1) * len(values) // width)
        result.append(max(values[first:last]))
    return result


def over_time(points: Sequence[tuple[int, int]], begin: int, end: int, width: int) -> list[float]:
    """The value at each of ``width`` moments between; a value holds until the next."""
    result: list[float] = []
    place, value = 0, 0
    for column in range(width):
        until = begin + (end - begin) * (column + 1) // width
        while place < len(points) and points[place][0] <= until:
            value = points[place][1]
            place += 1
        result.append(float(value))
    return result


def histogram(
    rows: Sequence[tuple[int, int]], label: str, width: int, *, style: str
) -> Iterable[Text]:
    """A line per bucket; ``label`` is "ns" or "bytes".  Empty buckets between are shown."""
    if not rows:
        return
    counts = dict(rows)
    most, whole = max(counts.values()), sum(counts.values())
    bucket = rows[0][0]
    while bucket <= rows[-1][0]:
        count = counts.get(bucket, 0)
        name = format_ns(bucket) if label == "ns" else short_size(bucket)
        room = max(width - 9 - 9 - 6 - 2, 4)
        filled = round(count / most * room)
        line = Text(f"{name:>9} ")
        line.append("█" * max(filled, 1 if count else 0), style)
        line.append(" " * (room - max(filled, 1 if count else 0)))
        line.append(f"{count:>9}{percent(count, whole):>6}")
        yield line
        bucket *= 2


def legend() -> Text:
    """Which shade is which kind of time."""
    text = Text()
    for kind in KINDS:
        text.append(FILL[kind] * 2, COLOR[kind]).append(f" {kind}  ")
    return text


def summed(phases: Iterable[Times]) -> Times:
    """All phases as one."""
    cpu = blocked = runnable = 0
    for times in phases:
        cpu, blocked, runnable = (
            cpu + times.cpu, blocked + times.blocked, runnable + times.runnable,
        )  # fmt: skip
    return Times("all", cpu, blocked, runnable, None)


def label(load: Load) -> str:
    """What a load is called where there is one line for it."""
    if load.observed:
        return f"{load.process} {load.pid}"
    name = load.strategy or load.process or f"load {load.load_id}"
    return f"{name} #{load.round}" if load.round > 1 else name


def longest(load: Load, width: int) -> str:
    """Its longest phases, as many as fit."""
    phases = load.phases
    text = ""
    for times, share in zip(phases, shares([t.total for t in phases]), strict=True):
        more = f"{', ' if text else ''}{times.phase} {share}"
        if share in ("0%", "<1%") or cell_len(text + more) > width:
            break
        text += more
    return text


def race(loads: Sequence[Load], current: str, width: int, height: int) -> Text:
    """Loads on one scale of time, a line each, around the current one."""
    shown = [load for load in loads if load.total]
    if not shown:
        return Text("No time was recorded yet.", "dim")
    place = next((n for n, load in enumerate(shown) if load.key == current), 0)
    first = min(max(place - height // 2, 0), max(len(shown) - height, 0))
    shown = shown[first : first + height]
    full = max(load.total for load in shown)
    names = min(max(cell_len(label(load)) for load in shown), 24) + 2
    phases = 26 if width < 100 else 44
    room = max(width - names - 10 - phases, 8)
    lines = []
    for load in shown:
        whole = summed(load.phases)
        mark = "▶ " if load.key == current else "  "
        line = Text(mark + fit(label(load), names - 2), "bold" if load.key == current else "")
        line.append(" ")
        drawn = bar(kinds(whole), full, room)
        line.append_text(drawn)
        line.append(" " * (room - cell_len(drawn.plain)))
        line.append(f"{format_ns(whole.total):>9} ", "bold" if load.key == current else "")
        line.append(fit(longest(load, phases - 1), phases - 1))
        lines.append(line)
    return Text("\n").join(lines)


def outcome(load: Load) -> str:
    """Its state in a word or two; of a process, how it ended."""
    if load.state == "exited" and load.note:
        return load.note.replace("exit code", "exit")
    return load.state


def facts(load: Load) -> str:
    """One line on what was loaded and how it went."""
    parts = [label(load)]
    if load.observed:
        parts.append(f"{format_size(load.done_bytes or 0)} read")
    elif load.bytes:
        parts.append(format_size(load.bytes))
    if load.cache_before:
        parts.append(load.cache_before)
    if load.elapsed:
        parts.append(format_ns(load.elapsed) + (" so far" if load.state == "running" else ""))
    if load.rate:
        parts.append(f"{format_size(load.rate)}/s")
    parts.append(outcome(load))
    return " · ".join(parts)
