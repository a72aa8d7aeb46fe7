"""HTML from strings and numbers; whatever comes from outside is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dmatrace.safe import escaped
from dmatrace.sizes import format_ns, format_size

_SHORT = 14  # rows of a table that a printed page does not divide
_LONG = 32  # characters of a cell that may take several lines


@dataclass(frozen=True)
class Cell:
    """A figure: as it is read, and exactly (``data`` element's value)."""

    shown: str
    value: int | float | None = None
    bad: bool = False


def ns(value: int | None) -> Cell:
    """A time."""
    return Cell("-") if value is None else Cell(format_ns(value), value)


def size(value: int | None) -> Cell:
    """A number of bytes."""
    return Cell("-") if value is None else Cell(format_size(value), value)


def number(value: float | None, shown: str = "") -> Cell:
    """A count or a ratio."""
    return Cell("-") if value is None else Cell(shown or f"{value:,}", value)


def text(value: object) -> str:
    """``value`` as text of a page."""
    return html.escape(escaped(str(value)))


def paragraph(value: object, kind: str = "") -> str:
    """A paragraph of text."""
    return f"<p{_class(kind)}>{text(value)}</p>"


def heading(value: object, where: str = "") -> str:
    """A section's heading, which ``where`` leads to, or that of a part of it."""
    return f'<h2 id="{where}">{text(value)}</h2>' if where else f"<h3>{text(value)}</h3>"


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[Cell | str]], *, key: str = ""
) -> str:
    """A table; the first column heads the row.  ``key`` is a name for scripts."""
    lines = list(rows)
    if not lines:
        return ""
    marks = [isinstance(cell, Cell) for cell in lines[0]]
    data = f' data-table="{key}"' if key else ""
    kind = _class("table short" if len(lines) <= _SHORT else "table")
    out = [f"<div{kind}><table{data}><caption><span>{text(caption)}</span></caption><thead><tr>"]
    for head, numeric in zip(heads, marks, strict=True):
        out.append(f"<th{_class('number' if numeric else '')} scope=col>{text(head)}</th>")
    out.append("</tr></thead><tbody>")
    for line in lines:
        first, *others = line
        shown = first.shown if isinstance(first, Cell) else first
        out.append(f"<tr><th scope=row>{text(shown)}</th>")
        out += (_cell(cell) for cell in others)
        out.append("</tr>")
    out.append("</tbody></table></div>")
    return "".join(out)


def _cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return f"<td{_class('text long' if len(cell) > _LONG else 'text')}>{text(cell)}</td>"
    kind = _class("number bad" if cell.bad else "number")
    if cell.value is None:
        return f"<td{kind}>{text(cell.shown)}</td>"
    return f'<td{kind}><data value="{cell.value}">{text(cell.shown)}</data></td>'


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
