"""The command line: one verb is one module, listed once, here.

A verb module has NAME, HELP, ``configure(parser)`` and ``run(args) -> int``
and imports pandas, pyarrow or bcc only inside ``run``, so that ``--help``
stays instant.  ``main`` alone prints errors and picks the exit code.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from dmatrace import __version__, safe
from dmatrace.cli import (
    attach,
    bench,
    buffers,
    compare,
    completion,
    doctor,
    export,
    lab,
    record,
    report,
    strategies,
    top,
)
from dmatrace.errors import DmatraceError

VERBS: tuple[ModuleType, ...] = (
    record,
    attach,
    top,
    report,
    compare,
    export,
    bench,
    strategies,
    buffers,
    doctor,
    lab,
    completion,
)

_EXAMPLES = """\
examples:
  sudo dmatrace record --strategy dmabuf-bio,udmabuf-dio --size 256M -o a.dmt
  sudo dmatrace record -o cmd.dmt -- llama-cli -m model.gguf
  sudo dmatrace attach 4711 -o server.dmt -d 30s
  dmatrace report a.dmt
  dmatrace top --replay a.dmt
  dmatrace lab run -- dmatrace record --strategy all --size 256M -o a.dmt
"""


class _Parser(argparse.ArgumentParser):
    """Errors in one line: cause and next step."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {safe.line(message)}; see {self.prog} -h\n")


def parser() -> argparse.ArgumentParser:
    """The whole command line; man page, completion and docs are made from it."""
    whole = _Parser(
        prog="dmatrace",
        description="Where the time and the page cache of a dma-buf load go.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"dmatrace {__version__}")
    verbs = whole.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for module in VERBS:
        sub = verbs.add_parser(
            module.NAME,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(sub)
        sub.set_defaults(run=module.run)
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit codes are the contract's (0, 1, 2, 3, or CMD's own)."""
    whole = parser()
    words = list(sys.argv[1:] if argv is None else argv)
    args = whole.parse_args(words, argparse.Namespace(words=words))
    if args.verb is None:
        whole.print_help()
        return 0
    try:
        code = args.run(args)
        sys.stdout.flush()
        return int(code)
    except DmatraceError as error:
        print(f"dmatrace: {safe.line(str(error))}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
