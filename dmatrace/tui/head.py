"""The two lines above the views: what is shown, since when, and what is to be known about it."""

from __future__ import annotations

from rich.cells import cell_len
from rich.text import Text

from dmatrace.sizes import format_ns
from dmatrace.tui import draw
from dmatrace.tui.model import Snapshot, Transport
from dmatrace.tui.views import State

_BADGES = {
    "starting": ("STARTING", "bold black on yellow"),
    "live": ("LIVE", "bold white on dark_green"),
    "replay": ("REPLAY", "bold white on dark_blue"),
    "ended": ("ENDED", "bold white on grey37"),
}


def head(snapshot: Snapshot, state: State, width: int) -> Text:
    """Two lines of ``width`` cells at most."""
    return Text("\n").join((_first(snapshot, width), _second(snapshot, state, width)))


def _first(snapshot: Snapshot, width: int) -> Text:
    word, style = _BADGES[snapshot.state]
    if snapshot.paused and snapshot.state != "ended":
        word, style = "PAUSED", "bold black on yellow"
    text = Text(" dmatrace top ", "bold")
    text.append(f" {word} ", style)
    right = _right(snapshot)
    room = width - cell_len(text.plain) - cell_len(right) - 3
    text.append(f" {draw.fit(snapshot.title, max(room, 8))} ")
    return text.append(right)


def _right(snapshot: Snapshot) -> str:
    real = [load for load in snapshot.loads if load.state not in ("waiting", "skipped")]
    running = sum(load.state == "running" for load in real)
    waiting = sum(load.state == "waiting" for load in snapshot.loads)
    parts = [f"{len(real)} load{'' if len(real) == 1 else 's'}"]
    parts += [f"{running} running"] if running else []
    parts += [f"{waiting} to come"] if waiting else []
    if snapshot.transport is not None:
        parts.append(_player(snapshot.transport))
    elif snapshot.elapsed:
        parts.append(format_ns(snapshot.elapsed))
    return "  ".join(parts)


def _player(transport: Transport) -> str:
    at, length = transport.at / 1e9, transport.length / 1e9
    return f"{at:.1f}/{length:.1f} s {transport.speed:g}x"


def _second(snapshot: Snapshot, state: State, width: int) -> Text:
    parts: list[tuple[str, str]] = []
    if snapshot.state == "ended" and snapshot.transport is not None:
        parts.append((f"{snapshot.note}: Space plays it again", "bold"))
    elif snapshot.paused:
        what = "Playing stopped" if snapshot.transport else "Updates stopped"
        parts.append((f"{what}: Space goes on", "bold yellow"))
    if snapshot.note and not (snapshot.state == "ended" and snapshot.transport is not None):
        stays = "; its last data stays" if snapshot.state == "ended" else ""
        parts.append((snapshot.note + stays, "bold"))
    if snapshot.lost:
        by = ", ".join(f"{name} {n}" for name, n in snapshot.lost_by)
        by = f" ({by})" if by else ""
        parts.append((f"{snapshot.lost} events LOST{by}: figures too low", "bold red"))
    if snapshot.hidden:
        parts.append((f"hidden: {', '.join(sorted(snapshot.hidden))} (h)", "yellow"))
    elif snapshot.missing:
        count = len(snapshot.missing)
        parts.append((f"{count} hook{'' if count == 1 else 's'} missing (h)", "yellow"))
    if state.pattern:
        parts.append((f'only "{state.pattern}" (Esc: all)', "cyan"))
    if state.sort or state.backwards:
        by = f"by {state.sort}" if state.sort else "by time"
        parts.append((by + (", reversed" if state.backwards else ""), "cyan"))
    text = Text(" ")
    for n, (part, style) in enumerate(parts):
        text.append(" · " if n else "").append(draw.plain(part), style)
    text.truncate(width, overflow="ellipsis")
    return text
