"""``dmatrace compare OUT...``: what differs between loads, and whether it is more than noise."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from dmatrace import safe
from dmatrace.cli import arguments, output
from dmatrace.errors import UsageError

NAME = "compare"
HELP = "compare recordings, strategies, rounds, kernels or devices"

_BY = ("recording", "strategy", "round", "kernel", "machine", "device")

_EXAMPLES = """\
Names for --fail-on: wall, create, io, close, cpu, blocked, runnable, a phase
(copy, gup, ...), a memory row (page_cache_added, pinned_peak, ...), copies,
read_bytes, requests, latency_p99; limits are percentages, times, sizes or
numbers. A difference within its spread does not fail; without a spread (fewer
than 3 rounds on a side) the medians alone decide.

exit codes: 0 compared, 1 a --fail-on limit is exceeded, or failed, 2 usage

examples:
  dmatrace compare before.dmt after.dmt
  dmatrace compare all.dmt                      its strategies with the first
  dmatrace compare all.dmt --base dmabuf-bio -f json
  dmatrace compare old.dmt new.dmt --fail-on 'wall>5%' --fail-on 'copies>0.1'
  dmatrace compare *.dmt --by kernel
  dmatrace compare --fleet incoming/
  dmatrace compare --fleet 'incoming/*/*.dmt' --workers 8 -f json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments to its parser."""
    parser.description = (
        "Compare loads: per phase and memory row the difference of medians with its\n"
        "spread, regressions first, and what else differs. Needs no root."
    )
    parser.epilog = _EXAMPLES
    add = parser.add_argument
    add("recordings", metavar="OUT", nargs="*", help="directories that record wrote")
    add(
        "--by",
        choices=_BY,
        help="what is compared (default: recording; of a single one strategy)",
    )
    add(
        "--base",
        metavar="NAME",
        default="",
        help="the recording, or other value of --by, that all are compared with"
        " (default: the first)",
    )
    add(
        "--fail-on",
        metavar="LIMIT",
        action="append",
        default=[],
        help="exit with 1 if a figure changes by more, for example 'wall>5%%' (repeatable)",
    )
    add("-f", "--format", choices=("text", "json"), default="text", help="default: text")
    fleet = parser.add_argument_group("fleets")
    fleet.add_argument(
        "--fleet",
        metavar="DIR|GLOB",
        action="append",
        default=[],
        help="recordings of many devices: distributions per device model, kernel and strategy,"
        " outliers and why (repeatable)",
    )
    engine = fleet.add_mutually_exclusive_group()
    engine.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        default="",
        help="analyse on the Dask cluster there, for example tcp://10.0.0.1:8786",
    )
    engine.add_argument(
        "--workers",
        type=arguments.positive,
        default=0,
        metavar="N",
        help="analyse by N Dask workers, started here for this",
    )
    arguments.color(parser)
    arguments.redact(parser)


def run(args: argparse.Namespace) -> int:
    """Print the comparison to stdout, and what exceeds a limit to stderr."""
    if args.fleet:
        return _fleet(args)
    if args.scheduler or args.workers:
        raise UsageError("--scheduler and --workers are of --fleet", do="add --fleet DIR")
    if not args.recordings:
        raise UsageError("no recording to compare", do="see dmatrace compare -h")
    return _recordings(args)


def _recordings(args: argparse.Namespace) -> int:
    # Here, not above: pandas and pyarrow take 0.5 s, which `--help` should not.
    from dmatrace.analysis import comparison
    from dmatrace.analysis.document import document
    from dmatrace.recording.reader import Recording
    from dmatrace.report.compare import where

    limits = [comparison.parse(text) for text in args.fail_on]
    paths = list(args.recordings)
    base = args.base
    if args.by in (None, "recording") and base:
        paths, base = _with_base(paths, base, args.by)
    documents = [
        (label, arguments.redacted(document(Recording.open(path)), args))
        for label, path in zip(_labels(paths, args), paths, strict=True)
    ]
    found = comparison.compare(documents, args.by, base)
    found["failed"] = comparison.exceeded(limits, found)
    if args.format == "json":
        from dmatrace.report import json

        text = json.render(found)
    else:
        from dmatrace.report import compare

        text = compare.render(
            found, color=output.colored(args.color), ascii_only=not output.encodes("█▒░…")
        )
    output.write(text)
    for row in found["failed"]:
        line = f"{row['limit']}: {where(row)}{row['why']}"
        print(f"dmatrace: {safe.line(line)}", file=sys.stderr)
    return 1 if found["failed"] else 0


def _fleet(args: argparse.Namespace) -> int:
    for option, given in (("--by", args.by), ("--base", args.base), ("--fail-on", args.fail_on)):
        if given:
            raise UsageError(f"{option} and --fleet contradict each other", do="leave one out")
    from dmatrace.analysis.redact import redact
    from dmatrace.fleet import engine

    # What a shell made of an unquoted glob stands with the recordings.
    paths = engine.find([*args.fleet, *args.recordings])
    if args.scheduler or args.workers:
        found = engine.distributed(paths, args.scheduler, args.workers)
    else:
        found = engine.local(paths)
    if args.redact or args.redact_comms:
        found = redact(found)
    if args.format == "json":
        from dmatrace.report import json

        text = json.render(found)
    else:
        from dmatrace.report import fleet

        text = fleet.render(
            found, color=output.colored(args.color), ascii_only=not output.encodes("█▒░…")
        )
    output.write(text)
    if found["damaged"]:
        count = len(found["damaged"])
        print(f"dmatrace: {count} of {found['recordings']} are damaged", file=sys.stderr)
    if not found["readable"]:
        print("dmatrace: no recording could be read; the list says why", file=sys.stderr)
        return 1
    return 0


def _with_base(paths: Sequence[str], base: str, by: str | None) -> tuple[list[str], str]:
    """The recordings with that of ``--base`` in front; a strategy's name is left alone."""
    same = [path for path in paths if os.path.normpath(path) == os.path.normpath(base)]
    if same:
        return [same[0], *(path for path in paths if path != same[0])], ""
    if by is None and len(paths) == 1 and not os.path.exists(base):
        return list(paths), base
    return [base, *paths], ""


def _labels(paths: Sequence[str], args: argparse.Namespace) -> list[str]:
    """What the recordings are called: their names, or paths where names are not enough."""
    names = [os.path.basename(os.path.normpath(path)) for path in paths]
    if args.redact or args.redact_comms:
        return [f"recording-{n}" for n in range(1, len(paths) + 1)]
    labels = names if len(set(names)) == len(names) else list(paths)
    if len(set(labels)) == len(labels):
        return labels
    return [f"{label} ({n})" for n, label in enumerate(labels, start=1)]
