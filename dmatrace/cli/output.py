"""What a verb prints on stdout, in whatever encoding stdout has."""

from __future__ import annotations

import os
import sys


def write(text: str) -> None:
    """``text`` to stdout; what its encoding lacks (a file's name may hold it) becomes "?"."""
    sys.stdout.write(text.encode(_encoding(), "replace").decode(_encoding()))


def colored(wanted: str) -> bool:
    """What ``--color`` asks for: auto is colour on a terminal, unless NO_COLOR is set."""
    if wanted == "auto":
        return (
            sys.stdout.isatty()
            and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM") != "dumb"
        )
    return wanted == "always"


def encodes(text: str) -> bool:
    """Whether stdout's encoding has every character of ``text``."""
    try:
        text.encode(_encoding())
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"
