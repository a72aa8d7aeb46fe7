"""``dmatrace record``: strategies, processes or a command under the tracer, one recording."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from dmatrace import safe
from dmatrace.cli import arguments
from dmatrace.detail import DEFAULT_LEVEL, HZ, HZ_MAX, LEVELS, detail
from dmatrace.errors import UsageError

if TYPE_CHECKING:
    from dmatrace.session import plan
    from dmatrace.session import targets as following
    from dmatrace.session.trying import Wanted

NAME = "record"
HELP = "record where time and memory of load strategies, processes or a command go"

_EXAMPLES = """\
The page cache is dropped before each cold load (said on stderr). A file made
for --size is removed afterwards. Processes are followed with their threads
and children until they end, -d is over or Ctrl-C; a command runs as the user
who called sudo, keeps stdin, stdout and stderr, and gets Ctrl-C itself.

exit codes: 0 recorded, 1 failed, 2 usage, 3 this machine cannot do it; the
command's own behind --

examples:
  sudo dmatrace record --strategy dmabuf-bio,udmabuf-dio --size 256M -o a.dmt
  sudo dmatrace record --strategy all --file model.gguf --rounds 3
  sudo dmatrace record --strategy udmabuf-dio --size 1G --raise-limits
  sudo dmatrace record --strategy dmabuf-gather-dio --size 1G --load-module
  sudo dmatrace record --strategy dmabuf-bio --size 8G --interval 1s
  sudo dmatrace record --strategy memfd-bio --size 1G --detail sampled --ab 7
  sudo dmatrace record --strategy memfd-bio --size 1G --live
  sudo dmatrace record -p 4711 -d 30s -o server.dmt
  sudo dmatrace record --comm llama-server -d 2m
  sudo dmatrace record -p 4711 --try=udmabuf-dio --raise-limits -o gain.dmt
  sudo dmatrace record -o cli.dmt -- llama-cli -m model.gguf -p hello
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.epilog = _EXAMPLES
    add = parser.add_argument
    parser.usage = (
        "%(prog)s --strategy NAME[,NAME...]|all (--file PATH | --size SIZE) [options]\n"
        "       %(prog)s (-p PID[,PID...] | --comm NAME | --cgroup PATH | --dma-bufs)"
        " [-d DUR] [options]\n"
        "       %(prog)s [options] -- CMD [ARG...]"
    )
    add(
        "--strategy",
        metavar="NAME[,NAME...]|all",
        help="how to load the file; 'all' runs every strategy this machine can",
    )
    add_targets(parser)
    add("command", nargs="*", metavar="CMD", help="run and record this command")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--file", metavar="PATH", help="the file to load")
    source.add_argument(
        "--size",
        type=arguments.size,
        metavar="SIZE",
        help="make a file of this size (512K, 8M, 1G)",
    )
    add(
        "--dir",
        metavar="DIR",
        help="where --size makes its file (default: $DMATRACE_DATA, else /var/tmp)",
    )
    add(
        "--rounds",
        type=arguments.positive,
        default=1,
        metavar="N",
        help="repeat all loads (default: 1)",
    )
    add(
        "--cache",
        choices=("cold", "warm"),
        default="cold",
        help="drop the page cache before each load, or read the file once before the"
        " first (default: cold)",
    )
    add_output(parser)
    add(
        "--live",
        action="store_true",
        help="meanwhile show the live view on this terminal, as top does",
    )
    loads = parser.add_argument_group("loaders")
    loads.add_argument(
        "--block",
        type=arguments.block,
        default=1 << 20,
        metavar="SIZE",
        help="bytes a read, in user space or in the kernel (default: 1M)",
    )
    loads.add_argument(
        "--jobs",
        type=arguments.positive,
        default=1,
        metavar="N",
        help="reading threads; batches read side by side of dmabuf-gather-* (default: 1)",
    )
    loads.add_argument(
        "--depth",
        type=arguments.positive,
        default=1,
        metavar="N",
        help="reads in flight of udmabuf-uring-dio (default: 1)",
    )
    loads.add_argument(
        "--gather",
        type=arguments.gather,
        default=128 << 20,
        metavar="SIZE",
        help="bytes of a batch of dmabuf-gather-*, 1M to 1G (default: 128M)",
    )
    loads.add_argument(
        "--verify",
        choices=("sampled", "full"),
        default="sampled",
        help="how much of the buffer to compare with the file (default: sampled)",
    )
    loads.add_argument(
        "--raise-limits",
        action="store_true",
        help="raise udmabuf's size_limit_mb, and reserve huge pages, while recording (with --try,"
        " while trying); they are restored at the end",
    )
    loads.add_argument(
        "--load-module",
        action="store_true",
        help="load the loader module if a strategy needs it and it is not loaded: the installed"
        " one (DKMS), else one built of this checkout; it is unloaded at the end",
    )
    tracing = add_tracing(parser)
    tracing.add_argument(
        "--ab",
        type=arguments.positive,
        default=0,
        metavar="N",
        help="add N interleaved pairs of loads with and without the tracer, to state its cost",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Where the recording goes."""
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="the recording (default: named after the target)"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it is a recording")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")


def add_targets(parser: argparse.ArgumentParser) -> None:
    """Processes that run already."""
    group = parser.add_argument_group("processes")
    group.add_argument(
        "-p",
        "--pid",
        type=arguments.pids,
        metavar="PID[,PID...]",
        help="processes that run; the recording ends when all of them have",
    )
    group.add_argument(
        "--comm",
        metavar="NAME",
        help="every process of that name, now or later, until -d or Ctrl-C",
    )
    group.add_argument(
        "--cgroup", metavar="PATH", help="every process in that control group, now or later"
    )
    group.add_argument(
        "--dma-bufs", action="store_true",
        help="every process that holds a dma-buf or asks for one, now or later",
    )  # fmt: skip
    add_following(group)
    add_trying(group)


def add_trying(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """What is done with their file afterwards."""
    group.add_argument(
        "--try",
        dest="tries",
        nargs="?",
        const="",
        metavar="NAME[,NAME...]",
        help="afterwards load the file that they took most bytes of by these strategies, or by"
        " suggested ones, in the same recording; the report compares",
    )


def add_following(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """How long and how far processes are followed."""
    group.add_argument(
        "-d", "--duration", type=arguments.duration, metavar="DUR", help="end after 10, 10s or 2m"
    )
    group.add_argument(
        "--no-follow", action="store_true", help="leave out the processes they start, and children"
    )


def add_tracing(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """How the tracer attaches."""
    tracing = parser.add_argument_group("tracing")
    tracing.add_argument(
        "--hooks",
        choices=("auto", "fentry", "kprobe"),
        default="auto",
        help="how to attach: fentry, kprobes, or for each function the better one that works",
    )
    tracing.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="HOOK",
        help="leave a hook out; the report says what that hides (repeatable)",
    )
    tracing.add_argument(
        "--detail",
        choices=LEVELS,
        default=DEFAULT_LEVEL,
        help="exact: every hook on every event; sampled: no hook that fires for every page,"
        f" kernel stacks in their place (default: {DEFAULT_LEVEL})",
    )
    tracing.add_argument(
        "--sample",
        type=arguments.positive,
        default=None,
        metavar="HZ",
        help=f"sample the stacks of traced threads so often, up to {HZ_MAX} times a second"
        f" (default: {HZ} with --detail sampled, else not at all)",
    )
    tracing.add_argument(
        "--interval",
        type=arguments.interval,
        default=0.1,
        metavar="DUR",
        help="time between samples of page cache, dma-bufs, pinned pages and memory pressure:"
        " 10ms to 1h (default: 100ms)",
    )
    return tracing


# Options that only loads by a strategy have, and their defaults.
_OF_STRATEGIES = {
    "file": None, "size": None, "dir": None, "rounds": 1, "cache": "cold", "block": 1 << 20,
    "jobs": 1, "depth": 1, "gather": 128 << 20, "verify": "sampled", "raise_limits": False,
    "load_module": False, "ab": 0,
}  # fmt: skip


def check(args: argparse.Namespace) -> None:
    """Raise UsageError unless exactly one kind of target is named, with options that it has."""
    kinds = {
        "--strategy": args.strategy,
        "-p": args.pid,
        "--comm": args.comm,
        "--cgroup": args.cgroup,
        "--dma-bufs": args.dma_bufs,
        "a command": args.command,
    }
    named = [name for name, value in kinds.items() if value]
    if not named:
        raise UsageError(
            "nothing to record is named",
            do="give --strategy NAME, -p PID, --comm NAME, --cgroup PATH, --dma-bufs or -- CMD",
        )
    if len(named) > 1:
        raise UsageError(f"{named[0]} and {named[1]} exclude each other", do="record one of them")
    if args.strategy:
        if args.file is None and args.size is None:
            raise UsageError("one of the arguments --file --size is required", do="add one of them")
        given = {
            "--duration": args.duration, "--no-follow": args.no_follow,
            "--try": args.tries is not None,
        }  # fmt: skip
        for name in (name for name, value in given.items() if value):
            raise UsageError(f"{name} is for processes and commands", do="leave it out")
        return
    for name, default in _OF_STRATEGIES.items():
        if name == "raise_limits" and args.tries is not None:
            continue
        if getattr(args, name) != default:
            raise UsageError(
                f"--{name.replace('_', '-')} is for --strategy alone",
                do="a process or command decides itself how it loads",
            )


def run(args: argparse.Namespace) -> int:
    """Record; prints the recording's path on stdout, with a command on stderr."""
    check(args)
    if args.live:
        from dmatrace.cli import live

        return live.run(args)
    return _strategies(args) if args.strategy else targets(args, tuple(args.command))


def target_options(args: argparse.Namespace, command: tuple[str, ...]) -> following.Options:
    """What is asked of a recording of processes, or of a command."""
    from dmatrace.session.progress import Progress
    from dmatrace.session.targets import Options

    return Options(
        pids=args.pid or (),
        comm=args.comm,
        cgroup=args.cgroup,
        dma_bufs=args.dma_bufs,
        command=command,
        duration=args.duration,
        follow=not args.no_follow,
        output=args.output,
        force=args.force,
        hooks=args.hooks,
        without=tuple(args.without),
        detail=detail(args.detail, args.sample),
        interval=args.interval,
        say=Progress(quiet=args.quiet),
        wanted=_wanted(args),
    )


def targets(args: argparse.Namespace, command: tuple[str, ...] = ()) -> int:
    """Record processes or a command; a command's exit code is returned."""
    from dmatrace.session.targets import record

    recorded = record(target_options(args, command))
    print(recorded.path, file=sys.stderr if command else sys.stdout)
    # A command's exit code is its own, whatever came of what was tried.
    return int(not recorded.tried) if recorded.code is None else recorded.code


def _wanted(args: argparse.Namespace) -> Wanted | None:
    """What --try asks for; names that there are not are a UsageError."""
    from dmatrace.session import preflight
    from dmatrace.session.trying import Wanted

    if args.tries is None:
        return None
    return Wanted(preflight.select(args.tries) if args.tries else (), args.raise_limits)


def load_options(args: argparse.Namespace) -> plan.Options:
    """What is asked of a recording of loads by strategies."""
    from dmatrace.session.plan import Options
    from dmatrace.session.progress import Progress

    if args.sample is not None and args.sample > HZ_MAX:
        raise UsageError(f"--sample {args.sample} is too often", do=f"at most {HZ_MAX}")
    return Options(
        strategies=args.strategy,
        file=args.file,
        size=args.size,
        directory=args.dir or os.environ.get("DMATRACE_DATA"),
        rounds=args.rounds,
        cold=args.cache == "cold",
        output=args.output,
        force=args.force,
        block=args.block,
        jobs=args.jobs,
        depth=args.depth,
        gather=args.gather,
        load_module=args.load_module,
        verify=args.verify,
        raise_limits=args.raise_limits,
        hooks=args.hooks,
        without=tuple(args.without),
        detail=detail(args.detail, args.sample),
        ab=args.ab,
        interval=args.interval,
        say=Progress(quiet=args.quiet),
    )


def _strategies(args: argparse.Namespace) -> int:
    from dmatrace.session.plan import record

    recorded = record(load_options(args))
    print(recorded.path)
    for line in recorded.failed:
        print(f"dmatrace: {safe.line(line)}", file=sys.stderr)
    return 1 if recorded.failed else 0
