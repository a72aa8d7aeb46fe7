"""What a check is given, and what it answers."""

from __future__ import annotations

import enum
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dmatrace.errors import DmatraceError
from dmatrace_loaders.errors import LoadError

NEEDS_ROOT = "needs root"
SUDO = "run it with sudo"


class State(enum.StrEnum):
    """ok: it works; degraded: it works in part; missing: it does not; unknown: not seen."""

    OK = "ok"
    DEGRADED = "degraded"
    MISSING = "missing"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """A check's answer: ``what`` was found (or why not), and what to ``do`` about it.

    ``name`` is that of the line, where a check has several.  ``hides`` says what
    recordings do not show without it.
    """

    state: State
    what: str
    do: str = ""
    name: str = ""
    hides: str = ""
    needed: bool | None = None  # as the check says


@dataclass(frozen=True)
class Machine:
    """Where a check looks; ``root`` is where /proc, /sys, /dev and /lib are.

    ``file`` is the one whose direct I/O is asked for.
    """

    root: Path = Path("/")
    uid: int = field(default_factory=os.geteuid)
    release: str = field(default_factory=platform.release)
    version: str = field(default_factory=platform.version)
    file: str | None = None

    def read(self, path: str) -> str | None:
        """The text of a file below the root, None where it is not there.

        Raises PermissionError where this user may not read it.
        """
        try:
            return (self.root / path).read_text(errors="replace")
        except PermissionError:
            raise
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        """The number in a file, None where there is none."""
        try:
            return int((self.read(path) or "").split()[0])
        except (IndexError, ValueError):
            return None

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return os.path.lexists(self.root / path)


Answer = Finding | Iterable[Finding]


@dataclass(frozen=True)
class Check:
    """A row of the table; ``needed``: nothing can be recorded without it."""

    name: str
    section: str
    look: Callable[[Machine], Answer]
    needed: bool = False


def ok(what: str, **more: str) -> Finding:
    """It works."""
    return Finding(State.OK, what, **more)  # type: ignore[arg-type]


def degraded(what: str, do: str = "", **more: str) -> Finding:
    """It works in part."""
    return Finding(State.DEGRADED, what, do, **more)  # type: ignore[arg-type]


def missing(what: str, do: str = "", **more: str) -> Finding:
    """It does not work."""
    return Finding(State.MISSING, what, do, **more)  # type: ignore[arg-type]


def unknown(what: str = NEEDS_ROOT, do: str = "", **more: str) -> Finding:
    """It was not seen."""
    return Finding(State.UNKNOWN, what, do, **more)  # type: ignore[arg-type]


def refused(error: DmatraceError | LoadError) -> Finding:
    """What code that needs the thing says of its absence."""
    return missing(error.message, error.do)
