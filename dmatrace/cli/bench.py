"""``dmatrace bench``: the literature's tables here, ours beside the published figures."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dmatrace import safe
from dmatrace.cli import arguments
from dmatrace.errors import DmatraceError, UsageError
from dmatrace.sizes import format_size

if TYPE_CHECKING:
    from dmatrace.analysis.bench import Measurements, Result

NAME = "bench"
HELP = "run the literature's tables here, with the published figures beside ours"

FORMATS = ("text", "json", "csv")
_TABLES = ("V2", "LL", "H2", "H3")
_RECORDING = ".dmt"

_EXAMPLES = """\
Loads run in interleaved rounds (row 1 to the last, then again), each with the
page cache dropped before, and every buffer is compared with the file. udmabuf's
size limit is raised meanwhile, and put back on any exit. A row that cannot run
here stays in the table with the reason. Ctrl-C ends the bench and prints what
was measured by then.

exit codes: 0 measured, 1 a load failed, 2 usage, 3 this machine cannot do it

examples:
  sudo dmatrace bench --table H3
  sudo dmatrace bench --table V2 --sizes 512K,8M,256M --rounds 3
  sudo dmatrace bench --table LL --size 1G --memory-pressure 2G
  sudo dmatrace bench --strategies 'udmabuf-*,anon-dio' --file model.gguf
  sudo dmatrace bench --table H3 --size 256M -o h3.json --plot h3.svg
  dmatrace bench --from h3.json -f csv
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.epilog = _EXAMPLES
    add = parser.add_argument
    add(
        "--table",
        type=str.upper,
        choices=_TABLES,
        help="a published table (default: every strategy that can run here)",
    )
    add(
        "--strategies",
        metavar="GLOB",
        help="only rows of these strategies, for example 'udmabuf-*,memfd-dio'; a table's row 1"
        " is kept, for the ratios to it",
    )
    loaded = parser.add_mutually_exclusive_group()
    loaded.add_argument(
        "--sizes",
        type=arguments.sizes,
        metavar="SIZE[,SIZE...]",
        help="make files of these sizes (default: the table's own; without one 256M)",
    )
    loaded.add_argument(
        "--size", dest="sizes", type=arguments.sizes, metavar="SIZE", help="the same, for one size"
    )
    loaded.add_argument("--file", metavar="PATH", help="load this file instead")
    loaded.add_argument(
        "--from", dest="read", metavar="JSON", help="measure nothing: show a bench of -f json"
    )
    add(
        "--dir",
        metavar="DIR",
        help="where files are made (default: $DMATRACE_DATA, else /var/tmp)",
    )
    add(
        "--rounds",
        type=arguments.positive,
        default=5,
        metavar="N",
        help="rounds that count (default: 5)",
    )
    add(
        "--warmup",
        type=arguments.whole,
        default=0,
        metavar="N",
        help="rounds before, that do not (default: 0)",
    )
    add(
        "--memory-pressure",
        type=arguments.size,
        default=0,
        metavar="SIZE",
        help="measure everything a second time while a process holds so much memory",
    )
    loads = parser.add_argument_group("loaders")
    loads.add_argument(
        "--block",
        type=arguments.block,
        metavar="SIZE",
        help="bytes a read (default: a table's whole buffer, as published; without one 1M)",
    )
    loads.add_argument(
        "--jobs",
        type=arguments.positive,
        default=1,
        metavar="N",
        help="reading threads (default: 1)",
    )
    loads.add_argument(
        "--depth",
        type=arguments.positive,
        default=1,
        metavar="N",
        help="reads in flight (default: 1)",
    )
    loads.add_argument(
        "--gather",
        type=arguments.gather,
        default=128 << 20,
        metavar="SIZE",
        help="bytes of a gathered batch (default: 128M)",
    )
    loads.add_argument(
        "--verify",
        choices=("sampled", "full"),
        default="sampled",
        help="how much of each buffer to compare with the file (default: sampled)",
    )
    loads.add_argument(
        "--trace",
        action="store_true",
        help="run the loads under the tracer, into one recording (-o OUT.dmt)",
    )
    shown = parser.add_argument_group("output")
    shown.add_argument("-f", "--format", choices=FORMATS, help="default: text, or what -o ends in")
    shown.add_argument(
        "-o",
        "--output",
        action="append",
        default=[],
        metavar="PATH",
        help="write the table there, not to stdout; with --trace, PATH.dmt is the recording"
        " (both may be given)",
    )
    shown.add_argument(
        "--plot", metavar="PATH", help="also draw the ratios to row 1 (.png or .svg)"
    )
    shown.add_argument("--force", action="store_true", help="replace files that are there")
    shown.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="auto: on a terminal, unless NO_COLOR is set (default)",
    )
    shown.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")


