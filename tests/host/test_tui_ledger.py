"""What the view shows of memory over time, holders, followed processes and sampled recordings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import followed
import pytest
import synthetic
from textual.widgets import Static
from views import NARROW, WIDE, replay, settled, shown, top

from dmatrace.analysis.document import document
from dmatrace.recording import Recording, Writer
from dmatrace.tui import draw, ledger, order, pages
from dmatrace.tui.fold import Fold
from dmatrace.tui.head import head
from dmatrace.tui.model import Snapshot
from dmatrace.tui.views import State
from dmatrace.tui.widgets import Table

#: Twelve ways to fill and empty the page cache and shmem, as the guest recorded them.
REAL = Path(__file__).parents[1] / "data" / "ledger.dmt"
MIB = 1 << 20


def _row(t: int, what: str, name: str, value: int) -> dict[str, Any]:
    return {"t_ns": t, "load_id": 1, "what": what, "name": name, "value": value}


def _pages(t: int, ino: int, current: int, kind: str = "file") -> dict[str, Any]:
    row = {"t_ns": t, "load_id": 1, "dev": 7, "ino": ino, "added": current, "removed": 0}
    return {**row, "removed_self": 0, "current": current, "peak": current, "kind": kind}


def _fold(tables: Mapping[str, Iterable[dict[str, Any]]], **meta: Any) -> Snapshot:
    feeding = Fold()
    for table, rows in tables.items():
        feeding.feed(table, rows)
    return feeding.snapshot({**synthetic.META, "skipped": [], "target": {}, **meta}, feeding.last,
                            title="", state="live")  # fmt: skip


def _lines(text: Any) -> list[str]:
    return str(text).splitlines()


def test_the_time_line_is_the_reports() -> None:
    snapshot = replay(REAL).read()
    recording = Recording.open(REAL)
    compared = 0
    for load in document(recording)["loads"]:
        line = load["memory"]["timeline"]
        sampled = recording.part("ledger", load["load_id"])
        first, last = sampled["t_ns"].min(), sampled["t_ns"].max()
        mine = [point for point in snapshot.series if first <= point.t <= last]
        for name, ours in (
            ("dmabuf", [point.dmabuf for point in mine]),
            ("pinned", [point.pinned for point in mine]),
            ("page_cache", [point.cached for point in mine]),
        ):
            if name != "page_cache" or all(f["peak"] is not None for f in load["memory"]["files"]):
                assert max(value or 0 for value in ours) == max(line[name]), (load, name)
                compared += max(line[name]) > 0
        for pressure in snapshot.pressure:
            grown = line[f"psi_{pressure.resource}_some_ns"][-1]
            before = [ns for t, ns in pressure.steps if t <= first][-1]
            after = [ns for t, ns in pressure.steps if t <= last][-1]
            assert after - before == grown
    assert compared >= 8
    assert {pressure.resource for pressure in snapshot.pressure} == {"memory", "io"}


def test_a_file_in_memory_is_shmem_and_no_page_cache() -> None:
    snapshot = _fold({"page_cache": [_pages(10, 1, 3 * MIB), _pages(20, 2, 5 * MIB, "shmem")]})
    assert (snapshot.series[-1].cached, snapshot.series[-1].shmem) == (3 * MIB, 5 * MIB)
    assert [file.cached for file in snapshot.files] == [3 * MIB]


def test_a_running_load_has_its_own_file_alone_and_files_their_paths() -> None:
    row = synthetic.load(1, "dmabuf-bio", start_ns=0, end_ns=0, wall_ns=0, dev=7, ino=1)
    snapshot = _fold(
        {
            "loads": [_whole(row)],
            "page_cache": [_pages(10, 1, 3 * MIB), _pages(20, 2, 5 * MIB), _pages(30, 3, MIB)],
            "files": [{"t_ns": 20, "load_id": 1, "dev": 7, "ino": 2, "path": "/lib/other.so"}],
        }
    )
    assert snapshot.loads[0].memory.cached == 3 * MIB
    names = [file.name for file in snapshot.files]
    assert names == ["/lib/other.so", "/data/model.bin", "inode 3"]


def _whole(row: Mapping[str, Any]) -> dict[str, Any]:
    from dmatrace.recording.schema import TABLES

    return {**{column.name: column.default for column in TABLES["loads"]}, **row}


def test_peaks_stay_in_a_long_time_line() -> None:
    rows = [_pages(n, 1, 9 * MIB if n == 2001 else MIB) for n in range(1, 5000)]
    snapshot = _fold({"page_cache": rows})
    assert max(point.cached or 0 for point in snapshot.series) == 9 * MIB
    assert len(snapshot.series) <= 512


def test_pressure_is_a_share_of_the_last_ten_seconds() -> None:
    second = 10**9
    rows = [_row(second, "psi", "memory.some", 500), _row(second, "psi", "memory.full", 500)]
    rows += [_row(21 * second, "psi", "memory.some", 500 + 4 * second)]
    # 12 s to 22 s: what grew after 12 s counts, which is all of the 4 s.
    snapshot = _fold({"ledger": [*rows, _row(22 * second, "sample", "mark", 0)]})
    (pressure,) = snapshot.pressure
    assert (pressure.resource, pressure.some, pressure.full) == ("memory", 40.0, 0.0)
    assert pressure.stalled == 4 * second


def test_without_samples_nothing_is_said_of_pressure_and_pinned() -> None:
    snapshot = _fold({"page_cache": [_pages(10, 1, MIB)]})
    assert snapshot.pressure == ()
    assert all(point.pinned is None for point in snapshot.series)
    assert "PSI" not in str(pages.memory(snapshot, None, 80))


def test_what_the_kernel_does_not_say_is_said() -> None:
    meta = {"ledger": {"unavailable": {"psi memory": "boot with psi=1"}}}
    text = str(pages.memory(_fold({}, **meta), None, 80))
    assert "psi memory is not known: boot with psi=1" in text


def _held(ino: int, pid: int, comm: str, t: int = 100, **more: Any) -> dict[str, Any]:
    row = {"t_ns": t, "load_id": 1, "ino": ino, "size": MIB, "exporter": "system", "name": ""}
    return {**row, "pid": pid, "comm": comm, "fds": 1, "mapped": 0, "devices": "", **more}


def _buffer(t: int, event: str, ino: int) -> dict[str, Any]:
    row = {"t_ns": t, "load_id": 1, "event": event, "ino": ino, "size": MIB, "exporter": "system"}
    return {**row, "tid": 100, "tgid": 100, "heap": ""}


def test_who_holds_a_buffer() -> None:
    held = [_held(1, 100, "loader"), _held(1, 200, "camera"), _held(9, 300, "old"),
            _held(8, 0, "", size=-1)]  # fmt: skip
    snapshot = _fold({"buffers": [_buffer(50, "export", 1)], "inventory": held})
    found = {buffer.ino: buffer for buffer in snapshot.buffers}
    assert [each.pid for each in found[1].holders or ()] == [100, 200]
    assert found[9].start == 0
    assert found[8].holders == ()
    assert found[8].size == 0
    later = [_buffer(50, "export", 1), _buffer(150, "release", 1), _buffer(160, "release", 9)]
    snapshot = _fold({"inventory": held, "buffers": later})
    assert {buffer.ino: bool(buffer.end) for buffer in snapshot.buffers} == {1: True, 8: False}
    newer = _fold({"inventory": [*held, _held(9, 300, "old", t=200)]})
    assert [buffer.ino for buffer in newer.buffers] == [9]


def _recording(path: Path, meta: Mapping[str, Any], tables: Mapping[str, Any]) -> Path:
    with Writer.create(path, {**synthetic.META, "skipped": [], **meta}) as writer:
        synthetic.write_load(writer, 1, "dmabuf-bio")
        for table, rows in tables.items():
            writer.append(table, rows)
    return path


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [NARROW, WIDE])
async def test_holders_are_shown(tmp_path: Path, size: tuple[int, int]) -> None:
    held = [_held(1, 100, "loader", t=1_900_000), _held(9, 300, "camera", t=1_900_000)]
    path = _recording(
        tmp_path / "a.dmt",
        {},
        {"buffers": [_buffer(1_100_000, "export", 1)], "inventory": held},
    )
    app = top(path)
    async with app.run_test(size=size) as pilot:
        await shown(pilot)
        app.action_view("buffers")
        await settled(pilot)
        table = app.query_one("#buffers-table", Table)
        rows = [" ".join(map(str, table.get_row_at(n))) for n in range(table.row_count)]
        assert "100 loader" in rows[0]
        assert "300 camera" in rows[1]
        assert "before us" in rows[1]
        heads = [str(column.label).strip() for column in table.ordered_columns]
        assert "held by" in heads
        assert sum(column.width for column in table.ordered_columns) <= size[0] - 2


def _observed(**values: Any) -> dict[str, Any]:
    row = {"load_id": 1, "strategy": "observed", "round": 1, "pid": 4711, "comm": "llama-server",
           "command": "llama-server -m /models/a.gguf", "start_ns": 1_000}  # fmt: skip
    return _whole({**row, **values})


def _thread(t: int, kind: str) -> list[dict[str, Any]]:
    key = (1, 4711, t, -1, kind)
    cells = {"user": (t - 1_000, 0, 0, 0)}
    rows = synthetic.snapshot(key, cells, tgid=4711, comm="llama-server")
    return [{**row, "owner": 0} for row in rows]


def test_a_followed_process() -> None:
    counted = synthetic.counters((1, 4711, 5_000, -1, "poll"), {"copy_read_bytes": 3 * MIB})
    tables = {
        "snapshots": [*_thread(1_000, "fork"), *_thread(5_000, "poll")],
        "counters": [
            *synthetic.counters((1, 4711, 1_000, -1, "fork"), {"copy_read_bytes": 0}), *counted,
        ],
        "loads": [_observed()],
        "files": [{"t_ns": 9, "load_id": 1, "dev": 7, "ino": 5, "path": "/models/a.gguf"}],
        "requests": [
            {"load_id": 1, "tid": 4711, "tgid": 4711, "dev": 8, "sector": 0, "bytes": MIB,
             "op": "read", "queue_ns": 2_000, "issue_ns": 2_100, "complete_ns": 2_200,
             "kind": "readahead", "phase": "readahead", "file_dev": 7, "ino": 5},
        ],
    }  # fmt: skip
    (load,) = _fold(tables).loads
    assert (load.state, load.process, load.pid) == ("running", "llama-server", 4711)
    assert load.file == "/models/a.gguf"
    assert load.done_bytes == 3 * MIB
    assert load.progress is None
    assert load.residency is None
    assert draw.label(load) == "llama-server 4711"
    cell = {column.key: str(column.cell(load, frozenset(), 12)) for column in order.COLUMNS}
    assert cell["progress"] == "3M read"
    assert order.matches(load, "gguf")
    text = str(pages.detail(_fold(tables), load, 100))
    assert "llama-server -m /models/a.gguf" in text
    gone = {**tables, "snapshots": [*tables["snapshots"], *_thread(6_000, "exit")]}
    assert _fold(gone).loads[0].state == "exited"
    for ended, end, state, shown_ in (
        ("exit code 0", 9_000, "exited", "exit 0"),
        ("signal 9", 9_000, "exited", "signal 9"),
        ("", 9_000, "ran on", "ran on"),
    ):
        row = _observed(ended=ended, end_ns=end, bytes=3 * MIB, wall_ns=8_000)
        (load,) = _fold({**tables, "loads": [row]}).loads
        assert (load.state, draw.outcome(load), load.done_bytes) == (state, shown_, 3 * MIB)


def test_of_several_processes_each_has_the_page_cache_of_the_files_it_loads() -> None:
    """The rows of the page cache go with the first one, whoever brought it in."""
    tables = {
        "loads": [_observed(), _observed(load_id=2, pid=12), _observed(load_id=3, pid=13)],
        "page_cache": [
            {**_pages(10, ino, ino * MIB), "dev": followed.MODEL[0]} for ino in (50, 51, 7)
        ],
        "ways": [
            followed.way(followed.MODEL, 20, MIB, load_id=2, tgid=12),
            followed.way(followed.TOKENS, 20, MIB, load_id=2, tgid=12, way="written"),
            followed.way(followed.TOKENS, 20, MIB, load_id=3, tgid=13),
        ],
    }
    loads = _fold(tables).loads
    assert [load.memory.cached for load in loads] == [0, 101 * MIB, 51 * MIB]
    assert [load.memory.cached_peak for load in loads] == [0, 101 * MIB, 51 * MIB]
    alone = _fold({**tables, "loads": tables["loads"][:1], "ways": []}).loads
    assert [load.memory.cached for load in alone] == [108 * MIB]
    blind = [{"name": "filemap_read", "phase": "copy", "attached": None, "hides": "reads"}]
    loads = _fold(tables, hooks=blind).loads
    assert [load.memory.cached for load in loads] == [None] * 3


_SAMPLED = {
    "detail": "sampled",
    "sample_hz": 199,
    "hooks": [
        {"name": "shmem_alloc_and_add_folio", "phase": "shmem", "attached": "samples",
         "hides": None},
    ],
}  # fmt: skip


def test_a_sampled_recording_is_divided_as_the_report_does_it(tmp_path: Path) -> None:
    samples = [
        {"t_ns": 1_000_000 + n * 100_000, "load_id": 1, "tid": 100, "cell": "copy",
         "phase": "shmem" if n % 3 else "copy", "functions": "", "count": 1}
        for n in range(9)
    ]  # fmt: skip
    path = _recording(tmp_path / "a.dmt", _SAMPLED, {"samples": samples})
    (load,) = replay(path).read().loads
    (theirs,) = document(Recording.open(path))["loads"]
    (thread,) = theirs["threads"]
    found = {t.phase: (t.cpu, t.blocked, t.runnable, t.entries) for t in load.threads[0].phases}
    names = ("cpu_ns", "blocked_ns", "runnable_ns", "count")
    assert found == {row["phase"]: tuple(row[n] for n in names) for row in thread["phases"]}
    assert "shmem" in found
    assert found["copy"][3] is None


def test_what_samples_do_not_count_is_not_0() -> None:
    row = synthetic.load(1, "memfd-bio", start_ns=0, end_ns=0, wall_ns=0)
    running = _fold({"loads": [_whole(row)], "page_cache": [_pages(9, 1, 5)]}, **_SAMPLED)
    assert running.loads[0].memory.shmem is None
    assert all(point.shmem is None for point in running.series)
    text = str(pages.memory(running, running.loads[0], 100))
    assert "shmem           not counted with --detail sampled" in text
    ended = _fold({"loads": [_whole(synthetic.load(1, "memfd-bio", shmem=MIB))]}, **_SAMPLED)
    assert ended.loads[0].memory.shmem == MIB


def test_what_was_lost_is_said_by_kind() -> None:
    snapshot = _fold({}, lost_events=5, lost={"ring": 3, "threads": 0, "missed": 2})
    assert "5 events LOST (ring 3, missed 2)" in str(head(snapshot, State(), 100))
    unknown = _fold({}, lost_events=3, lost={"ring": 3, "missed": None})
    assert "3 events LOST (ring 3)" in str(head(unknown, State(), 100))


@pytest.mark.asyncio
async def test_memory_shows_pressure_and_pinned() -> None:
    app = top(REAL)
    async with app.run_test(size=WIDE) as pilot:
        await shown(pilot)
        app.action_view("memory")
        await settled(pilot)
        text = str(app.query_one("#memory .picture", Static).content)
        for word in ("pinned", "PSI memory", "PSI io", "pressure on the machine (PSI)"):
            assert word in text


def test_files_in_memory_that_come_and_go() -> None:
    """Thousands of memfds: the line has their sum at each step, and none is kept."""
    feeding = ledger.Ledger()
    for n in range(3000):
        feeding.page_cache(_pages(2 * n, 10 + n, 5 * MIB, "shmem"))
        feeding.page_cache(_pages(2 * n, 5, n + 1, "shmem"))
        feeding.page_cache(_pages(2 * n + 1, 10 + n, 0, "shmem"))
    *_, last = feeding.series(frozenset())
    assert (last.t, last.shmem) == (5999, 3000)
    assert max(point.shmem or 0 for point in feeding.series(frozenset())) == 5 * MIB + 3000
    assert len(feeding._pages) == 1
    feeding.ended(1, 6000)
    *_, last = feeding.series(frozenset())
    assert (last.t, last.shmem) == (6000, 0)


def test_files_of_which_nothing_is_cached_are_listed_up_to_a_number() -> None:
    feeding = ledger.Ledger()
    feeding.page_cache(_pages(1, 1, 7 * MIB))
    feeding.page_cache(_pages(2, 1, 6 * MIB))
    for n in range(5000):
        feeding.page_cache(_pages(3 + 2 * n, 100 + n, MIB))
        feeding.page_cache(_pages(4 + 2 * n, 100 + n, 0))
    files = feeding.files()
    assert (files[0].name, files[0].cached) == ("inode 1", 6 * MIB)
    assert ledger._EMPTY // 2 < len(files) <= ledger._EMPTY + 1
    assert {file.name for file in files} >= {f"inode {100 + n}" for n in range(4800, 5000)}
    *_, last = feeding.series(frozenset())
    assert last.cached == 6 * MIB
    assert feeding.held([(7, 1), (7, 5099)]) == (6 * MIB, 6 * MIB)


def test_of_very_many_files_the_largest_are_listed() -> None:
    found = [_pages(n + 1, 10 + n, MIB * (n + 1)) for n in range(260)]
    snapshot = _fold({"page_cache": found})
    lines = _lines(pages.memory(snapshot, None, 100))
    first = next(n for n, line in enumerate(lines) if line.startswith("file in the page cache"))
    assert lines[first + 1].split()[:3] == ["inode", "269", "260M"]
    assert lines[first + 200].split()[:3] == ["inode", "70", "61M"]
    rest = sum(range(1, 61))
    assert lines[first + 201].split() == ["and", "60", "smaller", "ones", f"{rest / 1024:.2f}G"]
