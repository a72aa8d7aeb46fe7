"""``dmatrace lab``: a guest with its own kernel, in which this checkout runs as root."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from dmatrace import safe
from dmatrace.errors import CannotHere, UsageError
from dmatrace.lab import kernels
from dmatrace.sizes import format_size, parse_size

NAME = "lab"
HELP = "run commands in a guest with its own kernel"

_MEMORY = "6G"
_DISK = "4G"
#: Less than this and the guest's kernel kills its own init while booting.
_LEAST_MEMORY = 512 << 20
_LEAST_DISK = 16 << 20

_RUN_EXAMPLES = """\
CMD's output and exit code are its own. In the guest the checkout has the same
path and is writable, dmatrace is on PATH, and $DMATRACE_DATA is an ext4 on a
virtio disk.

examples:
  dmatrace lab run -- uname -r
  dmatrace lab run -- dmatrace record --strategy udmabuf-dio --size 256M -o a.dmt
  dmatrace lab run --frozen -- dmatrace bench --table H3 --size 256M
  dmatrace lab run --memory 3G --disk-size 8G -- sh -c 'df -h $DMATRACE_DATA'
"""

_SHELL_EXAMPLES = """\
The guest ends with the shell. Only the checkout outlives it.

examples:
  dmatrace lab shell
  dmatrace lab shell --memory 12G
"""

_BUILD_EXAMPLES = """\
Needs root, mmdebstrap and a Debian mirror. An image is built once and again
when the package list, requirements.lock or the guest's scripts change.

examples:
  sudo .venv/bin/dmatrace lab build
  sudo .venv/bin/dmatrace lab build --kernel 6.12
"""

_LIST_EXAMPLES = """\
examples:
  dmatrace lab list
"""

_CLEAN_EXAMPLES = """\
Removes built images and what killed runs left. A running guest is not touched,
but its image is gone for the next one.

examples:
  dmatrace lab clean
"""

_EXAMPLES = """\
examples:
  dmatrace lab build
  dmatrace lab run -- dmatrace record --strategy all --size 256M --raise-limits
  dmatrace lab shell
"""


def configure(parser: argparse.ArgumentParser) -> None:
    _describe(parser, _EXAMPLES)
    verbs = parser.add_subparsers(dest="lab_verb", metavar="VERB", required=True)
    run_ = _verb(verbs, "run", "run a command in a fresh guest", _RUN_EXAMPLES, _run)
    shell = _verb(verbs, "shell", "an interactive shell in a fresh guest", _SHELL_EXAMPLES, _shell)
    build = _verb(verbs, "build", "build the image of a guest", _BUILD_EXAMPLES, _build)
    _verb(verbs, "list", "list the guests and what is built", _LIST_EXAMPLES, _list)
    _verb(verbs, "clean", "remove images and leftovers", _CLEAN_EXAMPLES, _clean)
    names = [kernel.name for kernel in kernels.KERNELS]
    for verb in (run_, shell, build):
        verb.add_argument(
            "--kernel",
            metavar="|".join(names),
            help=f"the guest's kernel (default {kernels.DEFAULT.name})",
        )
    for verb in (run_, shell):
        verb.add_argument(
            "--memory", metavar="SIZE", default=_MEMORY, help=f"of the guest (default {_MEMORY})"
        )
        verb.add_argument(
            "--disk-size", metavar="SIZE", default=_DISK, help=f"of its data (default {_DISK})"
        )
    run_.add_argument(
        "--frozen",
        action="store_true",
        help="dmatrace/ and loaders/ as they are now, read-only: starts faster",
    )
    run_.add_argument("command", nargs="+", metavar="CMD", help="command and arguments, after --")


def run(args: argparse.Namespace) -> int:
    code: int = args.lab_run(args)
    return code


def _describe(parser: argparse.ArgumentParser, text: str) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = text


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    examples: str,
    action: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    _describe(parser, examples)
    parser.set_defaults(lab_run=action)
    return parser


def _progress(text: str) -> None:
    print(f"dmatrace: {safe.line(text)}", file=sys.stderr, flush=True)


def _in_guest(
    args: argparse.Namespace, command: list[str], *, tty: bool = False, term: str = ""
) -> int:
    # Here, not above: every other verb's --help would pay for it.
    from dmatrace.lab.guest import Guest, directory_inside

    memory, disk = parse_size(args.memory), parse_size(args.disk_size)
    if memory < _LEAST_MEMORY:
        raise UsageError("a guest needs more memory", do=f"at least {format_size(_LEAST_MEMORY)}")
    if disk < _LEAST_DISK:
        raise UsageError("the data disk is too small", do=f"at least {format_size(_LEAST_DISK)}")
    kernel, frozen = kernels.find(args.kernel), getattr(args, "frozen", False)
    guest = Guest(kernel, memory=memory, disk_size=disk, frozen=frozen, progress=_progress)
    where = directory_inside(guest.checkout)
    # Until the command runs, a SIGTERM must end the guest in order, as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    with guest:
        return guest.call(command, cwd=where, tty=tty, env={"TERM": term} if term else None)


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _run(args: argparse.Namespace) -> int:
    command = args.command[1:] if args.command[0] == "--" else args.command
    return _in_guest(args, command)


def _shell(args: argparse.Namespace) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("a shell needs a terminal", do="use dmatrace lab run -- CMD")
    return _in_guest(args, ["bash"], tty=True, term=os.environ.get("TERM", ""))


def _build(args: argparse.Namespace) -> int:
    from dmatrace.lab import accel, emulator, image

    kernel = kernels.find(args.kernel)
    known = image.find(kernel)
    if known:
        _progress(f"guest {kernel.name} is built: {known.path}")
    emulator.command(accel.choose(known or image.build(kernel, _progress)), _progress)
    return 0


def _list(args: argparse.Namespace) -> int:
    from dmatrace.lab import image

    print(f"{'KERNEL':<8}{'DEBIAN':<10}{'PYTHON':<8}{'LINUX':<26}IMAGE")
    for kernel in kernels.KERNELS:
        try:
            built = image.find(kernel)
        except CannotHere:
            built = None
        release = built.release if built else "-"
        where = str(built.path) if built else "not built"
        print(f"{kernel.name:<8}{kernel.suite:<10}{kernel.python:<8}{release:<26}{where}")
    return 0


def _clean(args: argparse.Namespace) -> int:
    from dmatrace.lab import image

    removed = image.clean(_progress)
    _progress(f"removed {removed} {'directory' if removed == 1 else 'directories'}")
    return 0
