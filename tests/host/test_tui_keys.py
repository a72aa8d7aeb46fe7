"""Every key of the view in every state it acts in; mouse, palette, resizing, ending sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import synthetic
from textual.command import CommandList
from textual.widgets import ContentSwitcher, DataTable, Input, Static
from views import END, REAL, many, press, replay, settled, shown, top, until, without_hooks

from dmatrace.errors import CannotHere
from dmatrace.recording import Writer
from dmatrace.tui import pages
from dmatrace.tui.app import Top
from dmatrace.tui.keys import KEYS
from dmatrace.tui.model import Snapshot
from dmatrace.tui.screens import Ask, Sheet, key_name
from dmatrace.tui.source import SPEEDS
from dmatrace.tui.widgets import Table

pytestmark = pytest.mark.asyncio

NARROW, WIDE = (80, 24), (140, 40)
NAMES = ("loads", "time", "memory", "io", "buffers")


def _text(app: Top, selector: str) -> str:
    """What a widget shows."""
    return str(app.screen_stack[0].query_one(selector, Static).content)


def _rows(app: Top, selector: str = "#loads-table") -> list[str]:
    table = app.screen_stack[0].query_one(selector, Table)
    return [str(table.get_cell_at((row, 0))).strip(" ▶") for row in range(table.row_count)]  # type: ignore[arg-type]


def _current(app: Top) -> str:
    return str(app.screen_stack[0].query_one(ContentSwitcher).current)


def _loads(app: Top) -> list[str]:
    assert app.snapshot is not None
    return [load.key for load in app.chosen.loads(app.snapshot)]


@pytest.mark.parametrize(("key", "name"), list(zip("12345", NAMES, strict=True)))
async def test_a_number_opens_its_view(key: str, name: str) -> None:
    app = top()
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        await press(pilot, "3" if key != "3" else "1", key)
        assert _current(app) == name
        assert f"[{ {'io': 'I/O'}.get(name, name.capitalize()) }]" in _text(app, "#tabs")


async def test_tab_goes_through_all_views_and_back() -> None:
    app = top()
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        seen = []
        for _ in NAMES:
            seen.append(_current(app))
            await press(pilot, "tab")
        assert tuple(seen) == NAMES
        assert _current(app) == "loads"
        await press(pilot, "shift+tab")
        assert _current(app) == "buffers"


async def test_moving_selects_in_every_view() -> None:
    app = top()
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        keys = _loads(app)
        await press(pilot, "j", "j", "down", "k")
        assert app.chosen.selected == keys[2]
        await press(pilot, "up")
        assert app.chosen.selected == keys[1]
        await press(pilot, "2", "n")
        assert app.chosen.selected == keys[2]
        assert _text(app, "#time-title").startswith("memfd-sendfile-bio")
        await press(pilot, "p", "p")
        assert app.chosen.selected == keys[0]
        await press(pilot, "p")
        assert app.chosen.selected == keys[0]
        # The cursor is where the selection is, back in the first view.
        await press(pilot, "n", "n", "n", "1")
        await shown(pilot)
        assert app.query_one("#loads-table", Table).cursor_row == 3


async def test_pictures_scroll_by_the_same_keys() -> None:
    app = top()
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        await press(pilot, "4")
        scroll = app.query_one("#io VerticalScroll")
        await press(pilot, "j", "j", "j")
        await settled(pilot)
        assert scroll.scroll_y == 3
        await press(pilot, "k")
        await settled(pilot)
        assert scroll.scroll_y == 2


async def test_sorting() -> None:
    app = top()
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        assert app.snapshot is not None
        recorded = [load.key for load in app.snapshot.loads]
        await press(pilot, "s")
        assert app.chosen.sort == "load"
        names = _rows(app)
        assert names == sorted(names, key=lambda name: name.split(" #")[0])
        await press(pilot, "r")
        assert _rows(app) == names[::-1]
        await press(pilot, "greater_than_sign", "greater_than_sign", "r")
        assert app.chosen.sort == "time"
        times = [load.elapsed for load in app.chosen.loads(app.snapshot)]
        assert times == sorted(times)
        await press(pilot, "less_than_sign")
        assert app.chosen.sort == "progress"
        await press(pilot, "less_than_sign", "less_than_sign")
        assert app.chosen.sort == ""
        assert _loads(app) == recorded


async def test_another_order_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor's way to where its row is now is not followed back and forth."""
    drawn = []
    draw = Top._redraw
    monkeypatch.setattr(Top, "_redraw", lambda app: (drawn.append(app), draw(app))[1])
    app = top()
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        await press(pilot, "j", "j")
        keys = _loads(app)
        orders = []
        for key in ("s", "r", "r", "s"):
            drawn.clear()
            await press(pilot, key)
            await settled(pilot)
            assert len(drawn) == 1
            assert app.chosen.selected == keys[2]
            table = app.query_one("#loads-table", Table)
            assert table.current == keys[2]
            orders.append(_loads(app))
        assert orders[0] != keys
        assert orders[1] == orders[0][::-1]


