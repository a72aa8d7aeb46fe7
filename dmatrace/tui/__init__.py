"""The live view: what a recording says, on a terminal, while it is written or afterwards.

Everything here reads recordings; a live view starts a recorder as another process.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Recorded(NamedTuple):
    """How a recorder ended: its exit code, and the last errors that it said."""

    code: int
    said: tuple[str, ...]


def run_recorder(
    arguments: Sequence[str],
    *,
    title: str,
    interval: float,
    keep: str | None = None,
    group: bool = False,
) -> Recorded:
    """``dmatrace record ARGUMENTS`` under the view, until the user leaves it.

    ``keep``: where the recording stays; ``group``: leaving ends the recorder's command too.
    """
    from dmatrace.tui.app import run
    from dmatrace.tui.live import Live

    live = Live(arguments, title=title, keep=keep, group=group)
    run(live, interval=interval)
    code = live.code
    return Recorded(1 if code is None or code < 0 else code, live.said)


def run_replay(path: str | Path, *, interval: float) -> None:
    """Play a recording.  Raises DmatraceError if it is none."""
    from dmatrace.tui.app import run
    from dmatrace.tui.source import Replay

    run(Replay(path), interval=interval)
