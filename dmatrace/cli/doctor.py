"""``dmatrace doctor``: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dmatrace import __version__
from dmatrace.cli import output
from dmatrace.report.layout import Style

if TYPE_CHECKING:
    from dmatrace.session.doctor import Line

NAME = "doctor"
HELP = "say what this machine has for recording, what it lacks, and what to do"

_EXAMPLES = """\
Loads, attaches and changes nothing. Without root it says what it could not see.

exit codes: 0 recording works here (perhaps with less to see), 1 failed, 2 usage,
3 recording cannot work here, or not for this user

examples:
  sudo dmatrace doctor
  sudo dmatrace doctor --file model.gguf        and what O_DIRECT wants of it
  dmatrace doctor --json | jq '.checks[] | select(.state != "ok")'
  sudo dmatrace doctor --buffers                every dma-buf, and who holds it
"""

_COLORS = {"missing": "bad", "degraded": "blocked", "unknown": "runnable"}


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.epilog = _EXAMPLES
    parser.add_argument("--file", metavar="PATH", help="a file to ask about direct I/O")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument(
        "--buffers", action="store_true", help="list the dma-bufs instead, as `dmatrace buffers`"
    )


def run(args: argparse.Namespace) -> int:
    """Print the findings to stdout."""
    if args.buffers:
        from dmatrace.cli import buffers

        return buffers.run(args)
    from dmatrace.session import source
    from dmatrace.session.doctor import Machine, examine, records

    if args.file is not None:
        source.check_file(args.file)
    lines = examine(Machine(file=args.file))
    works = records(lines)
    if args.json:
        output.write(json.dumps(document(lines, works, args.file), indent=1) + "\n")
    else:
        style = Style(
            color=sys.stdout.isatty() and not os.environ.get("NO_COLOR"),
            ascii=not output.encodes("…"),
        )
        output.write("\n".join(text(lines, works, style)) + "\n")
    if works:
        return 0
    print("dmatrace: recording cannot work here; the list says why, and what to do",
          file=sys.stderr)  # fmt: skip
    return 3


def document(lines: Sequence[Line], works: bool, file: str | None) -> dict[str, Any]:
    """The JSON document; ``needed`` marks what recording cannot do without."""
    return {
        "schema": 1,
        "dmatrace": __version__,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "file": file,
        "records": works,
        "checks": [
            {
                "section": line.section,
                "name": line.name,
                "state": str(line.finding.state),
                "what": line.finding.what,
                "do": line.finding.do or None,
                "hides": line.finding.hides or None,
                "needed": line.needed,
            }
            for line in lines
        ],
    }


def text(lines: Sequence[Line], works: bool, style: Style) -> Iterator[str]:
    """Lines of at most 79 cells, ``name : state (what; do)``, by section."""
    section = ""
    for line in lines:
        if line.section != section:
            if section:
                yield ""
            section = line.section
            yield style.paint(section, "bold")
        found = line.finding
        parts = [found.what]
        if found.hides:
            parts.append(f"hides: {found.hides}")
        if found.do:
            parts.append(found.do)
        said = f" ({'; '.join(part for part in parts if part)})" if any(parts) else ""
        head, *rest = style.wrap(f"{line.name} : {found.state}{said}", "      ", "  ")
        color = _COLORS.get(str(found.state))
        if color:
            state = f" : {found.state}"
            head = head.replace(state, " : " + style.paint(str(found.state), color), 1)
        yield head
        yield from rest
    counts = [line.finding.state for line in lines]
    summary = ", ".join(
        f"{counts.count(state)} {state}" for state in dict.fromkeys(sorted(counts, key=_rank))
    )
    yield ""
    verdict = "Recording works here" if works else "Recording cannot work here"
    blocking = [line.name for line in lines if line.needed and str(line.finding.state) == "missing"]
    why = f" for want of: {', '.join(blocking)}" if blocking else ""
    yield from style.wrap(f"{verdict}{why}. {summary}.")


def _rank(state: str) -> int:
    return ("ok", "degraded", "missing", "unknown").index(str(state))
