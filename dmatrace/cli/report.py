"""``dmatrace report OUT``: where the time and the memory of a recording's loads went."""

from __future__ import annotations

import argparse

from dmatrace.cli import arguments, output

NAME = "report"
HELP = "show where the time and the memory of a recording went"

_EXAMPLES = """\
examples:
  dmatrace report load.dmt                  as text, below 80 columns
  dmatrace report load.dmt --color always | less -R
  dmatrace report load.dmt -f json | jq '.loads[].direct'
  dmatrace report load.dmt -f json > load.json
  dmatrace report load.dmt --redact | tee for-the-vendor.txt
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
    arguments.color(parser)
    arguments.redact(parser)


def run(args: argparse.Namespace) -> int:
    """Print the report to stdout; DmatraceError for what is no readable recording."""
    # Here, not above: pandas and pyarrow take 0.5 s, which `--help` should not.
    from dmatrace.analysis.document import document
    from dmatrace.recording.reader import Recording

    found = arguments.redacted(document(Recording.open(args.recording)), args)
    if args.format == "json":
        from dmatrace.report import json

        text = json.render(found)
    else:
        from dmatrace.report import text as as_text

        text = as_text.render(
            found, color=output.colored(args.color), ascii_only=not output.encodes("█▒░…")
        )
    output.write(text)
    return 0
