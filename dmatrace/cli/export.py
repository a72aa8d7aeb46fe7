"""``dmatrace export OUT -f FORMAT``: a recording in other tools' formats."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from dmatrace.analysis.columns import TABLES
from dmatrace.cli import arguments
from dmatrace.errors import UsageError
from dmatrace.export import FORMATS, Format, Options

if TYPE_CHECKING:
    from dmatrace.analysis.frames import Frames
    from dmatrace.export.place import Write

NAME = "export"
HELP = "write a recording in another tool's format"

_EXAMPLES = """\
Needs no root. Every figure is the one that `dmatrace report` shows. Nothing is
overwritten without --force. Without -o the name is the recording's, with the
format's ending, in the working directory.

examples:
  dmatrace export load.dmt -f html               one page, load.html
  dmatrace export load.dmt -f perfetto           for ui.perfetto.dev
  dmatrace export load.dmt -f folded -o - | flamegraph.pl > load.svg
  dmatrace export load.dmt -f folded --weight page-cache -o cache.folded
  dmatrace export load.dmt -f csv --table phases -o -
  dmatrace export load.dmt -f parquet -o tables
  dmatrace export load.dmt -f html --redact -o for-the-vendor.html
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.epilog = _EXAMPLES
    parser.description = "Write a recording in another tool's format:\n" + "\n".join(
        f"  {each.name:<10}{each.about}" for each in FORMATS.values()
    )
    add = parser.add_argument
    add("recording", metavar="OUT", help="the directory that record wrote")
    add(
        "-f",
        "--format",
        choices=tuple(FORMATS),
        metavar="FORMAT",
        required=True,
        help=", ".join(FORMATS),
    )
    add(
        "-o",
        "--output",
        metavar="PATH",
        help="the file, or the directory of csv and parquet; '-' is stdout (folded, and csv"
        " with --table)",
    )
    add("--force", action="store_true", help="replace PATH")
    add(
        "--table",
        choices=tuple(TABLES),
        metavar="TABLE",
        help=f"csv, parquet: only this table, as one file ({', '.join(TABLES)})",
    )
    add(
        "--weight",
        choices=("time", "page-cache"),
        default="time",
        help="folded: what a stack weighs, ns or bytes added to the page cache (default: time)",
    )
    arguments.redact(parser)


def run(args: argparse.Namespace) -> int:
    """Write the export and print where it is; DmatraceError for what is no readable recording."""
    from dmatrace.export import place
    from dmatrace.recording.reader import Recording

    form = FORMATS[args.format]
    stdout = args.output == "-"
    _check_usage(args, form, stdout=stdout)
    recording = Recording.open(args.recording)
    single = not form.tables or args.table is not None
    ending = f"-{args.table}{form.suffix}" if args.table else form.suffix
    where = Path(args.output) if args.output else place.default(recording.path, ending)
    if not stdout:
        place.check(where, directory=not single, force=args.force)

    from dmatrace.analysis.frames import Frames

    frames = Frames(recording, arguments.names(args))
    if not recording.complete:
        why = "its recorder ended before it closed it; this is what it had written by then"
        print(f"dmatrace: {recording.path} is incomplete: {why}", file=sys.stderr)
    if stdout:
        _write(frames, form, args.table, Options(args.weight), sys.stdout.buffer)
        return 0
    if single:
        place.file(where, lambda out: _write(frames, form, args.table, Options(args.weight), out))
    else:
        place.files(where, ((f"{name}{form.suffix}", _part(frames, form, name)) for name in frames))
    print(where)
    return 0


def _check_usage(args: argparse.Namespace, form: Format, *, stdout: bool) -> None:
    if args.table and not form.tables:
        raise UsageError(f"-f {form.name} has no tables", do="use --table with csv or parquet")
    if args.weight != "time" and form.name != "folded":
        raise UsageError(f"-f {form.name} has no --weight", do="use it with -f folded")
    if stdout and not form.stdout:
        raise UsageError(f"-f {form.name} does not go to stdout", do="name a file with -o")
    if stdout and form.tables and not args.table:
        raise UsageError("stdout holds one table", do=f"add --table {'|'.join(TABLES)}")


def _part(frames: Frames, form: Format, name: str) -> Write:
    return lambda out: _write(frames, form, name, Options(), out)


def _write(
    frames: Frames, form: Format, table: str | None, options: Options, out: BinaryIO
) -> None:
    module = import_module(f"dmatrace.export.{form.name}")
    if table is None:
        module.write(frames, out, options)
    else:
        module.write_table(frames[table], out, table)
