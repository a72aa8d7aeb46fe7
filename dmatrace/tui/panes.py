"""The views that are pictures, or lists of other things than loads."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import DataTable

from dmatrace.sizes import format_ns, short_size
from dmatrace.tui import draw, pages
from dmatrace.tui.model import Buffer, Load, Snapshot
from dmatrace.tui.views import Loads, Time, View, show_empty
from dmatrace.tui.widgets import Sentence, Table, Words


class Picture(View):
    """A view that is one text, which scrolls."""

    def compose(self) -> ComposeResult:
        yield Sentence(classes="empty")
        with VerticalScroll():
            yield Words(classes="picture")

    def draw(self, snapshot: Snapshot) -> None:
        load = self.state.load(snapshot)
        scroll = self.query_one(VerticalScroll)
        show_empty(self, "" if load is not None else self.empty(snapshot))
        scroll.display = load is not None
        if load is not None:
            text = self.picture(snapshot, load, self.app.size.width - 4)
            self.query_one(".picture", Words).show(text)

    def picture(self, snapshot: Snapshot, load: Load, width: int) -> Text:
        """The text."""
        raise NotImplementedError


class Memory(Picture):
    """What is held where, over time."""

    title = "Memory"

    def picture(self, snapshot: Snapshot, load: Load, width: int) -> Text:
        return pages.memory(snapshot, load, width)


class Io(Picture):
    """The disk's side of the selected load."""

    title = "I/O"

    def picture(self, snapshot: Snapshot, load: Load, width: int) -> Text:
        return pages.io(snapshot, load, width)


class Buffers(View):
    """The dma-bufs, who made each and whether it is still held."""

    title = "Buffers"

    _FIRST = (
        ("ino", "inode", 7, True), ("size", "size", 7, True), ("exporter", " exporter", 16, False),
        ("process", "made by", 16, False),
    )  # fmt: skip
    _LOAD = ("load", "load", 18, False)
    _HOLDERS = ("holders", "held by", 18, False)
    _BOTH = 110  # columns of the terminal that have room for both

    def compose(self) -> ComposeResult:
        yield Sentence(classes="empty")
        yield Words(id="buffers-title", classes="title")
        yield Table(id="buffers-table")

    def draw(self, snapshot: Snapshot) -> None:
        found = snapshot.buffers
        why = "No dma-buf was exported yet. Loads of dmabuf-* and udmabuf-* make some."
        if "dmabuf" in snapshot.hidden:
            why = "Hidden: dma_buf_export is not attached, so dma-bufs are not seen. Press h."
        elif snapshot.state == "starting":
            why = self.empty(snapshot)
        show_empty(self, "" if found else why)
        for widget in self.query("#buffers-title, #buffers-table"):
            widget.display = bool(found)
        if not found:
            return
        held = [buffer for buffer in found if not buffer.end]
        title = Text(f"{len(held)} held, {short_size(sum(b.size for b in held))}", "bold")
        title.append(f"; {len(found) - len(held)} released")
        if "release" in snapshot.hidden:
            title.append("; releases are hidden: what is held may be gone", "yellow")
        self.query_one("#buffers-title", Words).show(title)
        names = {str(load.load_id): draw.label(load) for load in snapshot.loads}
        looked = any(buffer.holders is not None for buffer in found)
        width = self.app.size.width
        more = [self._LOAD] if not looked or width >= self._BOTH else []
        more += [self._HOLDERS] if looked else []
        room = max(width - 2 - sum(head[2] for head in (*self._FIRST, *more)), 10)
        if looked and width >= self._BOTH:  # what is left is the holders'
            more[-1] = ("holders", "held by", room // 2 + 8, False)
            room -= room // 2 - 10
        heads = (*self._FIRST, *more, ("state", "state", room, False))
        rows = []
        for buffer in found:
            cells = [
                str(buffer.ino),
                short_size(buffer.size) if buffer.size else "?",
                f" {draw.fit(buffer.exporter, 14)}",
                draw.fit(f"{buffer.pid} {buffer.comm}" if buffer.pid else "before us", 15),
            ]
            for key, _, wide, _ in more:
                text = _holders(buffer) if key == "holders" else names.get(buffer.load, "-")
                cells.append(draw.fit(text, wide - 1))
            cells.append(draw.fit(_state(buffer, snapshot.now), room))
            style = "dim" if buffer.end else "bold"
            rows.append((f"{buffer.ino} {buffer.start}", tuple(Text(c, style) for c in cells)))
        table = self.query_one(Table)
        keys = [key for key, _ in rows]
        now = table.cursor_row
        table.show(heads, rows, keys[now] if 0 <= now < len(keys) else "")

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()


def _state(buffer: Buffer, now: int) -> str:
    if not buffer.start:
        return "held"
    lived = format_ns((buffer.end or now) - buffer.start)
    return f"{'released' if buffer.end else 'held'} {lived}"


def _holders(buffer: Buffer) -> str:
    """Who keeps it, when the last load had its buffer full."""
    if buffer.holders is None:
        return draw.UNKNOWN
    return ", ".join(
        f"{each.pid} {each.comm}" + (" (maps it)" if each.mapped and not each.fds else "")
        for each in buffer.holders
    ) or ("no process" if not buffer.end else draw.UNKNOWN)


VIEWS: tuple[type[View], ...] = (Loads, Time, Memory, Io, Buffers)
