"""What tests of the live view share: recordings to show, and an app that shows one moment."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import synthetic
from textual.pilot import Pilot
from textual.widgets import Input

from dmatrace.analysis.hidden import HIDDEN_BY, OF_MEMORY
from dmatrace.recording import Writer
from dmatrace.tui.app import Top
from dmatrace.tui.source import Replay
from dmatrace.tui.widgets import Table

#: Six strategies, three rounds, as the guest recorded them.
REAL = Path(__file__).parents[1] / "data" / "top.dmt"
#: Four strategies, one after the other on one file of 128 MiB.
RACE = REAL.with_name("race.dmt")
END = 1 << 62  # ns behind every recording
NARROW, WIDE = (80, 24), (120, 36)


def pieces(tables: dict[str, list[Any]], size: int) -> Iterator[tuple[int, str, list[Any]]]:
    """(round, table, rows): so many rows of each table at a time, the last table first."""
    rounds = -(-max(map(len, tables.values())) // size)
    for number in range(rounds):
        for table in reversed(tables):
            yield number, table, tables[table][number * size : (number + 1) * size]


class Stopped:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def replay(path: Path = REAL, at: int = END) -> Replay:
    """A player that stands at ``at`` ns."""
    player = Replay(path, playing=False, clock=Stopped())
    player.jump(at)
    return player


def top(path: Path = REAL, at: int = END, **options: Any) -> Top:
    """The view of one moment of a recording."""
    return Top(replay(path, at), interval=1000, **options)


async def until(holds: Callable[[], object]) -> None:
    """Wait until something holds, however slow the machine is; then a test may ask for it.

    After a minute it is the test's own assertion that fails.
    """
    deadline = time.monotonic() + 60
    while not holds() and time.monotonic() < deadline:
        await asyncio.sleep(0.01)


async def settled(pilot: Pilot[Any]) -> None:
    """Let what was posted arrive, and what that posts: a key goes up the whole tree of widgets.

    Pressing nothing waits until every widget has worked off its queue.
    """
    for _ in range(6):
        if not pilot.app.is_running:
            return
        await pilot.press()
        await pilot.pause(0.01)


async def press(pilot: Pilot[Any], *keys: str) -> None:
    """Press keys, each when what the one before did is done."""
    for key in keys:
        await pilot.press(key)
        await settled(pilot)


async def shown(pilot: Pilot[Any]) -> Top:
    """The app once it has drawn a snapshot that was read after this call."""
    app = pilot.app
    assert isinstance(app, Top)
    before = app.snapshot
    app.refresh_now()
    await until(lambda: app.snapshot is not None and app.snapshot is not before)
    assert app.snapshot is not before
    await settled(pilot)
    tables = list(app.screen_stack[0].query(f"#{app.current} Table").results(Table))
    if app.size.height > 9:  # else there is no room for one
        await until(lambda: all(table.size.height for table in tables if table.display))
    return app


def pressing(*keys: str) -> Callable[[Pilot[Any]], Awaitable[None]]:
    """What a picture is taken after: the view is there, and these keys were pressed."""

    async def run(pilot: Pilot[Any]) -> None:
        await shown(pilot)
        await press(pilot, *keys)
        await shown(pilot)
        for line in pilot.app.screen.query(Input):
            line.cursor_blink = False  # or the picture depends on when it is taken

    return run


def many(path: Path, count: int) -> Path:
    """A synthetic recording of ``count`` loads."""
    with Writer.create(path, {**synthetic.META, "skipped": []}) as writer:
        names = ("dmabuf-bio", "udmabuf-dio", "memfd-bio", "anon-dio")
        for load_id in range(1, count + 1):
            name = names[load_id % len(names)]
            synthetic.write_load(writer, load_id, name, (load_id - 1) // len(names) + 1)
    return path


def blind(path: Path, source: Path) -> Path:
    """``source`` as it would be if every hook that hides a figure of the view were missing."""
    names = {name for found in HIDDEN_BY.values() for name in found}
    shutil.copytree(source, path)
    meta = json.loads((path / "meta.json").read_text())
    for hook in meta["hooks"]:
        if hook["name"] in names:
            hook |= {"attached": None, "hides": f"what {hook['name']} tells"}
    (path / "meta.json").write_text(json.dumps(meta))
    counters = pq.read_table(path / "counters.parquet")
    seen = ("copy_", "dio_", "splice_", "shmem_", "pin_", *(f"hits:{name}" for name in names))
    kept = [not name.startswith(seen) for name in counters["counter"].to_pylist()]
    pq.write_table(counters.filter(pa.array(kept)), path / "counters.parquet")
    for table in ("page_cache", "buffers", "requests"):
        pq.write_table(
            pq.read_table(path / f"{table}.parquet").slice(0, 0), path / f"{table}.parquet"
        )
    loads = pq.read_table(path / "loads.parquet")
    for place, column in enumerate(loads.column_names):
        if column in OF_MEMORY:
            nothing = pa.array([0] * loads.num_rows, loads.schema.field(place).type)
            loads = loads.set_column(place, column, nothing)
    pq.write_table(loads, path / "loads.parquet")
    return path


def without_hooks(path: Path) -> Path:
    """A recording on a kernel that took neither ledger, nor block, nor copying hooks."""
    names = ("page-cache ledger", "block requests", "filemap_read", "dma_buf_export")
    hooks = [
        {"name": name, "phase": "", "attached": None, "hides": f"what {name} tells"}
        for name in names
    ]
    return synthetic.write(path, meta={"hooks": hooks, "skipped": []})
