"""The live view: what a recording says, on a terminal, while it is written or afterwards.

Everything here reads recordings; a live view starts a recorder as another process.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def run_recorder(
    arguments: Sequence[str], *, title: str, interval: float, keep: str | None = None
) -> None:
    """``dmatrace record ARGUMENTS`` under the view; ``keep``: where the recording stays."""
    from dmatrace.tui.app import run
    from dmatrace.tui.live import Live

    run(Live(arguments, title=title, keep=keep), interval=interval)


def run_replay(path: str | Path, *, interval: float) -> None:
    """Play a recording.  Raises DmatraceError if it is none."""
    from dmatrace.tui.app import run
    from dmatrace.tui.source import Replay

    run(Replay(path), interval=interval)
