"""The view: a Textual application over one source of snapshots."""

from __future__ import annotations

import signal
import threading
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.screen import Screen
from textual.widgets import ContentSwitcher, DataTable, Footer, Static

from dmatrace.errors import DmatraceError
from dmatrace.garbage import seldom
from dmatrace.tui import draw, export, filepages, head, order, pages
from dmatrace.tui.keys import KEYS
from dmatrace.tui.model import Snapshot
from dmatrace.tui.panes import VIEWS
from dmatrace.tui.screens import Ask, Sheet, help_text
from dmatrace.tui.source import Source
from dmatrace.tui.views import State, View
from dmatrace.tui.widgets import Words

_NAMES = tuple(view.title.lower().replace("/", "") for view in VIEWS)
#: Actions that need a player; elsewhere their keys are neither shown nor heard.
_PLAYER = ("step", "speed", "jump", "go_to")


class Arrived(Message):
    """A new snapshot, from the reading thread."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.snapshot = snapshot


class Broke(Message):
    """The source has ended with an error."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class Top(App[None]):
    """``dmatrace top``.  ``error`` is why it ended, if not because the user left."""

    TITLE = "dmatrace top"
    CSS_PATH = "top.tcss"
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar = list(KEYS)

    def __init__(
        self, source: Source, *, interval: float = 1.0, export_to: Path | None = None
    ) -> None:
        super().__init__()
        self.source = source
        self.interval = interval
        self.chosen = State()
        self.snapshot: Snapshot | None = None
        self.error: BaseException | None = None
        self.current = "loads"
        self._export_to = export_to or Path.cwd()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._drawn = threading.Event()

    def compose(self) -> ComposeResult:
        yield Words(id="head")
        yield Static(id="tabs")
        with ContentSwitcher(initial="loads"):
            for name, view in zip(_NAMES, VIEWS, strict=True):
                yield view(self.chosen, name)
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        self._tabs()
        self.run_worker(self._reading, thread=True, exit_on_error=False)

    def on_unmount(self) -> None:
        self._stop.set()
        self._drawn.set()
        self._wake.set()

    def _reading(self) -> None:
        """In a thread of its own: a snapshot every interval, and at once when asked.

        Not before the last one is drawn: where that takes longer than the interval, snapshots
        would wait in a queue that grows, keys behind them, and the screen, which is painted when
        the queue is empty, would stand still.
        """
        while not self._stop.is_set():
            try:
                snapshot = self.source.read()
            except BaseException as error:
                self.post_message(Broke(error))
                return
            self._drawn.clear()
            if not self._stop.is_set() and self.post_message(Arrived(snapshot)):
                self._drawn.wait()
            self._wake.wait(self.interval)
            self._wake.clear()

    def refresh_now(self) -> None:
        """Do not wait for the interval."""
        self._wake.set()

    def on_arrived(self, message: Arrived) -> None:
        first = self.snapshot is None or (
            (self.snapshot.transport is None) != (message.snapshot.transport is None)
        )
        self.snapshot = message.snapshot
        try:
            self._redraw()
        finally:
            self._drawn.set()
        if first:
            self.refresh_bindings()

    def on_broke(self, message: Broke) -> None:
        self.error = message.error
        self.exit()

    def on_resize(self) -> None:
        self.call_after_refresh(self._redraw)

    def _redraw(self) -> None:
        base = self.screen_stack[0] if self.screen_stack else None
        # The last snapshot may come while the screens are being taken down.
        if self.snapshot is None or base is None or not base.query("#head"):
            return
        line = head.head(self.snapshot, self.chosen, self.size.width)
        base.query_one("#head", Words).show(line)
        base.query_one(f"#{self.current}", View).draw(self.snapshot)
        self._focus(base)
        if isinstance(self.screen, Sheet):
            self.screen.draw(self.snapshot)

    def _focus(self, base: Screen[Any]) -> None:
        """The arrows move what the view shows: a table that was hidden has lost them."""
        shown = [w for w in base.query(f"#{self.current} *") if w.focusable]
        wanted = shown[-1] if shown else None
        if base.focused is not wanted:
            base.set_focus(wanted)

    def _tabs(self) -> None:
        parts = []
        for number, (name, view) in enumerate(zip(_NAMES, VIEWS, strict=True), start=1):
            here = name == self.current
            text = f"[{view.title}]" if here else f" {view.title} "
            parts.append(
                Content.from_markup(
                    f"[{'bold reverse' if here else ''} @click=app.view('{name}')]$n$text[/]"
                    if here
                    else f"[@click=app.view('{name}')]$n$text[/]",
                    n=f" {number} ",
                    text=text,
                )
            )
        self.screen_stack[0].query_one("#tabs", Static).update(Content("").join(parts))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys act on the views only while no other screen covers them."""
        own = {binding.action.partition("(")[0] for binding in KEYS}
        if action in own and len(self.screen_stack) > 1:
            return action in ("command_palette", "suspend_process")
        return self._offers(action)

    def _offers(self, action: str) -> bool:
        """Whether what is shown has a use for it."""
        if action in _PLAYER:
            return self.snapshot is not None and self.snapshot.transport is not None
        if action == "hidden":
            return self.snapshot is not None and bool(self.snapshot.missing)
        return True

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The palette: the bindings' own table, and the themes."""
        found = [
            SystemCommand(binding.description.capitalize(), binding.tooltip, _caller(self, binding))
            for binding in KEYS
            if binding.id not in ("palette", "escape", "down", "up")
            and self._offers(binding.action.partition("(")[0])
        ]
        return [*found, SystemCommand("Theme", "change the colours", self.action_change_theme)]

    def on_view_chosen(self, message: View.Chosen) -> None:
        self.chosen.selected = message.key
        self._redraw()

    def on_view_opened(self, _message: View.Opened) -> None:
        self.action_detail()

    def on_view_sorted(self, message: View.Sorted) -> None:
        if self.chosen.sort == message.key:
            self.chosen.backwards = not self.chosen.backwards
        else:
            self.chosen.sort, self.chosen.backwards = message.key, False
        self._redraw()

    def action_pause(self) -> None:
        if self.snapshot is not None:
            ended = self.snapshot.state == "ended" and self.snapshot.transport is not None
            self.source.pause(not (self.snapshot.paused or ended))
            self.refresh_now()

    def action_step(self, samples: int) -> None:
        self.source.step(samples)
        self.refresh_now()

    def action_speed(self, steps: int) -> None:
        self.source.faster(steps)
        self.refresh_now()

    def action_jump(self, step: int) -> None:
        self.source.load(step)
        self.refresh_now()

    def action_go_to(self) -> None:
        self.push_screen(Ask("go to: seconds (12.5) or a share (50%)"), self._go_to)

    def _go_to(self, text: str | None) -> None:
        transport = self.snapshot.transport if self.snapshot else None
        if not text or transport is None:
            return
        try:
            if text.endswith("%"):
                at = transport.length * float(text[:-1]) / 100
            else:
                at = float(text.removesuffix("s")) * 1e9
            # Before the first and behind the last moment is there.
            found = int(min(max(at, 0.0), float(transport.length)))
        except ValueError:  # also of nan
            self.notify(f"not a time: {draw.plain(text)}", severity="error", markup=False)
            return
        self.source.jump(found)
        self.refresh_now()

    def action_sort(self) -> None:
        self.action_column(1)

    def action_column(self, step: int) -> None:
        shown = ["", *(column.key for column in order.columns(self.size.width, self.snapshot))]
        place = shown.index(self.chosen.sort) if self.chosen.sort in shown else 0
        self.chosen.sort = shown[(place + step) % len(shown)]
        self._redraw()

    def action_reverse(self) -> None:
        self.chosen.backwards = not self.chosen.backwards
        self._redraw()

    def action_filter(self) -> None:
        self.push_screen(Ask("show loads with these words", self.chosen.pattern), self._filter)

    def _filter(self, text: str | None) -> None:
        if text is None:
            return  # Esc: as it was
        self.chosen.pattern = text.strip()
        self._redraw()

    def action_view(self, name: str) -> None:
        self.current = name
        base = self.screen_stack[0]
        base.query_one(ContentSwitcher).current = name
        self._tabs()
        self._redraw()

    def action_panel(self, step: int) -> None:
        self.action_view(_NAMES[(_NAMES.index(self.current) + step) % len(_NAMES)])

    def action_load(self, step: int) -> None:
        if self.snapshot is None:
            return
        keys = [load.key for load in self.chosen.loads(self.snapshot)]
        now = self.chosen.load(self.snapshot)
        if now is not None:
            place = min(max(keys.index(now.key) + step, 0), len(keys) - 1)
            self.chosen.selected = keys[place]
            self._redraw()

    def action_move(self, step: int) -> None:
        widget = self.focused
        if isinstance(widget, DataTable):
            widget.action_cursor_down() if step > 0 else widget.action_cursor_up()
        elif isinstance(widget, VerticalScroll):
            widget.scroll_relative(y=step, animate=False)

    def action_detail(self) -> None:
        if self.snapshot is None or self.chosen.load(self.snapshot) is None:
            return

        def text(snapshot: Snapshot, width: int) -> Text:
            load = self.chosen.load(snapshot)
            file = self.chosen.file(snapshot) if self.current == "loads" else None
            if load is None:
                return Text("It is gone.")
            if file is not None:
                return filepages.detail(snapshot, load, file, width)
            return pages.detail(snapshot, load, width)

        self._open(Sheet("load", text))

    def action_hidden(self) -> None:
        self._open(Sheet("hidden", pages.missing))

    def action_help(self) -> None:
        self._open(Sheet("help", lambda _snapshot, _width: help_text(KEYS)))

    def _open(self, sheet: Sheet) -> None:
        self.push_screen(sheet)
        self.call_after_refresh(self._redraw)

    def action_export(self) -> None:
        if self.snapshot is None:
            return
        try:
            made = export.write(self._export_to, self.snapshot, self.export_screenshot())
        except DmatraceError as error:
            self.notify(str(error), severity="error", markup=False)
        else:
            self.notify("\n".join(map(str, made)), title="exported", markup=False)

    async def action_back(self) -> None:
        if self.chosen.pattern:
            self.chosen.pattern = ""
            self._redraw()
        elif self.current != "loads":
            self.action_view("loads")
        else:
            self.exit()


def _caller(app: Top, binding: Binding) -> Callable[[], Awaitable[None]]:
    async def call() -> None:
        while len(app.screen_stack) > 1:  # what the palette was opened over
            await app.pop_screen()
        await app.run_action(binding.action)

    return call


def run(source: Source, *, interval: float) -> None:
    """Show ``source`` until the user leaves; it is closed then.

    SIGTERM and SIGHUP end the view as ``q`` does.  Raises what the source raised.
    """
    app = Top(source, interval=interval)

    def leave(_number: int, _frame: object) -> None:
        app.exit()

    old = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with seldom():
            app.run()
    finally:
        source.close()
        for number, handler in old.items():
            signal.signal(number, handler)
    if app.error is not None:
        raise app.error