async def test_a_click_on_a_head_sorts_and_again_reverses() -> None:
    app = top()
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        table = app.query_one("#loads-table", DataTable)
        x = sum(column.width for column in table.ordered_columns[:2]) + 4
        await until(lambda: table.header_height and table.size.width > x)
        await pilot.click("#loads-table", offset=(x, 0))
        await until(lambda: app.chosen.sort)
        await shown(pilot)
        assert app.chosen.sort == "time"
        assert "time▲" in [str(column.label) for column in table.ordered_columns]
        await pilot.click("#loads-table", offset=(x, 0))
        await until(lambda: app.chosen.backwards)
        await shown(pilot)
        assert app.chosen.backwards
        assert "time▼" in [str(column.label) for column in table.ordered_columns]


async def test_a_click_on_a_row_selects_it_and_on_a_tab_opens_it() -> None:
    app = top()
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        await pilot.click("#loads-table", offset=(4, 4))
        await until(lambda: app.chosen.selected == _loads(app)[3])
        await settled(pilot)
        assert app.chosen.selected == _loads(app)[3]
        await press(pilot, "escape")
        await pilot.click("#tabs", offset=(26, 0))
        await until(lambda: _current(app) == "memory")
        assert _current(app) == "memory"


async def test_the_selection_stays_with_its_load_while_rows_move() -> None:
    app = top()
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        await press(pilot, "j", "j")
        chosen = app.chosen.selected
        await press(pilot, "s", "r")
        await shown(pilot)
        assert app.chosen.selected == chosen
        table = app.query_one("#loads-table", Table)
        assert table.cursor_row == _loads(app).index(chosen)


async def test_filter() -> None:
    app = top()
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        await press(pilot, "slash")
        assert isinstance(app.screen, Ask)
        await press(pilot, *"gather dio", "enter")
        await settled(pilot)
        assert {load.strategy for load in app.chosen.loads(_snapshot(app))} == {"dmabuf-gather-dio"}
        assert 'only "gather dio" (Esc: all)' in _text(app, "#head")
        await press(pilot, "slash", "escape")
        await press(pilot, "slash", *"x", "enter")
        await settled(pilot)
        assert 'No load matches "gather diox"' in _text(app, "#loads .empty")
        await press(pilot, "escape")
        assert len(_rows(app)) == len(_snapshot(app).loads)


def _snapshot(app: Top) -> Snapshot:
    assert app.snapshot is not None
    return app.snapshot


async def test_threads_open_and_close() -> None:
    app = top()
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        await press(pilot, "2")
        await settled(pilot)
        load = app.chosen.load(_snapshot(app))
        assert load is not None
        rows = _rows(app, "#time-table")
        count = len(rows)
        assert [row.split()[0] for row in rows] == [*(t.phase for t in load.phases), "all", "▸"]
        await press(pilot, "end", "enter")
        await settled(pilot)
        assert len(_rows(app, "#time-table")) == count + len(load.threads[0].phases)
        await press(pilot, "enter")
        await settled(pilot)
        assert len(_rows(app, "#time-table")) == count
        # On a phase, Enter opens the details.
        await press(pilot, "home", "enter")
        await settled(pilot)
        assert isinstance(app.screen, Sheet)


