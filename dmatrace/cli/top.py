"""``dmatrace top``: the live view, of loads as they happen or of a recording."""

from __future__ import annotations

import argparse
import os
import shlex
import sys

from dmatrace.cli import arguments
from dmatrace.errors import UsageError
from dmatrace.sizes import parse_duration

NAME = "top"
HELP = "watch loads as they happen, or play a recording"

_EXAMPLES = """\
Press ? in it for the keys. A live view starts a recorder and needs root; a
replay needs neither root nor bcc. What a live view recorded is removed when
it ends, unless -o names it.

exit codes: 0 left, 1 failed, 2 usage or no terminal, 3 this machine cannot do it

examples:
  sudo dmatrace top                         every process that uses dma-bufs
  sudo dmatrace top -p 4711
  sudo dmatrace top --strategy dmabuf-bio,udmabuf-dio --size 1G --raise-limits
  dmatrace top --replay a.dmt
  dmatrace top --replay a.dmt --serve       in a browser on this machine
"""

_FASTEST_S, _SLOWEST_S = 0.1, 3600.0


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.epilog = _EXAMPLES
    what = parser.add_mutually_exclusive_group()
    what.add_argument("-p", "--pid", metavar="PID[,PID]", type=_pids, help="watch these processes")
    what.add_argument(
        "--strategy",
        metavar="NAME[,NAME...]|all",
        help="load a file by these strategies, one after the other, and watch",
    )
    what.add_argument("--replay", metavar="OUT", help="play a recording, finished or growing")
    parser.add_argument(
        "--interval",
        "--delay",
        type=_interval,
        default=1.0,
        metavar="S",
        help="seconds between updates, and between samples of memory if -o keeps no recording:"
        " 0.1 to 3600 (default: 1)",
    )
    parser.add_argument("-o", "--output", metavar="OUT", help="keep the live view's recording")
    loads = parser.add_argument_group("with --strategy, as in record")
    source = loads.add_mutually_exclusive_group()
    source.add_argument("--file", metavar="PATH", help="the file to load")
    source.add_argument("--size", type=arguments.size, metavar="SIZE", help="make a file")
    loads.add_argument("--rounds", type=arguments.positive, metavar="N")
    loads.add_argument("--cache", choices=("cold", "warm"))
    loads.add_argument("--block", type=arguments.block, metavar="SIZE")
    loads.add_argument("--jobs", type=arguments.positive, metavar="N")
    loads.add_argument("--depth", type=arguments.positive, metavar="N")
    loads.add_argument("--raise-limits", action="store_true")
    loads.add_argument("--load-module", action="store_true")
    browser = parser.add_argument_group("in a browser")
    browser.add_argument(
        "--serve",
        action="store_true",
        help="serve the view to browsers on this machine (needs textual-serve)",
    )
    browser.add_argument(
        "--host", default="localhost", help="the address to listen on (default: localhost)"
    )
    browser.add_argument(
        "--port", type=arguments.positive, default=8000, metavar="N", help="default: 8000"
    )


def _interval(text: str) -> float:
    try:
        found = parse_duration(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not _FASTEST_S <= found <= _SLOWEST_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0.1 and 3600 seconds")
    return found


def _pids(text: str) -> str:
    for word in text.split(","):
        arguments.positive(word)
    return text


def run(args: argparse.Namespace) -> int:
    """Show the view until the user leaves it."""
    _check(args)
    if args.serve:
        from dmatrace.tui.serve import serve

        serve(shlex.join(_again(args)), host=args.host, port=args.port)
        return 0
    # A browser's view has no terminal: textual-serve names the driver it speaks to.
    if not os.environ.get("TEXTUAL_DRIVER") and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "top needs a terminal", do="use `dmatrace record` and `dmatrace report` in scripts"
        )
    from dmatrace import tui

    if args.replay:
        tui.run_replay(args.replay, interval=args.interval)
        return 0
    from dmatrace.session import preflight

    preflight.check_root()
    title = "processes that use dma-bufs"
    if args.pid:
        title = f"PID {args.pid}"
    elif args.strategy:
        title = f"{args.strategy} of {args.file or 'a new file'}"
    # Between two updates nobody looks; a recording that is kept has the recorder's own interval.
    sampled = [] if args.output else ["--interval", f"{args.interval}s"]
    recorder = [*_recorder(args), *sampled]
    tui.run_recorder(recorder, title=title, interval=args.interval, keep=args.output)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raise what is wrong with the options together."""
    loading = args.file is not None or args.size is not None
    if args.strategy and not loading:
        raise UsageError("--strategy needs a file to load", do="add --file PATH or --size 256M")
    if not args.strategy and (loading or args.rounds or args.raise_limits or args.load_module):
        raise UsageError("these options are for --strategy", do="leave them out, or add it")
    if args.replay and args.output:
        raise UsageError("a replay records nothing", do="leave -o out")
    if args.strategy:
        from dmatrace.session import preflight

        preflight.select(args.strategy)
    if args.replay:
        from dmatrace.recording.reader import Recording

        Recording.open(args.replay)


def _recorder(args: argparse.Namespace) -> list[str]:
    """The options of ``dmatrace record`` for what is asked of top."""
    if args.pid:
        return ["-p", args.pid]
    if not args.strategy:
        return ["--dma-bufs"]
    found = ["--strategy", args.strategy]
    for name in ("file", "size", "rounds", "cache", "block", "jobs", "depth"):
        value = getattr(args, name)
        if value is not None:
            found += [f"--{name}", str(value)]
    found += ["--raise-limits"] if args.raise_limits else []
    found += ["--load-module"] if args.load_module else []
    return found


def _again(args: argparse.Namespace) -> list[str]:
    """The command that shows the same in a process of its own."""
    command = [sys.executable, "-m", "dmatrace", "top", "--interval", str(args.interval)]
    if args.replay:
        return [*command, "--replay", args.replay]
    return [*command, *_recorder(args)]
