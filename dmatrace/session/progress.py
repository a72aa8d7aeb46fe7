"""What a recording session tells the user while it runs, on stderr."""

from __future__ import annotations

import sys
import time

from dmatrace import safe

_EVERY_S = 0.25


class Progress:
    """Lines that stay, and on a terminal one last line that changes in place."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live = not quiet and sys.stderr.isatty()
        self._width = 0
        self._next = 0.0

    def __call__(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._clear()
            print(safe.line(text), file=sys.stderr, flush=True)

    def now(self, text: str) -> None:
        """The line that changes; nothing where stderr is not a terminal."""
        if not self._live or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY_S
        self._clear()
        text = safe.line(text[:79])
        self._width = len(text)
        print(text, end="", file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._width:
            print("\r" + " " * self._width, end="\r", file=sys.stderr)
            self._width = 0