async def test_shares_on_screen_add_up_to_100() -> None:
    app = top()
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        await press(pilot, "2")
        for _ in _loads(app):
            await settled(pilot)
            table = app.query_one("#time-table", Table)
            cells = [str(table.get_cell_at((row, 2))) for row in range(table.row_count)]  # type: ignore[arg-type]
            names = _rows(app, "#time-table")
            phases = cells[: names.index("all")]
            assert sum(int(c.strip("%")) for c in phases if not c.startswith("<")) == 100
            assert cells[names.index("all")] == "100%"
            await press(pilot, "n")


async def test_details_follow_the_snapshot_and_close() -> None:
    app = top()
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        await press(pilot, "enter")
        await shown(pilot)
        text = str(app.screen.query_one("#sheet-text", Static).content)
        assert "diagnosis" in text
        assert "waterfall" in text
        assert "In memory 2.00 times" in text
        await press(pilot, "j")
        for key in ("escape", "q"):
            await press(pilot, key)
            await settled(pilot)
            assert not isinstance(app.screen, Sheet)
            await press(pilot, "enter")
            await settled(pilot)
        assert app.is_running


async def test_help_lists_every_binding() -> None:
    app = top()
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        for key in ("question_mark", "f1"):
            await press(pilot, key)
            await shown(pilot)
            text = str(app.screen.query_one("#sheet-text", Static).content)
            for binding in KEYS:
                assert key_name(binding.key) in text
                assert binding.tooltip in text
            await press(pilot, "escape")
        assert len({binding.id for binding in KEYS}) == len(KEYS)


async def test_every_key_of_the_help_is_bound_to_an_action() -> None:
    app = top()
    for binding in KEYS:
        name = binding.action.partition("(")[0]
        assert hasattr(app, f"action_{name}"), binding


async def test_hidden_hooks(tmp_path: Path) -> None:
    app = top(without_hooks(tmp_path / "a.dmt"))
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        assert "hidden: cached, copies" in _text(app, "#head")
        await press(pilot, "h")
        await shown(pilot)
        text = str(app.screen.query_one("#sheet-text", Static).content)
        assert "what page-cache ledger tells" in text
        await press(pilot, "escape", "5")
        await settled(pilot)
        assert "Hidden: dma_buf_export is not attached" in _text(app, "#buffers .empty")
        await press(pilot, "3")
        await settled(pilot)
        assert "page cache is hidden" in _text(app, "#memory .picture")
        await press(pilot, "4")
        await settled(pilot)
        assert "hidden: block requests are not attached" in _text(app, "#io .picture")


async def test_the_key_of_hidden_hooks_is_dead_where_none_is() -> None:
    app = top()
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        await press(pilot, "h")
        assert not isinstance(app.screen, Sheet)


async def test_pause_is_said_and_ends() -> None:
    app = top(at=20 * 10**9)
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        assert "PAUSED" in _text(app, "#head")
        assert "Playing stopped: Space goes on" in _text(app, "#head")
        await press(pilot, "space")
        await shown(pilot)
        assert "REPLAY" in _text(app, "#head")
        assert "stopped" not in _text(app, "#head")
        await press(pilot, "space")
        await shown(pilot)
        assert _snapshot(app).paused


async def test_the_players_keys() -> None:
    app = top(at=0)
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)

        async def at(*keys: str) -> int:
            await press(pilot, *keys)
            await shown(pilot)
            transport = _snapshot(app).transport
            assert transport is not None
            return transport.at

        assert await at() == 0
        one = await at("full_stop")
        two = await at("full_stop")
        assert 0 < one < two
        assert await at("comma") == one
        first = await at("right_square_bracket")
        assert first > two
        second = await at("right_square_bracket")
        assert len([load for load in _snapshot(app).loads if load.state != "waiting"]) == 3
        assert await at("left_square_bracket") == first < second
        assert await at("g", *"12.5", "enter") == 12_500_000_000
        transport = _snapshot(app).transport
        assert transport is not None
        assert await at("g", *"50%", "enter") == transport.length // 2
        assert await at("g", *"soon", "enter") == transport.length // 2
        assert await at("g", *"1e300", "enter") == transport.length
        for key, step in (("plus", 1), ("minus", -1)):
            before = SPEEDS.index(_speed(app))
            await at(key)
            assert SPEEDS.index(_speed(app)) == before + step


