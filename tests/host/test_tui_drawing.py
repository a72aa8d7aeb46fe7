"""What a refresh draws: no more than changed, and no more often than there is time for."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from views import NARROW, many, press, replay, settled, shown, top

from dmatrace.tui import views
from dmatrace.tui.app import Top
from dmatrace.tui.model import Snapshot
from dmatrace.tui.widgets import Table

pytestmark = pytest.mark.asyncio


class _Counted:
    """A source of one moment that counts how often it is read."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.read_by: list[int] = []

    def read(self) -> Snapshot:
        self.read_by.append(threading.get_ident())
        return self.snapshot

    def pause(self, paused: bool) -> None: ...
    def step(self, samples: int) -> None: ...
    def faster(self, steps: int) -> None: ...
    def jump(self, at: int) -> None: ...
    def load(self, step: int) -> None: ...
    def close(self) -> None: ...


async def test_a_screen_that_takes_longer_to_draw_than_the_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is read that nobody has time to draw, and a key is heard at the next drawing."""
    drawn = []

    def slow(self: views.Loads, snapshot: Snapshot) -> None:
        drawn.append(snapshot)
        time.sleep(0.05)

    monkeypatch.setattr(views.Loads, "draw", slow)
    source = _Counted(replay().read())
    app = Top(source, interval=0.001)
    async with app.run_test(size=NARROW) as pilot:
        while len(drawn) < 20:
            await pilot.pause(0.01)
        assert len(source.read_by) <= len(drawn) + 2
        before = len(drawn)
        await pilot.press("2")
        assert app.current == "time"
        assert len(drawn) - before <= 3
    assert threading.get_ident() not in source.read_by


async def test_the_view_ends_while_a_drawing_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reading thread does not wait for one that will never be done."""

    def broken(self: views.Loads, snapshot: Snapshot) -> None:
        raise ValueError("cannot draw")

    monkeypatch.setattr(views.Loads, "draw", broken)
    with pytest.raises(ValueError, match="cannot draw"):
        async with Top(_Counted(replay().read()), interval=0.001).run_test(size=NARROW) as pilot:
            await pilot.pause(5)
    names = [thread.name for thread in threading.enumerate() if "reading" in thread.name]
    assert names == []


async def test_a_load_that_is_what_it_was_is_not_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    real = views._row

    def row(what: Any, *arguments: Any) -> Any:
        drawn.append(what.key)
        return real(what, *arguments)

    monkeypatch.setattr(views, "_row", row)
    async with top(many(tmp_path / "a.dmt", 40)).run_test(size=NARROW) as pilot:
        app = await shown(pilot)
        assert len(set(drawn)) == 40
        drawn.clear()
        app._redraw()
        assert drawn == []
        await press(pilot, "down")
        assert len(set(drawn)) == 2  # the one that was selected, and the one that is
        table = app.screen_stack[0].query_one("#loads-table", Table)
        texts = [str(table.get_cell_at((n, 0))) for n in range(3)]  # type: ignore[arg-type]
        assert [text.startswith("▶") for text in texts] == [False, True, False]
        drawn.clear()
        await pilot.resize_terminal(120, 36)
        await settled(pilot)
        assert len(set(drawn)) == 40
        drawn.clear()
        await press(pilot, "s")  # another head is marked, and the order is another
        assert len(set(drawn)) == 40
