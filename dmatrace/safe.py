"""Strings from outside, made safe to show; every text output and export uses this.

A recording comes from another machine, and file names, comms and command lines
in it from whoever chose them.  What could move the cursor, change colours or
the title, break a line or reorder it (escape sequences, C0 and C1 controls,
bidirectional overrides, line and paragraph separators) must not reach a terminal;
see Unicode Technical Report 36 for the bidirectional ones.
"""

from __future__ import annotations

import unicodedata

MARK = "?"
# Categories Zl and Zp end a line for many terminals and for str.splitlines().
_SEPARATORS = "\u2028\u2029"


def unfit(char: str) -> bool:
    """Whether a terminal would obey ``char``, not show it.

    Category C: controls (Cc), formats such as U+202E (Cf), surrogates (Cs), private
    and unassigned ones, whose width nobody knows.
    """
    return unicodedata.category(char)[0] == "C" or char in _SEPARATORS


def line(text: str) -> str:
    """``text`` as one line of which a terminal obeys nothing; what is unfit becomes "?"."""
    # What nearly all strings are; category() of each character costs 30 times as much.
    if text.isascii() and text.isprintable():
        return text
    return "".join(MARK if unfit(char) else char for char in text)


def escaped(text: str) -> str:
    """The same for a file, where no width counts: what is unfit becomes an escape, ``\\x1b``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(char) if unfit(char) else char for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