def _speed(app: Top) -> float:
    transport = _snapshot(app).transport
    assert transport is not None
    return transport.speed


class _Fixed:
    """A source without a player: a live one that shows what it is given."""

    def __init__(self, snapshot: Snapshot | None, error: BaseException | None = None) -> None:
        self.snapshot, self.error, self.closed = snapshot, error, False
        self.paused: list[bool] = []

    def read(self) -> Snapshot:
        if self.error is not None:
            raise self.error
        assert self.snapshot is not None
        return self.snapshot

    def pause(self, paused: bool) -> None:
        self.paused.append(paused)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} without a player")


def _live(**changes: Any) -> Snapshot:
    snapshot = replay(at=20 * 10**9).read()
    values = {"state": "live", "transport": None, "paused": False, **changes}
    return Snapshot(**{**snapshot.__dict__, **values})


async def test_a_live_view_has_no_player() -> None:
    source = _Fixed(_live())
    app = Top(source, interval=0.05)  # type: ignore[arg-type]
    async with app.run_test(size=NARROW) as pilot:
        await until(lambda: app.snapshot)
        await press(pilot, "full_stop", "comma", "plus", "minus", "g", "left_square_bracket")
        assert not isinstance(app.screen, Ask)
        assert "LIVE" in _text(app, "#head")
        await press(pilot, "space")
        assert source.paused == [True]
        active = {binding.key for _, binding, enabled, _ in app.active_bindings.values() if enabled}
        assert "space" in active
        assert "g" not in active


async def test_a_target_that_ended_keeps_its_last_data() -> None:
    snapshot = _live(state="ended", note="the recorder has finished")
    app = Top(_Fixed(snapshot), interval=0.05)  # type: ignore[arg-type]
    async with app.run_test(size=NARROW) as pilot:
        await until(lambda: app.snapshot)
        await settled(pilot)
        head = _text(app, "#head")
        assert "ENDED" in head
        assert "the recorder has finished; its last data stays" in head
        assert len(_rows(app)) == len(snapshot.loads)


async def test_lost_events_are_said() -> None:
    app = Top(_Fixed(_live(lost=12)), interval=0.05)  # type: ignore[arg-type]
    async with app.run_test(size=NARROW) as pilot:
        await until(lambda: app.snapshot)
        await settled(pilot)
        assert "12 events LOST" in _text(app, "#head")


async def test_an_error_of_the_source_ends_the_view_with_it() -> None:
    error = CannotHere("tracing needs root", do="run it with sudo")
    app = Top(_Fixed(None, error), interval=0.05)  # type: ignore[arg-type]
    async with app.run_test(size=NARROW):
        await until(lambda: app.error)
    assert app.error is error


async def test_empty_states_say_what_to_do(tmp_path: Path) -> None:
    with Writer.create(tmp_path / "a.dmt", {**synthetic.META, "skipped": [], "target": {}}):
        pass
    app = top(tmp_path / "a.dmt", export_to=tmp_path)
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        for key, name in zip("1234", NAMES, strict=False):
            await press(pilot, key)
            await settled(pilot)
            assert "This recording has no loads. Press q" in _text(app, f"#{name} .empty")
        await press(pilot, "5")
        await settled(pilot)
        assert "No dma-buf was exported yet" in _text(app, "#buffers .empty")
        await press(pilot, "1", "enter", "n", "p", "j", "k", "s", "r", "e")


async def test_export(tmp_path: Path) -> None:
    app = top(export_to=tmp_path)
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        await press(pilot, "e", "e")
        await settled(pilot)
        made = sorted(path.name for path in tmp_path.iterdir())
        assert made == [f"dmatrace-top-{n}.{end}" for n in (1, 2) for end in ("json", "svg")]
        found = json.loads((tmp_path / made[0]).read_text())
        assert found["schema"] == 1
        snapshot = _snapshot(app)
        assert [load["strategy"] for load in found["loads"]] == [
            load.strategy for load in snapshot.loads
        ]
        assert found["loads"][0]["threads"][0]["phases"][0]["phase"]
        assert "dmabuf-bio" in (tmp_path / made[1]).read_text().replace("&#160;", " ")


