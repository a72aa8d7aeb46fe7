"""Text in terminal cells: cutting, wrapping, bars, colour.

Names of strategies, files and threads come from outside, so whatever could
move the cursor or take no or two cells is dealt with here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from dmatrace import safe

WIDTH = 79  # the widest line: a terminal of 80 columns wraps at 80 in some modes

_CODES = {"bold": "1", "cpu": "32", "blocked": "33", "runnable": "35", "bad": "1;31"}
_FILL = {"cpu": "█", "blocked": "▒", "runnable": "░"}
_FILL_ASCII = {"cpu": "#", "blocked": "-", "runnable": "."}


def cells(text: str) -> int:
    """How many terminal cells ``text`` takes."""
    return len(text) if text.isascii() else sum(_cells_of(char) for char in text)


def _cells_of(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


@dataclass(frozen=True)
class Style:
    """How to print: with colour or not, in ASCII or not."""

    color: bool = False
    ascii: bool = False

    @property
    def plus_minus(self) -> str:
        """What stands before an interval."""
        return "+-" if self.ascii else "±"

    def paint(self, text: str, name: str) -> str:
        """``text`` in a colour, which never carries meaning alone."""
        return f"\033[{_CODES[name]}m{text}\033[0m" if self.color and text else text

    def plain(self, text: str) -> str:
        """``text`` without control characters (a file name may hold escape sequences)."""
        text = safe.line(text)
        if self.ascii and not text.isascii():
            return "".join(char if char.isascii() else safe.MARK for char in text)
        return text

    def cut(self, text: str, width: int) -> str:
        """``text`` made plain, shortened to ``width`` cells with a mark where it is."""
        text = self.plain(text)
        if cells(text) <= width:
            return text
        mark = "~" if self.ascii else "…"
        kept, used = "", 0
        for char in text:
            used += _cells_of(char)
            if used > width - 1:
                break
            kept += char
        return (kept + mark)[: max(width, 0)]

    def left(self, text: str, width: int) -> str:
        """``text`` in a column of ``width`` cells, left-aligned."""
        text = self.cut(text, width)
        return text + " " * (width - cells(text))

    def right(self, text: str, width: int) -> str:
        """``text`` in a column of ``width`` cells, right-aligned."""
        text = self.cut(text, width)
        return " " * (width - cells(text)) + text

    def bar(self, parts: Sequence[tuple[str, int]], full: int, width: int) -> str:
        """A bar of (kind, amount) segments; ``full`` is the amount that fills ``width``."""
        drawn, result, amount = 0, "", 0
        for kind, part in parts:
            amount += max(part, 0)
            # From the running sum, so that rounding does not add up.
            end = min(width, (2 * amount * width + full) // (2 * full)) if full > 0 else 0
            result += self.paint(self.fill(kind) * (end - drawn), kind)
            drawn = end
        return result

    def fill(self, kind: str) -> str:
        """The character a kind of time is drawn with."""
        return (_FILL_ASCII if self.ascii else _FILL)[kind]

    def wrap(self, text: str, indent: str = "", first: str | None = None) -> list[str]:
        """Lines of at most WIDTH cells; words too long for one are broken."""
        lines: list[str] = []
        line = indent if first is None else first
        empty = True
        for word in self.plain(text).split():
            if not empty and cells(line) + 1 + cells(word) > WIDTH:
                lines.append(line)
                line, empty = indent, True
            line += word if empty else " " + word
            empty = False
            while cells(line) > WIDTH:
                # From the front: a name may be thousands of characters long.
                kept, used = 0, 0
                while used + _cells_of(line[kept]) <= WIDTH:
                    used += _cells_of(line[kept])
                    kept += 1
                lines.append(line[:kept])
                line = indent + line[kept:]
        if not empty or not lines:
            lines.append(line)
        return [line.rstrip() for line in lines]
