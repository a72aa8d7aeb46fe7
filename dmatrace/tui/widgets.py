"""Widgets that draw only what changed: of a view that is drawn every second, little does.

A layout of the whole screen and the lines of a table cost most of an update, so text
asks for a layout only where its height changed, and a table keeps the lines of rows
whose cells are what they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from rich.cells import cell_len
from rich.text import Text
from textual.binding import Binding
from textual.coordinate import Coordinate
from textual.strip import Strip
from textual.widgets import DataTable, Static

#: Lines of a table that are kept; a screen has fewer.
_KEPT = 500


class Words(Static):
    """Text whose lines fit: as many as it has is its height."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._text = Text()

    def show(self, text: Text) -> None:
        """Draw ``text``; nothing where it is what is there."""
        old, self._text = self._text, text
        if same(text, old):
            return
        height = self._height(text)
        self.update(text, layout=height is None or height != self._height(old))

    def _height(self, text: Text) -> int | None:
        """In lines; None where one is wrapped."""
        lines = text.plain.split("\n")
        fits = all(cell_len(line) <= self.content_size.width for line in lines)
        return len(lines) if fits else None


class Sentence(Static):
    """Text that is wrapped."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._text = ""

    def show(self, text: str) -> None:
        """Draw ``text``, or nothing at all where it is empty."""
        if text != self._text:
            self._text = text
            self.update(Text(text))
        self.display = bool(text)


class Head(NamedTuple):
    """A column: its key, its head, its width in cells, and whether it is right-aligned."""

    key: str
    text: str
    width: int
    right: bool


Row = tuple[str, tuple[Text, ...]]


class Table(DataTable[Text]):
    """A table whose rows keep their place, their cursor and their cells from update to update."""

    # The base class means the first and the last column, which a cursor of rows never leaves.
    BINDINGS: ClassVar = [
        Binding("home", "scroll_top", "first", show=False),
        Binding("end", "scroll_bottom", "last", show=False),
        # The base class hides it, and with it the view's own from the footer.
        Binding("enter", "select_cursor", "detail"),
    ]

    def __init__(self, **options: Any) -> None:
        super().__init__(
            cursor_type="row", cell_padding=0, show_row_labels=False, zebra_stripes=False, **options
        )
        self._shown: list[Row] = []
        self._heads: tuple[Head, ...] = ()
        self._versions: list[int] = []  # of each row
        self._version = 0  # of the newest
        self._strips: dict[tuple[object, ...], Strip] = {}
        self.filling = False

    def show(
        self, heads: Sequence[tuple[str, str, int, bool]], rows: Sequence[Row], current: str
    ) -> None:
        """Draw rows (key, cells) under heads (key, text, width, right-aligned)."""
        self.filling = True
        try:
            self._show(tuple(Head(*head) for head in heads), list(rows), current)
        finally:
            self.filling = False

    def _show(self, heads: tuple[Head, ...], rows: list[Row], current: str) -> None:
        keys, old = [key for key, _ in rows], [key for key, _ in self._shown]
        alike = heads == self._heads and keys[: len(old)] == old and bool(old or not rows)
        if alike:
            for n, ((_, new), (_, was)) in enumerate(zip(rows, self._shown, strict=False)):
                if new is was:
                    continue
                changed = [m for m, cell in enumerate(new) if not same(cell, was[m])]
                if changed:
                    self._version += 1
                    self._versions[n] = self._version
                for m in changed:
                    self.update_cell_at(Coordinate(n, m), _aligned(new[m], heads[m]))
            self._add(rows[len(old) :], heads)
        else:
            top = self.scroll_y
            self.clear(columns=heads != self._heads)
            if heads != self._heads:
                for key, text, width, right in heads:
                    self.add_column(
                        Text(text, justify="right" if right else "left"), width=width, key=key
                    )
            self._versions.clear()
            self._strips.clear()
            self._add(rows, heads)
            self.scroll_to(y=top, animate=False)
        self._heads, self._shown = heads, rows
        if current in keys and self.cursor_row != keys.index(current):
            self.move_cursor(row=keys.index(current), animate=False, scroll=keys != old)

    def _add(self, rows: Sequence[Row], heads: tuple[Head, ...]) -> None:
        """Rows below those that are there: a load that begins leaves the others as they are."""
        if not rows:
            return
        for key, cells in rows:
            self.add_row(*(_aligned(c, h) for c, h in zip(cells, heads, strict=True)), key=key)
        self._version += 1
        self._versions += [self._version] * len(rows)

    @property
    def current(self) -> str:
        """The key of the row that the cursor is on; "" where there is none."""
        keys = [key for key, _ in self._shown]
        return keys[self.cursor_row] if 0 <= self.cursor_row < len(keys) else ""

    def render_line(self, y: int) -> Strip:
        """A line of the screen: the one that was drawn where its row is what it was.

        The base class forgets all lines when one cell changes.  Under the mouse it
        highlights what it points at, and draws for itself.
        """
        row = y - self.header_height + (self.scroll_offset.y if y >= self.header_height else 0)
        if self.mouse_hover or row >= len(self._versions):
            return super().render_line(y)
        key = (
            row,
            self._versions[row] if row >= 0 else -1,
            self.has_focus,
            row == self.cursor_row,
            self.scroll_offset.x,
            self.size.width,
            self.rich_style,
        )
        strip = self._strips.get(key)
        if strip is None:
            if len(self._strips) >= _KEPT:
                self._strips.clear()
            strip = self._strips[key] = super().render_line(y)
        return strip

    def notify_style_update(self) -> None:
        """Another theme, or another state: no line is what it was."""
        super().notify_style_update()
        self._strips.clear()


def same(text: Text, other: Text) -> bool:
    """Whether two texts look the same: words and styles."""
    return (text.plain, text.spans, text.style) == (other.plain, other.spans, other.style)


def _aligned(cell: Text, head: Head) -> Text:
    found = cell.copy()
    found.justify = "right" if head.right else "left"
    # Cells have no padding: what is left-aligned keeps one from its right neighbour.
    return found