async def test_an_export_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Top, "NOTIFICATION_TIMEOUT", 600)  # a busy machine looks late
    app = top(export_to=tmp_path / "none")
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        await press(pilot, "e")
        await settled(pilot)
        (notice,) = app._notifications
        assert "cannot write to" in notice.message


@pytest.mark.parametrize("key", ["q", "ctrl+c", "escape"])
async def test_quit(key: str) -> None:
    app = top()
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        await press(pilot, key)
        await settled(pilot)
    assert not app.is_running
    assert app.error is None


async def test_escape_goes_back_step_by_step() -> None:
    app = top()
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        await press(pilot, "slash", *"dio", "enter", "3")
        await press(pilot, "escape")
        assert app.chosen.pattern == ""
        assert _current(app) == "memory"
        await press(pilot, "escape")
        assert _current(app) == "loads"
        assert app.is_running


async def test_the_palette_has_the_bindings() -> None:
    app = top()
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        titles = {command.title for command in app.get_system_commands(app.screen)}
        assert {"Memory", "Export", "Filter", "Quit", "Go to", "Theme"} <= titles
        await press(pilot, "ctrl+p")
        await settled(pilot)
        assert app.screen.query_one(Input)
        await press(pilot, *"Buffers")
        found = app.screen.query_one(CommandList)
        await until(
            lambda: found.option_count and "Buffers" in str(found.get_option_at_index(0).prompt)
        )
        await press(pilot, "enter")
        await until(lambda: _current(app) == "buffers")
        assert _current(app) == "buffers"


@pytest.mark.parametrize("size", [(80, 24), (100, 30), (200, 60), (20, 5)])
async def test_every_view_at_every_size(size: tuple[int, int]) -> None:
    app = top()
    async with app.run_test(size=size) as pilot:
        await shown(pilot)
        for key in "12345":
            await press(pilot, key)
            await settled(pilot)
        await press(pilot, "enter")
        await shown(pilot)
        await press(pilot, "escape", "1")
        await pilot.resize_terminal(80, 24)
        await shown(pilot)
        assert len(app.query_one("#loads-table", Table).ordered_columns) == 7


async def test_more_columns_where_there_is_room() -> None:
    app = top()
    async with app.run_test(size=WIDE) as pilot:
        await shown(pilot)
        heads = [
            str(column.label).strip()
            for column in app.query_one("#loads-table", Table).ordered_columns
        ]
        assert {"process", "file"} <= set(heads)


async def test_two_hundred_loads(tmp_path: Path) -> None:
    app = top(many(tmp_path / "a.dmt", 200))
    async with app.run_test(size=NARROW) as pilot:
        await shown(pilot)
        assert app.query_one("#loads-table", Table).row_count == 200
        await press(pilot, "end")
        await shown(pilot)
        assert app.chosen.selected == "200"
        assert "▶ anon" in _text(app, "#race") or "▶ dmabuf-bio" in _text(app, "#race")


async def test_names_from_outside_cannot_move_the_cursor(tmp_path: Path) -> None:
    path = tmp_path / "a.dmt"
    with Writer.create(path, {**synthetic.META, "skipped": []}) as writer:
        synthetic.write_load(
            writer, 1, "dmabuf-bio", file="/data/\x1b[2J[b]x[/b].bin", refused="\x1b]0;title\x07"
        )
    app = top(path)
    async with app.run_test(size=WIDE) as pilot:
        await shown(pilot)
        for key in ("1", "2", "3", "4", "5", "enter"):
            await press(pilot, key)
            await shown(pilot)
            svg = app.export_screenshot()
            assert "\x1b" not in svg
            assert "\x07" not in svg
    text = str(pages.detail(_snapshot(app), _snapshot(app).loads[0], 80))
    assert "[b]x[/b]" in text


async def test_the_recording_is_what_the_tests_say() -> None:
    assert len(replay(REAL, END).read().loads) == 18


test_the_recording_is_what_the_tests_say.pytestmark = []  # type: ignore[attr-defined]
