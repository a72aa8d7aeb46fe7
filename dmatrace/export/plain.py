"""Strings from outside (file names, thread names, errors) made fit for text formats."""

from __future__ import annotations

import unicodedata


def plain(text: str) -> str:
    """``text`` with what moves cursors, breaks lines or reorders text written as an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(char) if _unfit(char) else char for char in text)


def _unfit(char: str) -> bool:
    return unicodedata.category(char)[0] == "C" or char in "\u2028\u2029"


def _escaped(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
