"""``dmatrace completion SHELL``: the completion script of a shell, made from the parser."""

from __future__ import annotations

import argparse
from importlib import resources

from dmatrace.cli import output

NAME = "completion"
HELP = "print a shell's completion of dmatrace"
SHELLS = ("bash", "zsh", "fish")

_EXAMPLES = """\
examples:
  dmatrace completion bash > /etc/bash_completion.d/dmatrace
  dmatrace completion zsh > /usr/local/share/zsh/site-functions/_dmatrace
  dmatrace completion fish > ~/.config/fish/completions/dmatrace.fish
  source <(dmatrace completion bash)             for this shell only
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.epilog = _EXAMPLES
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def run(args: argparse.Namespace) -> int:
    """Print the script to stdout."""
    script = resources.files("dmatrace.completions") / f"dmatrace.{args.shell}"
    output.write(script.read_text(encoding="utf-8"))
    return 0
