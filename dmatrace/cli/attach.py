"""``dmatrace attach PID``: look at a running process, or record it."""

from __future__ import annotations

import argparse
import sys

from dmatrace.cli import arguments, record
from dmatrace.errors import UsageError

NAME = "attach"
HELP = "look at a running process live, or record it with -o"

_EXAMPLES = """\
On a terminal this opens the live view; with -o or --try, or where stdout is
no terminal, it records like `record -p PID`.

exit codes: 0 done, 1 failed, 2 usage, 3 this machine cannot do it

examples:
  sudo dmatrace attach 4711
  sudo dmatrace attach 4711 -o server.dmt -d 30s
  sudo dmatrace attach $(pgrep -n llama-server) -o load.dmt
  sudo dmatrace attach 4711 --try -o gain.dmt
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.epilog = _EXAMPLES
    parser.add_argument("pid", type=arguments.pids, metavar="PID[,PID...]", help="what to follow")
    record.add_following(parser)
    record.add_trying(parser)
    parser.add_argument(
        "--raise-limits",
        action="store_true",
        help="raise udmabuf's size_limit_mb, and reserve huge pages, while trying; they are"
        " restored at the end",
    )
    record.add_output(parser)
    record.add_tracing(parser)


def run(args: argparse.Namespace) -> int:
    """Record, or open the live view."""
    args.comm = args.cgroup = None
    args.dma_bufs = False
    if args.raise_limits and args.tries is None:
        raise UsageError("--raise-limits is for --try", do="a process decides itself how it loads")
    # What was tried is in a recording, and compared by its report.
    if args.output is not None or args.tries is not None or not sys.stdout.isatty():
        return record.targets(args)
    if args.force:
        raise UsageError("--force is for -o", do="name the recording with -o")
    return live(args)


def live(args: argparse.Namespace) -> int:
    """The live view of the processes, whose recorder gets the same options."""
    from dmatrace.tui import run_recorder

    pids = ",".join(map(str, args.pid))
    run_recorder(["-p", pids, *recorder(args)], title=f"PID {pids}", interval=1.0)
    return 0


def recorder(args: argparse.Namespace) -> list[str]:
    """The options of ``record`` that were given here."""
    found = ["--hooks", args.hooks, "--detail", args.detail, "--interval", f"{args.interval}s"]
    found += [word for name in args.without for word in ("--without", name)]
    if args.sample:
        found += ["--sample", str(args.sample)]
    if args.duration:
        found += ["-d", f"{args.duration}s"]
    return [*found, "--no-follow"] if args.no_follow else found
