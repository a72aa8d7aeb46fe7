"""What opens over the views: help, a load's details, hidden hooks, a prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from dmatrace.tui.model import Snapshot


class Sheet(ModalScreen[None]):
    """A text over the view, drawn anew with every snapshot; Esc and q close it."""

    BINDINGS: ClassVar = [
        Binding("escape,q,enter", "dismiss", "back"),
        Binding("j", "down", show=False),
        Binding("k", "up", show=False),
    ]

    def __init__(self, title: str, text: Callable[[Snapshot, int], Text]) -> None:
        super().__init__()
        self._title = title
        self._text = text

    def compose(self) -> ComposeResult:
        with Vertical(id="sheet") as sheet:
            sheet.border_title = self._title
            sheet.border_subtitle = "Esc: back"
            with VerticalScroll():
                yield Static(id="sheet-text")

    def draw(self, snapshot: Snapshot) -> None:
        """Show this."""
        self.query_one("#sheet-text", Static).update(self._text(snapshot, self.app.size.width - 10))

    def action_down(self) -> None:
        self.query_one(VerticalScroll).scroll_down()

    def action_up(self) -> None:
        self.query_one(VerticalScroll).scroll_up()


class Ask(ModalScreen[str | None]):
    """One line of input; Esc gives None."""

    BINDINGS: ClassVar = [Binding("escape", "dismiss(None)", "back")]

    def __init__(self, question: str, value: str = "") -> None:
        super().__init__()
        self._question = question
        self._value = value

    def compose(self) -> ComposeResult:
        with Vertical(id="ask") as box:
            box.border_title = self._question
            # What is there is edited: typing adds to it.
            yield Input(self._value, select_on_focus=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value)


#: Keys as people write them.
_KEYS = {
    "question_mark": "?", "slash": "/", "less_than_sign": "<", "greater_than_sign": ">",
    "left_square_bracket": "[", "right_square_bracket": "]", "full_stop": ".", "comma": ",",
    "plus": "+", "minus": "-", "escape": "Esc", "enter": "Enter", "space": "Space",
}  # fmt: skip


def key_name(keys: str) -> str:
    """``question_mark,f1`` -> ``?, F1``."""
    return ", ".join(
        _KEYS.get(key, key.upper() if key[0] == "f" and key[1:].isdigit() else key)
        for key in keys.split(",")
    )


def help_text(bindings: Iterable[Binding]) -> Text:
    """The bindings' own table: what each key does."""
    lines = []
    for binding in bindings:
        line = Text(f"{key_name(binding.key):<14}", "bold")
        lines.append(line.append(binding.tooltip or binding.description))
    lines += [
        Text(f"{'Home, End':<14}", "bold").append("first row, last row"),
        Text(),
        Text("With the mouse: click a head to sort, a row to select it, a tab to go there."),
        Text("cpu: running; blocked: asleep until woken; runnable: waiting for a CPU."),
        Text("cache: bytes of the file that stay in the page cache. copies/B: bytes the CPU"),
        Text("copied per byte loaded. hidden: a hook is missing, so it is not known."),
        Text("Below a process that is followed: the files it loads; the verdict says how."),
    ]
    return Text("\n").join(lines)
