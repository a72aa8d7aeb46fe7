"""The five views: widgets that draw a snapshot and know nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import DataTable

from dmatrace.sizes import format_ns
from dmatrace.tui import draw, filepages, order, pages
from dmatrace.tui.model import FileLoad, Load, Snapshot, Thread, Times
from dmatrace.tui.widgets import Sentence, Table, Words

_Head = tuple[str, str, int, bool]


class _Drawn(NamedTuple):
    """A row, and what it was drawn of."""

    of: Load | FileLoad
    selected: bool
    branch: str
    row: tuple[Text, ...]


class State:
    """What the user chose: shared by the views, changed by the app alone."""

    def __init__(self) -> None:
        self.selected = ""
        self.pattern = ""
        self.sort = ""
        self.backwards = False
        self.expanded: set[int] = set()  # tids

    def loads(self, snapshot: Snapshot) -> Sequence[Load]:
        """The loads to show, in order."""
        return order.chosen(snapshot.loads, self.pattern, self.sort, backwards=self.backwards)

    def files(self, load: Load) -> Sequence[FileLoad]:
        """The files to show below a load, in order."""
        return order.files(load, self.pattern, self.sort, backwards=self.backwards)

    def load(self, snapshot: Snapshot) -> Load | None:
        """The selected load, or whose file is; the first where it is gone."""
        shown = self.loads(snapshot)
        for load in shown:
            if load.key == self.selected.partition("/")[0]:
                return load
        return shown[0] if shown else None

    def file(self, snapshot: Snapshot) -> FileLoad | None:
        """The selected file of the selected load; None where that is the load itself."""
        load = self.load(snapshot)
        shown = self.files(load) if load is not None else ()
        return next((file for file in shown if file.key == self.selected), None)


class View(Vertical):
    """One of the five; ``draw`` is called with every snapshot while it is seen."""

    title = ""

    class Chosen(Message):
        """The user moved to a load."""

        def __init__(self, key: str) -> None:
            super().__init__()
            self.key = key

    class Opened(Message):
        """The user wants a load's details."""

    class Sorted(Message):
        """The user clicked a column's head."""

        def __init__(self, key: str) -> None:
            super().__init__()
            self.key = key

    def __init__(self, state: State, view_id: str) -> None:
        super().__init__(id=view_id)
        self.state = state

    def draw(self, snapshot: Snapshot) -> None:
        """Show this."""
        raise NotImplementedError

    def empty(self, snapshot: Snapshot) -> str:
        """A sentence that says what to do where there is nothing to show."""
        if snapshot.state == "starting":
            return f"Starting: {snapshot.note} ..."
        if self.state.pattern:
            return f'No load matches "{self.state.pattern}". Press / to change it, Esc to clear it.'
        if snapshot.state == "ended":
            return "This recording has no loads. Press q to leave."
        return "Nothing is being loaded yet. Start a load in the traced process: it shows here."