def run(args: argparse.Namespace) -> int:
    """Measure (or read), then write the table."""
    table_to, recording = _outputs(args)
    form = args.format or _suffix_format(table_to)
    for path in filter(None, (table_to, args.plot)):
        _check_place(path, args.force)
    if args.plot:
        from dmatrace.report.bench import plot

        plot.check(args.plot)
    measured = _read(args.read) if args.read else _measure(args, recording)

    from dmatrace.analysis.bench import evaluate

    result = evaluate(measured)
    _write(_render(result, form, args.color, to_file=table_to is not None), table_to)
    if args.plot:
        plot.save(result, args.plot)
        _give(args.plot)
    failed = [sample for cell in measured.cells for sample in cell.samples if sample.failed]
    if failed:
        loads = "1 load" if len(failed) == 1 else f"{len(failed)} loads"
        print(f"dmatrace: {loads} failed: the table says which", file=sys.stderr)
    return 1 if failed else 0


def _outputs(args: argparse.Namespace) -> tuple[str | None, str | None]:
    """(where the table goes, where the recording goes); None is stdout and no recording."""
    recordings = [path for path in args.output if path.endswith(_RECORDING)]
    tables = [path for path in args.output if not path.endswith(_RECORDING)]
    if len(recordings) > 1 or len(tables) > 1:
        raise UsageError("-o was given twice", do="give it one table and, with --trace, one .dmt")
    if recordings and not args.trace:
        raise UsageError(f"-o {recordings[0]} names a recording", do="add --trace")
    if args.read and (args.trace or args.table or args.strategies or args.memory_pressure):
        raise UsageError("--from measures nothing", do="leave out what says what to measure")
    default = f"bench-{args.table or 'all'}{_RECORDING}"
    recording = (recordings[0] if recordings else default) if args.trace else None
    return (tables[0] if tables else None), recording


def _suffix_format(path: str | None) -> str:
    suffix = os.path.splitext(path)[1][1:].lower() if path else ""
    return suffix if suffix in FORMATS else "text"


def _measure(args: argparse.Namespace, recording: str | None) -> Measurements:
    from dmatrace.session.bar import Bar
    from dmatrace.session.bench import measure
    from dmatrace.session.benchplan import Options

    return measure(
        Options(
            table=args.table,
            globs=args.strategies,
            sizes=args.sizes,
            file=args.file,
            directory=args.dir or os.environ.get("DMATRACE_DATA"),
            rounds=args.rounds,
            warmup=args.warmup,
            pressure=args.memory_pressure,
            block=args.block,
            jobs=args.jobs,
            depth=args.depth,
            gather=args.gather,
            verify=args.verify,
            trace=Path(recording) if recording else None,
            force=args.force,
            say=Bar(quiet=args.quiet),
        )
    )


def _read(path: str) -> Measurements:
    from dmatrace.report.bench import json

    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        text = ""
    except OSError as error:
        raise DmatraceError(f"cannot read {path}: {error.strerror}", do="check --from") from None
    return json.read(text, path)


def _render(result: Result, form: str, color: str, *, to_file: bool) -> str:
    if form == "json":
        from dmatrace.report.bench import json

        return json.render(result)
    if form == "csv":
        from dmatrace.report.bench import csv

        return csv.render(result)
    from dmatrace.report.bench import text

    return text.render(result, color=_color(color, to_file))


def _color(wanted: str, to_file: bool) -> bool:
    if wanted != "auto":
        return wanted == "always"
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not to_file and sys.stdout.isatty() and not plain


def _check_place(path: str, force: bool) -> None:
    """Before anything is measured: whether ``path`` can be written, and is free."""
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise DmatraceError(f"there is no directory {directory}", do=f"mkdir -p {directory}")
    if os.path.isdir(path):
        raise DmatraceError(f"{path} is a directory", do="name a file")
    if os.path.lexists(path) and not force:
        raise DmatraceError(f"{path} exists", do="name another or use --force")


def _write(text: str, path: str | None) -> None:
    if path is None:
        # A file name or a reason may hold what stdout's encoding lacks.
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        return
    part = f"{path}.part"
    try:
        # Renamed when whole: a full disk must not leave half a table.
        Path(part).write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise DmatraceError(
            f"cannot write {path}: {error.strerror}", do="name another -o"
        ) from None
    _give(path)
    print(f"dmatrace: wrote {safe.line(str(path))} ({format_size(len(text))})", file=sys.stderr)


def _give(path: str) -> None:
    """To whoever typed sudo."""
    from dmatrace.session.traced import owner

    whose = owner()
    if whose and os.geteuid() == 0:
        os.chown(path, *whose)
