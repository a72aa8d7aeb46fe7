"""Pictures of every view and state, from a recording of the guest, compared as SVG.

``pytest tests/host/test_tui_snapshots.py --snapshot-update`` draws them anew: look at
them before committing.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import followed
import pytest
import synthetic
from views import END, RACE, blind, many, pressing, replay, top

from dmatrace.recording import Writer
from dmatrace.tui.app import Top
from dmatrace.tui.model import Snapshot

DATA = Path(__file__).parents[1] / "data"
#: RACE without the page-cache ledger and block requests.
MISSING = DATA / "missing.dmt"
MIDDLE = 15 * 10**9  # ns: the third load of the race runs
NARROW, WIDE = (80, 24), (120, 36)


class _Shown:
    """A source that shows one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def read(self) -> Snapshot:
        return dataclasses.replace(self._snapshot)  # a new one, as of every source

    def close(self) -> None:
        """Nothing was started."""


def _live(**changes: Any) -> Top:
    """A live view of the middle of the race."""
    snapshot = replay(RACE, MIDDLE).read()
    values = {"state": "live", "transport": None, "paused": False, "title": "the race", **changes}
    source: Any = _Shown(Snapshot(**{**snapshot.__dict__, **values}))
    return Top(source, interval=1000)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("loads", ()),
        ("time", ("2",)),
        ("time-threads", ("2", "end", "enter")),
        ("memory", ("3",)),
        ("io", ("4",)),
        ("buffers", ("5",)),
        ("detail", ("enter",)),
        ("help", ("question_mark",)),
        ("sorted", ("s", "s", "s", "r")),
        ("filtered", ("slash", *"dio", "enter")),
        ("palette", ("ctrl+p",)),
    ],
)
def test_a_race(snap_compare: Any, name: str, keys: tuple[str, ...]) -> None:
    assert snap_compare(top(RACE), terminal_size=NARROW, run_before=pressing(*keys))


@pytest.mark.parametrize("keys", [(), ("2",), ("3",), ("4",), ("5",)], ids=list("12345"))
def test_with_room(snap_compare: Any, keys: tuple[str, ...]) -> None:
    assert snap_compare(top(RACE), terminal_size=WIDE, run_before=pressing(*keys))


@pytest.mark.parametrize("keys", [(), ("2",), ("4",)], ids=list("124"))
def test_without_colour(
    snap_compare: Any, monkeypatch: pytest.MonkeyPatch, keys: tuple[str, ...]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert snap_compare(top(RACE), terminal_size=NARROW, run_before=pressing(*keys))


def test_in_the_middle(snap_compare: Any) -> None:
    """A load runs, the next waits: paused, as a replay says it."""
    assert snap_compare(top(RACE, MIDDLE), terminal_size=NARROW, run_before=pressing())


def test_live(snap_compare: Any) -> None:
    assert snap_compare(_live(), terminal_size=NARROW, run_before=pressing())


def test_live_paused(snap_compare: Any) -> None:
    assert snap_compare(_live(paused=True), terminal_size=NARROW, run_before=pressing())


def test_live_ended(snap_compare: Any) -> None:
    app = _live(state="ended", note="the recorder has finished")
    assert snap_compare(app, terminal_size=NARROW, run_before=pressing())


def test_starting(snap_compare: Any) -> None:
    app = _live(state="starting", note="compiling and attaching the BPF programs", loads=())
    assert snap_compare(app, terminal_size=NARROW, run_before=pressing())


@pytest.mark.parametrize("keys", [(), ("3",), ("4",), ("5",), ("h",)], ids=list("1345h"))
def test_missing_hooks(snap_compare: Any, keys: tuple[str, ...]) -> None:
    assert snap_compare(top(MISSING), terminal_size=NARROW, run_before=pressing(*keys))


@pytest.mark.parametrize(
    "keys", [(), ("3",), ("4",), ("5",), ("enter",)], ids=["1", "3", "4", "5", "detail"]
)
def test_everything_hidden(snap_compare: Any, tmp_path: Path, keys: tuple[str, ...]) -> None:
    app = top(blind(tmp_path / "a.dmt", RACE))
    assert snap_compare(app, terminal_size=NARROW, run_before=pressing(*keys))


@pytest.mark.parametrize("keys", [(), ("3",), ("5",)], ids=list("135"))
def test_an_empty_recording(snap_compare: Any, tmp_path: Path, keys: tuple[str, ...]) -> None:
    with Writer.create(tmp_path / "a.dmt", {**synthetic.META, "skipped": [], "target": {}}):
        pass
    app = top(tmp_path / "a.dmt")
    assert snap_compare(app, terminal_size=NARROW, run_before=pressing(*keys))


def test_one_load(snap_compare: Any, tmp_path: Path) -> None:
    app = top(many(tmp_path / "a.dmt", 1))
    assert snap_compare(app, terminal_size=NARROW, run_before=pressing())


@pytest.mark.parametrize("keys", [(), ("end",)], ids=["first", "last"])
def test_two_hundred_loads(snap_compare: Any, tmp_path: Path, keys: tuple[str, ...]) -> None:
    app = top(many(tmp_path / "a.dmt", 200), END)
    assert snap_compare(app, terminal_size=NARROW, run_before=pressing(*keys))


@pytest.mark.parametrize(
    ("keys", "at"),
    [
        ((), followed.SECOND // 2), (("j",), END), (("enter",), END), (("j", "j", "enter"), END),
        (("slash", *"token", "enter"), END),
    ],
    ids=["middle", "end", "detail", "file", "filtered"],
)  # fmt: skip
def test_a_followed_process(
    snap_compare: Any, tmp_path: Path, keys: tuple[str, ...], at: int
) -> None:
    """It loads two files; another loads none."""
    app = top(followed.write(tmp_path / "a.dmt"), at)
    assert snap_compare(app, terminal_size=NARROW, run_before=pressing(*keys))


def test_followed_processes_with_room(snap_compare: Any) -> None:
    """As a guest recorded them: eight ways to load a file."""
    app = top(DATA / "files.dmt")
    assert snap_compare(app, terminal_size=(140, 36), run_before=pressing("j", "j"))


def test_files_that_are_hidden(snap_compare: Any, tmp_path: Path) -> None:
    names = ("page-cache ledger", "__iomap_dio_rw")
    hooks = [{"name": name, "phase": "", "attached": None, "hides": "it"} for name in names]
    app = top(followed.write(tmp_path / "a.dmt", {"hooks": hooks}))
    assert snap_compare(app, terminal_size=NARROW, run_before=pressing())
