"""``record --live``: the recorder as a child of the live view, with the user's own words."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dmatrace import safe
from dmatrace.cli import record
from dmatrace.errors import UsageError


def run(args: argparse.Namespace) -> int:
    """Record under the view until the user leaves it; the recorder's exit code.

    Prints what ``record`` does, when the terminal is the user's again.
    """
    if not on_terminal():
        raise UsageError("--live needs a terminal", do="leave it out, and read with `report`")
    from dmatrace import tui
    from dmatrace.session import preflight

    preflight.check_root()
    place, title = _place(args)
    ended = tui.run_recorder(
        words(args.words), title=title, interval=1.0, keep=str(place), group=bool(args.command)
    )
    for line in ended.said:
        print(safe.line(line), file=sys.stderr)
    if place.exists():
        print(place)
    return ended.code


def on_terminal() -> bool:
    """Whether the view can be drawn, and typed into."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def words(given: Sequence[str]) -> list[str]:
    """The command line ``record [OPTION...] [-- CMD]`` without the verb and the option."""
    end = given.index("--") if "--" in given else len(given)
    # argparse takes the beginning of an option for it: --li is the least that is one.
    mine = [word for word in given[1:end] if not (len(word) > 3 and "--live".startswith(word))]
    return [*mine, *given[end:]]


def _place(args: argparse.Namespace) -> tuple[Path, str]:
    """Where the recording goes, and what the view says is recorded."""
    if args.strategy:
        from dmatrace.session import plan

        return plan.place(record.load_options(args)), f"{args.strategy} of {args.file or 'a file'}"
    from dmatrace.session import targets

    options = record.target_options(args, tuple(args.command))
    title = "processes that use dma-bufs"
    if options.command:
        title = " ".join(options.command)
    elif options.pids:
        title = f"PID {','.join(map(str, options.pids))}"
    elif options.comm or options.cgroup:
        title = f"processes {options.comm or f'of {options.cgroup}'}"
    return targets.place(options), title
