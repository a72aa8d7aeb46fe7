"""The files that followed processes load, in the live view: the report's figures, as they grow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import followed
import pytest
from followed import BEGIN, MIB, MODEL, MS, PID, SECOND, TOKENS
from views import many, pieces, press, replay, shown, top

from dmatrace.analysis.document import document
from dmatrace.recording import Recording, schema
from dmatrace.recording.tail import Tail
from dmatrace.tui import export, fileloads, filepages, order, pages
from dmatrace.tui.app import Top
from dmatrace.tui.fold import Fold
from dmatrace.tui.model import FileLoad, Load, Snapshot
from dmatrace.tui.widgets import Table

#: Nine processes of a guest that loaded files in eight ways, of those of tests/guest/loading.py.
FILES = Path(__file__).parents[1] / "data" / "files.dmt"
#: Of file_loads -> of FileLoad, where the names differ.
_NAMED = {"start_ns": "start", "end_ns": "end", "bytes_per_s": "rate"}
_PART = {"depth_mean": "depth"}
_LEFT_OUT = {"strategy", "parts"}


def _files(snapshot: Snapshot) -> dict[str, FileLoad]:
    return {file.key: file for load in snapshot.loads for file in load.files}


def _equal(path: Path, snapshot: Snapshot) -> None:
    """Every figure of every file, and what is found in it, as ``report`` has them."""
    found = document(Recording.open(path))
    ours = _files(snapshot)
    assert len(ours) == len(found["file_loads"]) > 0
    for theirs in found["file_loads"]:
        mine = ours[f"{theirs['load_id']}/{theirs['dev']}:{theirs['ino']}"]
        for name, value in theirs.items():
            if name not in _LEFT_OUT:
                assert getattr(mine, _NAMED.get(name, name)) == value, name
        for part, other in zip(mine.parts, theirs["parts"], strict=True):
            for name in ("name", "bytes", "share", "calls", "block", "depth_mean", "depth_max"):
                assert getattr(part, _PART.get(name, name)) == other[name]
            assert list(part.evidence) == other["evidence"]
    for load in found["loads"]:
        said = {(each["kind"], each["text"], each["next"]) for each in load["findings"]}
        mine_said = {
            (each.kind, each.text, each.next)
            for file in ours.values()
            if file.load_id == load["load_id"]
            for each in file.findings
        }
        assert mine_said <= said
        # What the report says besides is about the process.
        assert {kind for kind, _, _ in said - mine_said} <= {
            *(f"phase {name}" for name in ("fault", "readahead", "submit", "copy", "shmem", "dio")),
            "waits for the disk", "allocation before reading", "filled unseen", "copied twice",
        }  # fmt: skip


def _feed(tables: dict[str, list[dict[str, Any]]]) -> Fold:
    feeding = Fold()
    for table, rows in tables.items():
        feeding.feed(table, [_feedable(table, row) for row in rows])
    return feeding


def _feedable(table: str, row: dict[str, Any]) -> dict[str, Any]:
    return {column.name: column.default for column in schema.TABLES[table]} | row


def _now(feeding: Fold, **meta: Any) -> Snapshot:
    return feeding.snapshot(meta, feeding.last, title="", state="live")


def test_a_real_recording() -> None:
    snapshot = replay(FILES).read()
    _equal(FILES, snapshot)
    assert {file.method for file in _files(snapshot).values()} == {
        "buffered", "mmap", "mmap+willneed", "sendfile", "splice", "mixed", "io_uring+direct+fixed",
    }  # fmt: skip


@pytest.mark.parametrize("size", [1, 7, 300])
def test_rows_in_pieces_of_any_size_and_order_of_tables(size: int) -> None:
    tables = Tail.open(FILES).poll()
    feeding = Fold()
    last = next(iter(tables))
    for number, table, rows in pieces(tables, size):
        feeding.feed(table, rows)
        if table == last and number % 60 == 59:
            _now(feeding)
            feeding.settle()
    _equal(FILES, feeding.snapshot({}, feeding.last, title="", state="ended"))


def test_files_grow_while_they_are_loaded(tmp_path: Path) -> None:
    """By the counts of the workload: three quarters of one file and half of the other."""
    path = followed.write(tmp_path / "a.dmt")
    player = replay(path, 0)
    assert _files(player.read()) == {}
    player.jump(500 * MS)
    model, tokens = _files(player.read()).values()
    assert (model.bytes, model.progress, model.cached) == (48 * MIB, 0.75, 48 * MIB)
    assert model.rate == 48 * MIB * 1000 // 400
    assert (model.path, model.format, model.pid) == (
        "/models/llama-3-8b-instruct-q4_k_m.gguf", "GGUF", PID,
    )  # fmt: skip
    assert (model.verdict, model.method) == ("mmap+willneed", "mmap+willneed")
    assert (tokens.bytes, tokens.progress, tokens.cached) == (4 * MIB, 0.5, 4 * MIB)
    assert (tokens.method, tokens.target) == ("buffered", "anonymous memory")
    player.jump(SECOND)
    model, tokens = _files(player.read()).values()
    assert (model.progress, tokens.progress) == (1.0, 2.0)
    player.jump(500 * MS)  # and back
    assert [file.progress for file in _files(player.read()).values()] == [0.75, 0.5]
    _equal(path, replay(path).read())


def test_only_followed_processes_and_files_of_scale_have_rows(tmp_path: Path) -> None:
    snapshot = replay(followed.write(tmp_path / "a.dmt")).read()
    assert [(load.pid, len(load.files)) for load in snapshot.loads] == [(PID, 2), (4712, 0)]
    tables = followed.tables()
    for row in tables["loads"]:
        row["strategy"] = "memfd-bio"
    feeding = _feed(tables)
    assert _files(_now(feeding)) == {}
    calls = len(tables["calls"])
    feeding.settle()
    assert feeding._files.rows == calls  # its ways and runs are of no use
    tables = followed.tables()
    tables["calls"][1] |= {"prot": 5}  # PROT_READ | PROT_EXEC: code
    assert [file.ino for file in _files(_now(_feed(tables))).values()] == [TOKENS[1]]


def test_nothing_is_computed_where_nothing_came(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[set[int]] = []
    real = fileloads.fileloads.file_loads

    def counted(ways: Sequence[Any], *rest: Any) -> Any:
        asked.append({row["load_id"] for row in ways})
        return real(ways, *rest)

    monkeypatch.setattr(fileloads.fileloads, "file_loads", counted)
    feeding = _feed(followed.tables(ended=False))
    other = followed.way(TOKENS, BEGIN + SECOND, 2 * MIB, load_id=2, tgid=4712)
    feeding.feed("ways", [other])
    first = _now(feeding)
    assert asked == [{1, 2}]
    assert _files(_now(feeding)) == _files(first)
    feeding.feed("page_cache", [followed.cached(TOKENS, BEGIN + 2 * SECOND, MIB)])
    assert [file.cached for file in _files(_now(feeding)).values()] == [64 * MIB, MIB, MIB]
    assert asked == [{1, 2}]
    feeding.feed("ways", [other | {"t_ns": BEGIN + 2 * SECOND, "bytes": 4 * MIB}])
    assert [file.bytes for file in _files(_now(feeding)).values()] == [64 * MIB, 16 * MIB, 4 * MIB]
    assert asked == [{1, 2}, {2}]


def test_an_ended_process_keeps_its_files_and_not_their_rows() -> None:
    feeding = _feed(followed.tables())
    before = _files(_now(feeding))
    for _ in range(3):
        _now(feeding)
        feeding.settle()
    kept = feeding._files.rows
    later = BEGIN + SECOND + 2 * fileloads.LATE
    feeding.feed("loads", [_feedable("loads", followed.process(3, 9, "cat"))])
    feeding.feed("ways", [followed.way(TOKENS, later, 2 * MIB, load_id=3, tgid=9)])
    feeding.settle()
    found = _files(_now(feeding))
    feeding.settle()
    assert {key: found[key] for key in before} == before
    assert feeding._files.rows < kept
    # Late: nobody's any more.
    feeding.feed("ways", [followed.way(TOKENS, later, 32 * MIB)])
    assert _files(_now(feeding)) == found
    # What is in the page cache changes when the process is long gone.
    feeding.feed("page_cache", [followed.cached(MODEL, later, 0)])
    assert [file.cached for file in _files(_now(feeding)).values()] == [0, 8 * MIB, 8 * MIB]


def test_a_view_that_runs_for_days_keeps_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """One file read all over by faults, and very many others that are opened and read."""
    monkeypatch.setattr(fileloads, "FILES", 8)
    monkeypatch.setattr(fileloads, "SORTS", 50)
    feeding = _feed(followed.tables(ended=False))
    sizes = []
    for n in range(3000):
        at = BEGIN + SECOND * (n + 2)
        start = (n * 37) % 60 * MIB
        other = {"ino": 1000 + n, "path": f"/shards/{n}", "t_ns": at, "size": 2 * MIB}
        feeding.feed("runs", [followed.run(MODEL, start, start + MIB, at, kind) for kind in
                              ("read", "mapped")])  # fmt: skip
        feeding.feed("runs", [followed.run((MODEL[0], 1000 + n), 0, MIB, at, "read")])
        advice = {"what": "madvise", "target": "unknown", "flags": 3, "address": start}
        feeding.feed("calls", [followed.call("open", TOKENS) | other,
                               followed.call("mmap", MODEL, t_ns=at, address=start << 8),
                               followed.call("open", MODEL) | advice | {"t_ns": at}])  # fmt: skip
        feeding.feed("ways", [followed.way(TOKENS, at, 2 * MIB, first_ns=at - 1) | other,
                              followed.faulted(MODEL, at, 80 * MIB)])  # fmt: skip
        if n % 20 == 0:
            snapshot = _now(feeding)
            feeding.settle()
            sizes.append(feeding._files.rows)
    assert max(sizes[75:]) <= max(sizes[:75]) < 2500
    (load,) = (load for load in snapshot.loads if load.pid == PID)
    assert load.more_files
    assert len(load.files) <= 40
    model = next(file for file in load.files if file.ino == MODEL[1])
    assert (model.bytes, model.method) == (64 * MIB, "mmap+willneed")
    assert load.files[-1].path == "/shards/2980"
    assert "no longer listed" in pages.detail(snapshot, load, 78).plain


def _cells(load: Load, file: FileLoad, snapshot: Snapshot) -> dict[str, str]:
    assert file in load.files
    return {key: cell(file, snapshot.hidden, 16).plain for key, cell in filepages.CELLS.items()}


def test_what_is_hidden_is_said_and_never_zero(tmp_path: Path) -> None:
    names = ("page-cache ledger", "__iomap_dio_rw", "filemap_map_pages")
    hooks = [{"name": name, "phase": "", "attached": None, "hides": "it"} for name in names]
    snapshot = replay(followed.write(tmp_path / "a.dmt", {"hooks": hooks})).read()
    load, other = snapshot.loads
    for file in load.files:
        assert (file.progress, file.rate, file.cached) == (None, None, None)
        cells = _cells(load, file, snapshot)
        assert {cells[name] for name in ("progress", "rate", "cached")} == {"hidden"}
        text = filepages.detail(snapshot, load, file, 78).plain
        assert "at least" in text
        said = "hidden: direct reads (__iomap_dio_rw); faults on mappings (filemap_map_pages)"
        assert said in " ".join(text.split())
        assert "page cache held         hidden" in text
        assert "in memory twice" not in {finding.kind for finding in file.findings}
    text = pages.detail(snapshot, other, 78).plain
    assert "files loaded\nhidden: direct reads" in text
    assert "None of 1 MiB" not in text
    text = " ".join(pages.detail(snapshot, load, 78).plain.split())
    assert "the page cache is hidden (page-cache ledger)" in text


def test_cells_and_detail_of_a_file(tmp_path: Path) -> None:
    snapshot = replay(followed.write(tmp_path / "a.dmt")).read()
    load, other = snapshot.loads
    model, tokens = load.files
    assert _cells(load, tokens, snapshot) == {
        "load": "tokenizer.bin", "process": "", "file": "…s/tokenizer.bin",
        "progress": "███████████ 200%", "time": "900 ms", "rate": "17.8", "cached": "8M",
        "copies": "", "verdict": "buffered",
    }  # fmt: skip
    assert filepages.CELLS["load"](model, frozenset(), 12).plain == "…q4_k_m.gguf"
    text = filepages.detail(snapshot, load, tokens, 78).plain
    for said in (
        "buffered into anonymous memory", "16 MiB of 8 MiB (200%) in 900 ms, 17.8 MiB/s",
        "page cache held 8M", "by pread64, 16 times, 1 MiB each; depth 1.0, at most 1",
        "! 16 MiB were taken of a file of 8 MiB.", "next: a loader that reads each byte once",
        "loaded by llama-cli 4711 (exit 0)",
    ):  # fmt: skip
        assert said in " ".join(text.split())
    assert "Nothing stands out." in filepages.detail(snapshot, load, model, 78).plain
    whole = pages.detail(snapshot, load, 78).plain
    assert "/models/llama-3-8b-instruct-q4_k_m.gguf [GGUF]" in whole
    assert "64 MiB of 64 MiB (100%) in 900 ms, 71.1 MiB/s; 64 MiB in the page cache:" in whole
    assert "faulted 80 times; asked for: WILLNEED" in whole
    assert "None of 1 MiB or more was seen to be loaded." in pages.detail(snapshot, other, 78).plain
    lines = f"{text}\n{whole}".splitlines()
    assert all(len(line) <= 78 for line in lines if "(PID 4711)" not in line)


def test_names_from_outside_are_drawn_as_plain_text(tmp_path: Path) -> None:
    tables = followed.tables()
    for row in tables["ways"]:
        row["path"] = "/models/\x1b[2J\nevil\u202egguf"
    snapshot = _now(_feed(tables))
    load = snapshot.loads[0]
    for file in load.files:
        drawn = "".join(_cells(load, file, snapshot).values())
        drawn += filepages.detail(snapshot, load, file, 78).plain.replace("\n", "")
        assert not {"\x1b", "\n", "\u202e"} & set(drawn)


def test_json_has_the_files(tmp_path: Path) -> None:
    snapshot = replay(FILES).read()
    found = json.loads(json.dumps(export.document(snapshot), default=sorted))
    rows = [file for load in found["loads"] for file in load["files"]]
    theirs = document(Recording.open(FILES))["file_loads"]
    assert sorted((row["path"], row["bytes"], row["cached"], row["verdict"]) for row in rows) == (
        sorted((row["path"], row["bytes"], row["cached"], row["verdict"]) for row in theirs)
    )
    mixed = next(row for row in rows if row["verdict"] == "mixed")
    assert [(part["name"], part["bytes"]) for part in mixed["parts"]] == [
        ("buffered into anonymous memory", 5 * MIB // 2),
        ("direct into anonymous memory", 5 * MIB // 2),
    ]
    assert found["unseen"] == []


def _rows(app: Top) -> list[str]:
    table = app.screen_stack[0].query_one("#loads-table", Table)
    return [str(table.get_cell_at((row, 0))).strip() for row in range(table.row_count)]  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_keys_act_on_files_as_on_loads(tmp_path: Path) -> None:
    app = top(followed.write(tmp_path / "a.dmt"), export_to=tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await shown(pilot)
        names = ["llama-cli 4711", "├ …truct-q4_k_m.gguf", "└ tokenizer.bin", "sleep 4712"]
        assert _rows(app) == [f"▶ {names[0]}", *names[1:]]
        await press(pilot, "j", "j")
        assert app.chosen.selected == "1/254:1:51"
        assert _rows(app) == [*names[:2], f"▶ {names[2]}", names[3]]
        await press(pilot, "enter")
        assert "16 MiB of 8 MiB (200%)" in str(pilot.app.screen.query_one("#sheet-text").render())
        await press(pilot, "escape", "2")
        assert "llama-cli 4711" in str(pilot.app.screen.query_one("#time-title").render())
        await press(pilot, "enter")  # on a phase: the process
        assert "diagnosis" in str(pilot.app.screen.query_one("#sheet-text").render())
        await press(pilot, "escape", "1", "j")
        assert app.chosen.selected == "2"
        await press(pilot, "p")
        assert app.chosen.selected == "1"
        # By time, longest last: the process goes with its files, and they are sorted too.
        await press(pilot, "s", "r")
        assert _rows(app) == [names[3], f"▶ {names[0]}", "├ tokenizer.bin", "└ …truct-q4_k_m.gguf"]
        await press(pilot, "slash", *"tok", "enter")
        assert _rows(app) == [f"▶ {names[0]}", names[2]]
        await press(pilot, "escape", "slash", *"cli", "enter")
        assert len(_rows(app)) == 3
        await press(pilot, "escape", "e")
        made = json.loads((tmp_path / "dmatrace-top-1.json").read_text())
        assert [len(load["files"]) for load in made["loads"]] == [2, 0]
        assert "tokenizer.bin" in (tmp_path / "dmatrace-top-1.svg").read_text()


@pytest.mark.asyncio
async def test_a_file_that_is_gone_leaves_its_process_selected(tmp_path: Path) -> None:
    app = top(followed.write(tmp_path / "a.dmt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await shown(pilot)
        await press(pilot, "j", "j")
        assert _rows(app)[2] == "▶ └ tokenizer.bin"
        app.source.jump(0)
        await shown(pilot)
        assert _rows(app) == ["▶ llama-cli 4711", "sleep 4712"]


@pytest.mark.parametrize(("width", "copies", "verdict"), [(80, False, 16), (120, True, 16)])
def test_columns_make_room_for_how(tmp_path: Path, width: int, copies: bool, verdict: int) -> None:
    snapshot = replay(followed.write(tmp_path / "a.dmt")).read()
    found = {column.key: column.width for column in order.columns(width, snapshot)}
    assert ("copies" in found) == copies
    assert found["verdict"] == verdict
    assert sum(found.values()) + len(found) + 3 <= width
    without = replay(many(tmp_path / "b.dmt", 2)).read()
    assert order.columns(width, without) == order.columns(width)
