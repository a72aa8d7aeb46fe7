"""The view's figures are the report's, at the end; before it, they are what was seen by then."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
import synthetic
from views import END, RACE, REAL, blind, many, pieces, replay, without_hooks

from dmatrace.analysis.document import document
from dmatrace.analysis.hidden import HIDDEN_BY
from dmatrace.recording import Recording, Writer
from dmatrace.recording.tail import Tail
from dmatrace.tui import fold, order, pages
from dmatrace.tui.fold import Fold
from dmatrace.tui.model import Load, Snapshot


def _last(path: Path) -> Snapshot:
    return replay(path).read()


def _equal(path: Path, snapshot: Snapshot) -> None:
    """Every figure of every load, as ``report`` has it."""
    found = document(Recording.open(path))
    loads = {load.load_id: load for load in snapshot.loads if load.load_id}
    assert loads.keys() == {load["load_id"] for load in found["loads"]}
    for theirs in found["loads"]:
        _one(loads[theirs["load_id"]], theirs)


def _one(ours: Load, theirs: dict) -> None:  # type: ignore[type-arg]
    phases: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for thread in theirs["threads"]:
        for row in thread["phases"]:
            for place, name in enumerate(("cpu_ns", "blocked_ns", "runnable_ns", "count")):
                phases[row["phase"]][place] += row[name]
    assert {times.phase: list(times[1:]) for times in ours.phases} == phases
    assert [thread.tid for thread in ours.threads] == [row["tid"] for row in theirs["threads"]]
    assert [thread.wall for thread in ours.threads] == [row["wall_ns"] for row in theirs["threads"]]
    assert ours.copied == theirs["copies"]["cpu_bytes"]
    assert ours.state in ("done", "refused", "failed")
    if ours.state == "done":
        assert ours.copies_per_byte == theirs["copies"]["per_byte"]
        assert ours.done_bytes == theirs["bytes"]
    assert (ours.verdict, ours.why) == (theirs["direct"]["verdict"], theirs["direct"]["why"])
    assert ours.direct_bytes == theirs["direct"]["direct_bytes"]
    assert ours.io is not None
    assert ours.io.requests == theirs["block"]["requests"]
    assert ours.io.read_bytes == theirs["block"]["read_bytes"]
    quantiles = {name: getattr(ours.io, name) for name in ("p50", "p90", "p99", "max")}
    assert quantiles == theirs["block"]["latency_ns"]
    assert {str(size): n for size, n in ours.io.size_hist} == theirs["block"]["size_hist"]
    overlap = dict(zip(("alloc_ns", "io_ns", "both_ns"), ours.overlap, strict=True))
    assert overlap == theirs["overlap"]
    memory = theirs["memory"]
    assert ours.memory.cached == memory["page_cache_end"]
    assert ours.memory.added == memory["page_cache_added"]
    assert ours.memory.dmabuf == memory["dmabuf"]
    assert ours.memory.pinned_peak == memory["pinned_peak"]
    assert ours.elapsed == theirs["wall_ns"]


def test_a_real_recording() -> None:
    _equal(REAL, _last(REAL))


def test_what_a_live_view_leaves_unread_is_not_missed() -> None:
    """It takes of some tables only the columns that it looks at."""
    feeding = Fold()
    for table, rows in Tail.open(REAL, fold.COLUMNS).poll().items():
        feeding.feed(table, rows)
        assert set(rows[0]) == set(fold.COLUMNS.get(table, rows[0]))
    meta = Recording.open(REAL).meta
    _equal(REAL, feeding.snapshot(meta, feeding.last, title="", state="ended"))


def test_a_synthetic_recording(tmp_path: Path) -> None:
    path = synthetic.write(tmp_path / "a.dmt", rounds=3)
    _equal(path, _last(path))


@pytest.mark.parametrize("size", [1, 3, 50])
def test_rows_in_pieces_of_any_size_and_order_of_tables(size: int) -> None:
    """A live view gets tables one after the other, a few rows at a time."""
    tables = Tail.open(REAL).poll()
    feeding = Fold()
    last = next(iter(tables))
    for number, table, rows in pieces(tables, size):
        feeding.feed(table, rows)
        if table == last and number % 40 == 39:
            feeding.snapshot({}, feeding.last, title="", state="live")
    meta = Recording.open(REAL).meta
    _equal(REAL, feeding.snapshot(meta, feeding.last, title="", state="ended"))


def test_a_load_that_has_ended_keeps_its_figures_and_not_its_rows() -> None:
    feeding = Fold()
    for table, rows in Tail.open(REAL).poll().items():
        feeding.feed(table, rows)
    meta = Recording.open(REAL).meta
    for _ in range(4):
        snapshot = feeding.snapshot(meta, feeding.last, title="", state="ended")
        feeding.settle()
    assert feeding.rows == 0
    _equal(REAL, snapshot)
    feeding.feed("requests", Tail.open(REAL).poll()["requests"])  # late: nobody's any more
    _equal(REAL, feeding.snapshot(meta, feeding.last, title="", state="ended"))


def test_the_oldest_of_very_many_loads_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "KEEP", 20)
    feeding = Fold()
    for table, rows in Tail.open(many(tmp_path / "a.dmt", 25)).poll().items():
        feeding.feed(table, rows)
    first = feeding.snapshot({}, feeding.last, title="", state="live")
    for _ in range(4):
        feeding.snapshot({}, feeding.last, title="", state="live")
        feeding.settle()
    assert [load.load_id for load in feeding.snapshot({}, 0, title="", state="live").loads] == list(
        range(25 - (20 - 2) + 1, 26)  # a tenth more than it must, or each new one moves them all
    )
    assert len(first.loads) == 25


def test_time_of_every_moment_adds_up() -> None:
    """At any moment, a running thread's phases sum to the time between its two last marks."""
    player = replay(at=0)
    length = player.read().transport
    assert length is not None
    running = 0
    for percent in range(1, 100, 3):
        player.jump(length.length * percent // 100)
        snapshot = player.read()
        done = [load for load in snapshot.loads if load.state == "done"]
        assert all(load.progress == 1.0 for load in done)
        for load in snapshot.loads:
            running += load.state == "running"
            for thread in load.threads:
                # The recorder reads its clock, then one by one the threads, which run on.
                assert thread.total == pytest.approx(thread.wall, rel=0.02, abs=10_000_000)
    assert running > 10


def test_progress_never_goes_back() -> None:
    player = replay(at=0)
    before: dict[str, float] = {}
    transport = player.read().transport
    assert transport is not None
    for at in range(0, transport.length, transport.length // 60):
        player.jump(at)
        for load in player.read().loads:
            if load.progress is not None:
                assert load.progress >= before.get(load.key, 0.0)
                before[load.key] = load.progress


def test_what_is_hidden_is_never_zero(tmp_path: Path) -> None:
    snapshot = _last(without_hooks(tmp_path / "a.dmt"))
    assert {"cached", "requests", "copies", "dmabuf"} <= snapshot.hidden
    for load in snapshot.loads:
        assert load.memory.cached is None
        assert load.memory.dmabuf is None
        assert load.copies_per_byte is None
        assert load.copied is None
        assert load.io is None
        assert load.residency is None
        assert load.memory.shmem is not None
    assert snapshot.missing[0].name == "page-cache ledger"


@pytest.mark.parametrize("share", [0.3, 0.6, 2])
def test_views_say_hidden_with_the_hooks_name(tmp_path: Path, share: float) -> None:
    """In the middle of loads and at the end, of a recording that has none of these figures."""
    player = replay(blind(tmp_path / "a.dmt", RACE), 0)
    transport = player.read().transport
    assert transport is not None
    player.jump(int(transport.length * share))
    snapshot = player.read()
    assert snapshot.hidden == set(HIDDEN_BY)
    begun = [load for load in snapshot.loads if load.state in ("running", "done")]
    assert begun
    for load in begun:
        assert (load.verdict, load.io, load.residency) == ("hidden", None, None)
        assert load.progress == (1.0 if load.state == "done" else None)
        for column in order.COLUMNS:
            cell = column.cell(load, snapshot.hidden, 20).plain
            if column.key in ("cached", "copies", "verdict"):
                assert cell == "hidden"
            elif column.key == "rate" and load.state == "running":
                assert cell == "-"
        memory = pages.memory(snapshot, load, 78).plain
        io = pages.io(snapshot, load, 78).plain
        detail = pages.detail(snapshot, load, 78).plain
        for text, names in (
            (memory, ("page-cache ledger", "dma_buf_export", "shmem_alloc", "pin_user_pages")),
            (io, ("__iomap_dio_rw", "filemap_read, generic_perform_write", "block requests")),
            (detail, ("block requests",)),
        ):
            for name in names:
                assert name in text
        for line in (*io.splitlines(), *detail.splitlines()):
            if line.strip().startswith(("direct  ", "buffered  ", "disk reads  ")):
                assert "hidden: " in line
        bill = detail[detail.index("\nmemory\n") :].splitlines()[2:]
        assert len(bill) == 7
        assert all(line.endswith("hidden") for line in bill)


def test_strategies_without_a_load_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.dmt"
    target = {"kind": "strategy", "strategies": ["dmabuf-bio", "anon-bio", "dmabuf-rwfile-dio"]}
    with Writer.create(path, {**synthetic.META, "target": target}) as writer:
        synthetic.write_load(writer, 1, "dmabuf-bio")
        states = {load.strategy: load.state for load in replay(path).read().loads}
        expected = {"dmabuf-bio": "done", "anon-bio": "waiting", "dmabuf-rwfile-dio": "skipped"}
        assert states == expected
    states = {load.strategy: load.state for load in replay(path).read().loads}
    assert states == {"dmabuf-bio": "done", "dmabuf-rwfile-dio": "skipped"}


def test_a_load_that_was_cut_off_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.dmt"
    with Writer.create(path, {**synthetic.META, "skipped": []}) as writer:
        row = synthetic.load(1, "dmabuf-bio", start_ns=0, end_ns=0, wall_ns=0)
        writer.append("loads", [row])
        key = (1, 100, 1_000_000, 0, "begin")
        writer.append("snapshots", synthetic.snapshot(key, {"user": (0, 0, 0, 1)}))
        key = (1, 100, 3_000_000, 0, "poll")
        writer.append("snapshots", synthetic.snapshot(key, {"user": (1_500_000, 500_000, 0, 1)}))
    (load,) = replay(path, END).read().loads
    assert load.state == "cut off"
    assert load.total == 2_000_000


def test_memory_over_time() -> None:
    snapshot = _last(REAL)
    size = 64 << 20
    assert max(point.cached or 0 for point in snapshot.series) == size
    shmem = max(point.shmem or 0 for point in snapshot.series)
    assert shmem == pytest.approx(size, rel=0.02)  # and what a loader allocates besides
    assert max(point.dmabuf or 0 for point in snapshot.series) == size
    assert snapshot.series[-1].dmabuf == 0
    assert [point.t for point in snapshot.series] == sorted(point.t for point in snapshot.series)
    exported = Recording.open(REAL).table("buffers")
    assert len(snapshot.buffers) == (exported["event"] == "export").sum()
    assert {heap.name for heap in snapshot.heaps} == set(exported["exporter"]) - {""}
    (file,) = snapshot.files
    assert file.peak == size


def test_residency() -> None:
    loads = {load.strategy: load for load in _last(REAL).loads}
    assert loads["dmabuf-bio"].residency == pytest.approx(2.0, abs=0.01)
    assert loads["udmabuf-dio"].residency == pytest.approx(1.0, abs=0.01)
    # Its buffer is the page cache, mapped.
    assert loads["filemap-bio"].residency == pytest.approx(1.0, abs=0.01)
