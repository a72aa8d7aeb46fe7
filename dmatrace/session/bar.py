"""The bench's progress: a bar on a terminal, a line per load elsewhere.  All on stderr.

rich draws the bar (it comes with textual, knows dumb terminals and NO_COLOR)
and is imported only on a terminal.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from dmatrace import safe
from dmatrace.session.estimate import Load, Took, in_words, seconds_left
from dmatrace.session.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

# Redrawing takes CPU time from the loads that are measured beside it.
_REDRAWS_PER_S = 4


class Bar(Progress):
    """What is running, how far the bench is by time, and how long it will take."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        # A terminal that cannot move its cursor gets lines, too.
        self._live = self._live and os.environ.get("TERM", "dumb") != "dumb"
        self._total = 0
        self._todo: list[Load] = []
        self._done: list[Took] = []
        self._shown = 0.0
        self._began: float | None = None  # the running load, on CLOCK_MONOTONIC
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def plan(self, loads: list[Load]) -> None:
        """All loads that are to come, in their order."""
        self._todo = list(loads)
        self._total = len(loads)
        if self._live and self._bar is None:
            self._bar = _rich(lambda: self.left and f"{self.left} left")
            self._task = self._bar.add_task("", total=1.0, detail="")
            self._bar.start()

    def begin(self, what: str) -> None:
        """The next load of the plan begins."""
        self._began = time.monotonic()
        number = self._total - len(self._todo) + 1
        self._what = safe.line(f"[{number}/{self._total}] {what}")
        self._show()

    def end(self, seconds: float, loading: float, outcome: str, *, stays: bool = False) -> None:
        """It is done, in so many seconds; ``stays`` shows its outcome on a terminal, too."""
        self._began = None
        self._done.append(Took(self._todo.pop(0), seconds, min(loading, seconds)))
        left = f", {self.left} left" if self.left and self._todo else ""
        if self._bar is None or stays:
            self(f"{self._what}: {outcome}{left}")
        self._show()

    def leave_out(self, load: Load) -> None:
        """A load of the plan will not be run."""
        self._todo = [each for each in self._todo if each != load]
        self._total = len(self._done) + len(self._todo)

    @property
    def left(self) -> str:
        """``about 4 min``, or nothing while nothing is known.

        The running load's time so far is taken off, as far as its estimate goes.
        """
        seconds = seconds_left(self._done, self._todo)
        if seconds is None:
            return ""
        if self._began is not None:
            rest = seconds_left(self._done, self._todo[1:]) or 0.0
            seconds = max(rest, seconds - (time.monotonic() - self._began))
        return f"about {in_words(seconds)}"

    @property
    def fraction(self) -> float:
        """How much of the bench is done, by time: 0 to 1, never falling."""
        seconds = seconds_left(self._done, self._todo)
        spent = sum(took.seconds for took in self._done)
        if seconds is not None and spent + seconds > 0:
            self._shown = max(self._shown, spent / (spent + seconds))
        return self._shown

    def __call__(self, text: str) -> None:
        """A line that stays, above the bar."""
        if self._bar is None:
            super().__call__(text)
        else:
            self._bar.console.print(safe.line(text), markup=False, highlight=False, soft_wrap=True)

    def now(self, text: str) -> None:
        """What the running load does."""
        if self._bar is not None:
            self._bar.update(self._task, detail=safe.line(text))

    def stop(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self.fraction, description=self._what, detail="")


def _rich(left: Callable[[], str]) -> RichProgress:
    """The bar; ``left`` is asked anew each time it is drawn."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TaskProgressColumn,
        TextColumn,
    )
    from rich.progress import Progress as Columns
    from rich.text import Text

    class Left(ProgressColumn):
        def render(self, _task: Task) -> Text:
            return Text(left())

    return Columns(
        SpinnerColumn("line"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        # What a strategy is called is no markup.
        TextColumn("{task.description}", markup=False),
        Left(),
        TextColumn("{task.fields[detail]}", markup=False),
        console=Console(file=sys.stderr),
        refresh_per_second=_REDRAWS_PER_S,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
