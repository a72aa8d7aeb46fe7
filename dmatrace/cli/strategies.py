"""``dmatrace strategies``: every way to load a file, and which of them this machine can run."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dmatrace.cli import arguments, output
from dmatrace.report.layout import Style
from dmatrace.sizes import format_size

if TYPE_CHECKING:
    from dmatrace_loaders.errors import LoadError
    from dmatrace_loaders.strategy import Strategy

NAME = "strategies"
HELP = "list the load strategies and say which can run here"

_EXAMPLES = """\
Loads nothing and changes nothing. Without root it says what it could not see.

exit codes: 0 something can run here (or could not be seen), 1 failed, 2 usage,
3 no strategy can

examples:
  dmatrace strategies
  sudo dmatrace strategies --size 3G            with the limits that 3 GiB meet
  sudo dmatrace strategies --file model.gguf    on the file's own file system
  dmatrace strategies --json | jq '.strategies[] | select(.runs) | .name'
"""

_STYLE = Style()
_STATES = {True: "runs here", False: "cannot run here", None: "not seen"}


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.epilog = _EXAMPLES
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--file", metavar="PATH", help="a file to load")
    source.add_argument(
        "--size",
        type=arguments.size,
        default=1 << 20,
        metavar="SIZE",
        help="bytes of a file to load (default: 1M)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    """Print the strategies to stdout."""
    from dmatrace.session import preflight, source
    from dmatrace_loaders.table import strategies

    size = source.check_file(args.file) if args.file else args.size
    found = {
        "schema": 1,
        "kernel": platform.release(),
        "file": args.file,
        "bytes": size,
        "strategies": [
            _row(strategy, preflight.why_not(name, size, args.file))
            for name, strategy in strategies().items()
        ],
    }
    output.write(json.dumps(found, indent=1) + "\n" if args.json else "\n".join(_text(found)))
    if all(row["runs"] is False for row in found["strategies"]):
        why = f"no strategy can load {format_size(size)} here; the list says why and what to do"
        print(f"dmatrace: {why}", file=sys.stderr)
        return 3
    return 0


def _row(strategy: Strategy, refusal: LoadError | None) -> dict[str, Any]:
    """A strategy as JSON; ``runs`` is null where this user may not look."""
    from dmatrace_loaders.errors import Unseen

    return {
        "name": strategy.name,
        "flow": strategy.flow,
        "copies": None if strategy.refused else strategy.copies,
        "direct": strategy.direct,
        "sources": list(strategy.sources),
        "about": strategy.about,
        "options": list(strategy.options),
        "refused": strategy.refused,
        "runs": None if isinstance(refusal, Unseen) else refusal is None,
        "why": refusal.message if refusal else None,
        "do": refusal.do if refusal else None,
    }


def _text(found: dict[str, Any]) -> Iterator[str]:
    """Lines of at most 79 cells: the strategies, then once each what keeps them from running."""
    reasons: dict[tuple[str, str], int] = {}
    for row in found["strategies"]:
        state = _STATES[row["runs"]]
        if row["why"]:
            number = reasons.setdefault((row["why"], row["do"]), len(reasons) + 1)
            state += f", see [{number}]"
        yield _STYLE.left(row["name"], 28) + _STYLE.left(_copies(row["copies"]), 10) + state
        for text in (row["flow"], row["about"], "; ".join(row["sources"])):
            if text:
                yield from _STYLE.wrap(text, "      ", "    ")
    states = [row["runs"] for row in found["strategies"]]
    unseen = f", {states.count(None)} could not be seen" if None in states else ""
    yield ""
    yield from _STYLE.wrap(
        f"{states.count(True)} of {len(states)} can load {format_size(found['bytes'])} here"
        f"{unseen} (Linux {found['kernel']})."
    )
    for (why, do), number in reasons.items():
        yield from _STYLE.wrap(why, "     ", _STYLE.left(f"[{number}]", 5))
        yield from _STYLE.wrap(do, "        ", "     -> ")
    yield ""


def _copies(copies: float | None) -> str:
    """The CPU copies of each byte; a strategy that is refused makes none worth the name."""
    if copies is None:
        return "-"
    return f"{copies:g} {'copy' if copies == 1 else 'copies'}"