class Loads(View):
    """One row per load, with its files; below, what each costs on one scale of time."""

    title = "Loads"

    def __init__(self, state: State, view_id: str) -> None:
        super().__init__(state, view_id)
        self._drawn_rows: dict[str, _Drawn] = {}  # by key
        self._drawn_for: object = None  # what they all were drawn for

    def compose(self) -> ComposeResult:
        yield Sentence(classes="empty")
        yield Table(id="loads-table")
        yield Words(id="race-title", classes="title")
        yield Words(id="race")

    def draw(self, snapshot: Snapshot) -> None:
        loads = self.state.loads(snapshot)
        show_empty(self, "" if loads else self.empty(snapshot))
        table = self.query_one(Table)
        width = self.app.size.width
        columns = order.columns(width, snapshot)
        for widget in (table, *self.query("#race-title, #race")):
            widget.display = bool(loads)
        if not loads:
            return
        heads = self._heads(columns, width)
        current = self.state.load(snapshot)
        file = self.state.file(snapshot)
        selected = file.key if file else current.key if current else ""
        rows = self._rows(loads, columns, heads, snapshot.hidden, selected)
        # "auto" is what the table knows of itself, now and then too late for the layout.
        table.styles.height = len(rows) + 1
        table.show(heads, rows, selected)
        self.query_one("#race-title", Words).show(
            Text("where the time went, on one scale  ", "bold").append_text(draw.legend())
        )
        # What the table and the titles leave, once they are laid out.
        room = max(self.size.height - min(len(rows) + 1, self.size.height // 2) - 3, 3)
        self.query_one("#race", Words).show(self._race(loads, current, width - 2, room))

    def _rows(
        self,
        loads: Sequence[Load],
        columns: Sequence[order.Column],
        heads: Sequence[_Head],
        hidden: frozenset[str],
        selected: str,
    ) -> list[tuple[str, tuple[Text, ...]]]:
        """A load's row, and its files'; that of a load that is what it was is the same object.

        Of a thousand loads one or two run: to draw the others anew at each refresh took 66 ms of
        CPU, and where Python is emulated longer than the interval.
        """
        context = (columns, heads, hidden)
        old = self._drawn_rows if context == self._drawn_for else {}
        self._drawn_for, self._drawn_rows = context, {}
        cells = [column.cell for column in columns]
        mine = [filepages.CELLS[column.key] for column in columns]
        rows = []

        def add(what: Load | FileLoad, cells: Sequence[Any], branch: str) -> None:
            here = what.key == selected
            drawn = old.get(what.key)
            fits = drawn and (drawn.selected, drawn.branch) == (here, branch)
            if drawn is None or not fits or drawn.of is not what:
                row = _row(what, cells, columns, heads, hidden, here, branch)
                drawn = _Drawn(what, here, branch, row)
            self._drawn_rows[what.key] = drawn
            rows.append((what.key, drawn.row))

        for load in loads:
            add(load, cells, "")
            files = self.state.files(load)
            for each in files:
                add(each, mine, "└ " if each is files[-1] else "├ ")
        return rows

    def _heads(self, columns: Sequence[order.Column], width: int) -> list[_Head]:
        """(key, text, width, right-aligned); what is left over is for names and verdicts."""
        spare = width - 3 - sum(column.width + 1 for column in columns)
        more = {"load": max(0, min(spare, 20))}
        if columns[-1].width == order.VERDICT:  # so that it says what files go into
            said = max(0, min(spare - 4, 14))
            more = {"load": max(0, min(spare - said, 20)), "verdict": said}
        heads = []
        for column in columns:
            mark = ""
            if column.key == self.state.sort:
                mark = "▼" if self.state.backwards else "▲"
            lead = "" if column.right or column.key == "load" else " "
            wide = column.width + 1 + more.get(column.key, 0)
            heads.append((column.key, lead + column.head + mark, wide, column.right))
        return heads

    @staticmethod
    def _race(loads: Sequence[Load], current: Load | None, width: int, height: int) -> Text:
        """All loads on one scale; below, where there is room, the current one's phases."""
        timed = sum(1 for load in loads if load.total)
        lines = min(max(timed, 1), max(height // 2, 3))
        text = draw.race(loads, current.key if current else "", width, lines)
        below = height - lines - 2
        if current is None or not current.total or below < 2:
            return text
        text.append(f"\n\n{draw.label(current)}: phases, longest first\n", "bold")
        return text.append_text(pages.phases(current, width, below - 1))

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        table = self.query_one(Table)
        key = event.row_key.value if event.row_key is not None else None
        # Rows that are put in another order move the cursor twice: the first move is over by now,
        # and to follow it would move the cursor back, for ever.
        moved = key is not None and key == table.current and key != self.state.selected
        if key is not None and moved and not table.filling and table.has_focus:
            self.post_message(self.Chosen(key))

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        self.post_message(self.Opened())

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        self.post_message(self.Sorted(event.column_key.value or ""))


class Time(View):
    """The selected load's phases; each of its threads can be opened."""

    title = "Time"

    _HEADS = (
        ("phase", "phase", 19, False), ("time", "time", 9, True), ("share", "share", 6, True),
        ("cpu", "cpu", 9, True), ("blocked", "blocked", 9, True), ("runnable", "runnable", 9, True),
    )  # fmt: skip

    def compose(self) -> ComposeResult:
        yield Sentence(classes="empty")
        yield Words(id="time-title", classes="title")
        yield Table(id="time-table")
        yield Words(id="time-legend", classes="title")

    def draw(self, snapshot: Snapshot) -> None:
        load = self.state.load(snapshot)
        some = load is not None and bool(load.total)
        why = self.empty(snapshot)
        if load is not None and not some:
            why = f"{draw.label(load)} ({load.state}): no time was recorded. {load.note}".strip()
        show_empty(self, "" if some else why)
        for widget in self.query("#time-title, #time-table, #time-legend"):
            widget.display = some
        if load is None or not some:
            return
        count = len(load.threads)
        wall = sum(thread.wall for thread in load.threads)
        closes = f"{100 * load.total / wall:.1f}% of {format_ns(wall)}" if wall else UNKNOWN_WALL
        self.query_one("#time-title", Words).show(
            Text(draw.facts(load), "bold").append(
                f"\nphases add up to {closes} that {count} thread{'s' if count != 1 else ''} took"
                "; Enter opens a thread",
                "dim",
            )
        )
        room = max(self.app.size.width - 2 - sum(head[2] for head in self._HEADS) - 1, 6)
        heads = (*self._HEADS, ("bar", " of all", room + 1, False))
        rows = list(self._rows(load, room))
        table = self.query_one(Table)
        keys = [key for key, _ in rows]
        now = table.cursor_row
        table.show(heads, rows, keys[now] if 0 <= now < len(keys) else "")
        self.query_one("#time-legend", Words).show(draw.legend())

    def _rows(self, load: Load, room: int) -> Any:
        yield from _phase_rows(load.phases, "", room)
        whole = draw.summed(load.phases)
        yield "=", _cells(whole, Text("all", "bold"), "100%", whole.total, room)
        shares = draw.shares([thread.total for thread in load.threads])
        for thread, share in zip(load.threads, shares, strict=True):
            open_ = thread.tid in self.state.expanded
            name = Text(f"{'▾' if open_ else '▸'} {draw.fit(_named(thread), 16)}")
            mine = draw.summed(thread.phases)
            yield f"t{thread.tid}", _cells(mine, name, share, whole.total, room)
            if open_:
                yield from _phase_rows(merged_one(thread), f"t{thread.tid} ", room)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        key = event.row_key.value or ""
        if key.startswith("t") and key[1:].isdecimal():
            self.state.expanded ^= {int(key[1:])}
            self.post_message(self.Chosen(self.state.selected))
        else:
            self.post_message(self.Opened())


def _row(
    what: Any, cells: Sequence[Any], columns: Sequence[order.Column], heads: Sequence[_Head],
    hidden: frozenset[str], selected: bool, branch: str = "",
) -> tuple[Text, ...]:  # fmt: skip
    """The cells of a load, or of a file on its ``branch``, under their heads."""
    found = []
    for column, cell, head in zip(columns, cells, heads, strict=True):
        room = head[2] - 1
        if column.key == "load":
            lead = Text("▶ " if selected else "  ").append(branch, "dim")
            found.append(lead.append_text(cell(what, hidden, room - len(lead))))
        else:
            drawn = cell(what, hidden, room)
            found.append(drawn if column.right else Text(" ").append_text(drawn))
    return tuple(found)


UNKNOWN_WALL = "what was seen"


def merged_one(thread: Thread) -> tuple[Times, ...]:
    """A thread's phases, the longest first."""
    return tuple(sorted(thread.phases, key=lambda times: (-times.total, times.phase)))


def _named(thread: Thread) -> str:
    worker = "worker " if thread.owner else ""
    return f"{worker}{thread.tid} {thread.comm}"


def _phase_rows(phases: Sequence[Times], prefix: str, room: int) -> Any:
    whole = sum(times.total for times in phases)
    shares = draw.shares([times.total for times in phases])
    for times, share in zip(phases, shares, strict=True):
        indent = "    " if prefix else ""
        name = Text(f"{indent}{draw.fit(times.phase, 18 - len(indent))}")
        yield f"{prefix}{times.phase}", _cells(times, name, share, whole, room)


def _cells(times: Times, name: Text, share: str, full: int, room: int) -> tuple[Text, ...]:
    figures = (format_ns(times.total), share, draw.ns(times.cpu), draw.ns(times.blocked))
    drawn = Text(" ").append_text(draw.bar(draw.kinds(times), full, room))
    return (name, *map(Text, figures), Text(draw.ns(times.runnable)), drawn)


def show_empty(view: View, text: str) -> None:
    """The sentence in the place of a view; "" for none."""
    view.query_one(".empty", Sentence).show(draw.plain(text))
