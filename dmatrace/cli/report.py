"""``dmatrace report OUT``: where the time and the memory of a recording's loads went."""

from __future__ import annotations

import argparse
import os
import sys

from dmatrace.cli import output

NAME = "report"
HELP = "show where the time and the memory of a recording went"

_EXAMPLES = """\
examples:
  dmatrace report load.dmt                  as text, below 80 columns
  dmatrace report load.dmt --color always | less -R
  dmatrace report load.dmt -f json | jq '.loads[].direct'
  dmatrace report load.dmt -f json > load.json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to its parser."""
    parser.description = (
        "Show where the time and the memory of a recording's loads went. Needs no root.\n"
        "A recording whose recorder was killed is read as far as it goes."
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    parser.add_argument("recording", metavar="OUT", help="the directory that record wrote")
    parser.add_argument(
        "-f", "--format", choices=("text", "json"), default="text", help="default: text"
    )
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="auto: on a terminal, unless NO_COLOR is set (default)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the report to stdout; DmatraceError for what is no readable recording."""
    # Here, not above: pandas and pyarrow take 0.5 s, which `--help` should not.
    from dmatrace.analysis.document import document
    from dmatrace.recording.reader import Recording

    found = document(Recording.open(args.recording))
    if args.format == "json":
        from dmatrace.report import json

        text = json.render(found)
    else:
        from dmatrace.report import text as as_text

        text = as_text.render(
            found, color=_color(args.color), ascii_only=not output.encodes("█▒░…")
        )
    output.write(text)
    return 0


def _color(wanted: str) -> bool:
    if wanted == "auto":
        return (
            sys.stdout.isatty()
            and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM") != "dumb"
        )
    return wanted == "always"
