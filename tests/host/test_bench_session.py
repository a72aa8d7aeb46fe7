"""The bench's conduct: what it plans, refuses, runs and in which order, and what it puts back.

The loads themselves run in the guest (tests/guest/test_bench.py); here a
scripted recorder stands where they would be, so that every failure can be had.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmatrace.analysis.bench import Entry, Measurements
from dmatrace.errors import CannotHere, DmatraceError, UsageError
from dmatrace.literature import H3, V2
from dmatrace.session import bench, benchplan
from dmatrace.session.bar import Bar
from dmatrace.session.bench import measure
from dmatrace.session.benchplan import Options, plan
from dmatrace.session.estimate import Took, in_words, seconds_left
from dmatrace_loaders import native
from dmatrace_loaders.errors import ModuleMissing
from dmatrace_loaders.strategy import Strategy

MIB, GIB = 1 << 20, 1 << 30


def _options(**given: Any) -> Options:
    options = Options(
        table=None, globs=None, sizes=(MIB,), file=None, directory="/var/tmp", rounds=2,
        warmup=0, pressure=0, block=None, jobs=1, depth=1, gather=128 * MIB, verify="sampled",
        trace=None, force=False, say=Bar(quiet=True),
    )  # fmt: skip
    return dataclasses.replace(options, **given)


# --- what is planned


def test_a_table_as_published() -> None:
    found = plan(_options(table="V2", sizes=None))
    assert [row.strategy for row in found.rows] == [row.strategy for row in V2.rows]
    assert found.sizes == V2.sizes
    assert found.pressures == (0,)
    assert (found.buffers, found.block) == (1, GIB)


def test_thirty_two_buffers_read_whole() -> None:
    found = plan(_options(table="H3", sizes=None))
    assert (found.sizes, found.buffers, found.block) == ((GIB,), 32, 32 * MIB)
    found = plan(_options(table="H2", sizes=(256 * MIB,), pressure=GIB))
    assert (found.buffers, found.block, found.pressures) == (32, 8 * MIB, (0, GIB))
    assert found.each(256 * MIB) == 8 * MIB


def test_a_block_is_whole_pages_and_one_for_each_job() -> None:
    odd = 16_777_999  # in 32 buffers of at most 524,313 bytes
    assert plan(_options(table="H3", sizes=(odd,))).block == 528_384
    assert plan(_options(table="H3", sizes=(256 * MIB,), jobs=4)).block == 2 * MIB
    assert plan(_options(table="V2", sizes=(3 * GIB,), jobs=4)).block == 768 * MIB


def test_a_block_of_ones_own() -> None:
    assert plan(_options(table="H3", block=MIB)).block == MIB
    assert plan(_options()).block == MIB
    assert plan(_options(sizes=None)).sizes == (256 * MIB,)


def test_a_file_has_its_own_size(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(5000))
    assert plan(_options(sizes=None, file=str(tmp_path / "a"))).sizes == (5000,)
    with pytest.raises(UsageError, match="has a size of its own"):
        plan(_options(file=str(tmp_path / "a")))
    with pytest.raises(DmatraceError, match="No such file"):
        plan(_options(sizes=None, file=str(tmp_path / "b")))


def test_no_size_of_nothing() -> None:
    with pytest.raises(UsageError, match="at least 1 byte"):
        plan(_options(sizes=(MIB, 0)))


def test_a_size_twice_is_one() -> None:
    assert plan(_options(sizes=(MIB, GIB, MIB))).sizes == (MIB, GIB)


@pytest.mark.parametrize(
    ("globs", "rows"),
    [
        ("udmabuf-sendfile-*", [1, 13, 14]),
        ("dmabuf-bio", [1, 23]),
        ("*-cfr-dio", [1, 10, 18, 20, 22]),
        ("memfd-bio, memfd-dio", [1, 3, 4]),
        ("*", list(range(1, 24))),
    ],
)
def test_globs_keep_row_1(globs: str, rows: list[int]) -> None:
    assert [row.number for row in plan(_options(table="H3", globs=globs)).rows] == rows


def test_globs_without_a_table() -> None:
    found = plan(_options(globs="anon-*"))
    assert [row.strategy for row in found.rows] == ["anon-bio", "anon-dio"]


@pytest.mark.parametrize(
    ("table", "globs", "said"),
    [
        ("H3", "memfd-boi", "did you mean memfd-bio"),
        ("LL", "udmabuf-*", "nothing in table LL is called so"),
        (None, "nosuch", "nothing in the strategies"),
        (None, " , ", "names nothing"),
    ],
)
def test_globs_that_match_nothing(table: str | None, globs: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        plan(_options(table=table, globs=globs))
    assert "\n" not in str(caught.value)
    assert caught.value.code == 2


# --- what runs, in which order


Outcome = Callable[[str, int, int], dict[str, Any]]


@dataclasses.dataclass
class Script:
    """What a scripted recorder was told, and what it answers by (strategy, round, load)."""

    outcome: Outcome = lambda strategy, number, load: {}
    loads: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    requests: list[Any] = dataclasses.field(default_factory=list)
    closed: int = 0
    recorder: Any = None


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    told = Script()

    class Scripted:
        def __init__(self, request: Any, *_: object) -> None:
            told.requests.append(request)

        def load(self, strategy: str, number: int, load_id: int | None) -> dict[str, Any]:
            assert load_id == len(told.loads) + 1
            told.loads.append((strategy, number))
            row = {"create_ns": 1000, "io_ns": 2000, "close_ns": 10, "verified": True}
            return row | told.outcome(strategy, number, load_id)

        def close(self) -> None:
            told.closed += 1

    told.recorder = Scripted
    monkeypatch.setattr(bench, "Recorder", Scripted)
    monkeypatch.setattr(benchplan.Checks, "why_not", lambda *_: None)
    monkeypatch.setattr(bench.module, "loaded", lambda *_: nullcontext())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return told


def _run(tmp_path: Path, **given: Any) -> Measurements:
    return measure(_options(directory=str(tmp_path), **given))


def _cells(measured: Measurements) -> dict[int, Any]:
    return {cell.row: cell for cell in measured.cells}


def test_rounds_are_interleaved(script: Script, tmp_path: Path) -> None:
    measured = _run(tmp_path, globs="anon-*,filemap-bio", rounds=3)
    once = ["filemap-bio", "anon-bio", "anon-dio"]
    assert script.loads == [(name, number) for number in (1, 2, 3) for name in once]
    assert [len(cell.samples) for cell in measured.cells] == [3, 3, 3]
    assert [sample.round for sample in measured.cells[0].samples] == [1, 2, 3]
    assert measured.rounds == 3
    assert not list(tmp_path.iterdir())
    assert script.closed == 1


def test_warm_up_rounds_do_not_count(script: Script, tmp_path: Path) -> None:
    measured = _run(tmp_path, globs="anon-bio", rounds=2, warmup=2)
    assert len(script.loads) == 4
    assert [sample.round for sample in measured.cells[0].samples] == [1, 2]


def test_sizes_come_one_after_the_other(script: Script, tmp_path: Path) -> None:
    """So that no more than one file is there at a time."""
    seen: list[tuple[int, list[int]]] = []

    def outcome(strategy: str, number: int, load: int) -> dict[str, Any]:
        seen.append((load, [path.stat().st_size for path in tmp_path.iterdir()]))
        return {}

    script.outcome = outcome
    measured = _run(tmp_path, globs="anon-*", sizes=(MIB, 4096), rounds=1)
    assert [sizes for _, sizes in seen] == [[MIB], [MIB], [4096], [4096]]
    assert {(cell.size, cell.row) for cell in measured.cells} == {
        (size, row.number) for size in (MIB, 4096) for row in measured.rows
    }


def test_the_request_is_the_tables(script: Script, tmp_path: Path) -> None:
    _run(tmp_path, table="H3", sizes=(64 * MIB,), rounds=1, jobs=3, depth=4, verify="full")
    (request,) = script.requests
    assert (request.buffers, request.block) == (32, 700_416)  # a third of 2 MiB, in pages
    assert (request.jobs, request.depth, request.verify, request.cold) == (3, 4, "full", True)
    assert [name for name, _ in script.loads] == [row.strategy for row in H3.rows]


def test_a_failed_load_is_one_of_its_round(script: Script, tmp_path: Path) -> None:
    script.outcome = lambda strategy, number, load: (
        {"failed": "the loader process ended"} if (strategy, number) == ("anon-bio", 2) else {}
    )
    measured = _run(tmp_path, globs="anon-*", rounds=3)
    first, second = measured.cells
    assert [sample.failed for sample in first.samples] == ["", "the loader process ended", ""]
    assert [sample.verified for sample in first.samples] == [True, False, True]
    assert not any(sample.failed for sample in second.samples)


def test_an_error_beside_the_loader_fails_the_load(script: Script, tmp_path: Path) -> None:
    def outcome(strategy: str, number: int, load: int) -> dict[str, Any]:
        if load == 1:
            raise DmatraceError("cannot drop the page cache", do="run as root")
        return {}

    script.outcome = outcome
    measured = _run(tmp_path, globs="anon-*")
    assert measured.cells[0].samples[0].failed == "cannot drop the page cache; run as root"
    assert len(script.loads) == 4


def test_what_cannot_run_is_left_out_from_then_on(script: Script, tmp_path: Path) -> None:
    def outcome(strategy: str, number: int, load: int) -> dict[str, Any]:
        if strategy == "anon-bio":
            raise CannotHere("no memory", do="free some")
        return {}

    script.outcome = outcome
    measured = _run(tmp_path, globs="anon-*", rounds=3)
    assert [name for name, _ in script.loads] == ["anon-bio", "anon-dio", "anon-dio", "anon-dio"]
    first, second = measured.cells
    assert (first.why, first.do, first.samples) == ("no memory", "free some", ())
    assert len(second.samples) == 3


def test_a_refusal_is_a_reason(script: Script, tmp_path: Path) -> None:
    script.outcome = lambda strategy, *_: (
        {"refused": "EFAULT: VM_PFNMAP"} if strategy == "dmabuf-dio" else {}
    )
    measured = _run(tmp_path, globs="dmabuf-dio,anon-dio", rounds=2)
    assert measured.cells[0].why == "refused: EFAULT: VM_PFNMAP"
    assert script.loads.count(("dmabuf-dio", 1)) == 1
    assert ("dmabuf-dio", 2) not in script.loads


def test_an_unverified_load_has_failed(script: Script, tmp_path: Path) -> None:
    script.outcome = lambda *_: {"verified": False, "failed": "content differs"}
    measured = _run(tmp_path, globs="anon-bio", rounds=1)
    assert measured.cells[0].samples[0].failed == "content differs"


def test_ctrl_c_keeps_what_was_measured(script: Script, tmp_path: Path) -> None:
    def outcome(strategy: str, number: int, load: int) -> dict[str, Any]:
        if load == 4:
            signal.raise_signal(signal.SIGTERM)
        return {}

    script.outcome = outcome
    before = signal.getsignal(signal.SIGTERM)
    measured = _run(tmp_path, globs="anon-*", rounds=5)
    assert measured.interrupted
    assert [len(cell.samples) for cell in measured.cells] == [2, 1]
    assert not list(tmp_path.iterdir())
    assert script.closed == 1
    assert signal.getsignal(signal.SIGTERM) == before


def test_ctrl_c_before_anything_was_measured(script: Script, tmp_path: Path) -> None:
    def outcome(*_: object) -> dict[str, Any]:
        raise KeyboardInterrupt

    script.outcome = outcome
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, globs="anon-*")
    assert not list(tmp_path.iterdir())


# --- memory pressure


class Hungry:
    """Stands for the eater's process."""

    made: list[Hungry] = []  # noqa: RUF012
    gone = False

    def __init__(self, size: int) -> None:
        self.size, self.closed = size, False
        Hungry.made.append(self)

    def check(self) -> None:
        if Hungry.gone:
            raise DmatraceError("the process that held memory is gone", do="take less")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def hungry(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Hungry]]:
    monkeypatch.setattr(Hungry, "made", [])
    monkeypatch.setattr(Hungry, "gone", False)
    monkeypatch.setattr("dmatrace.session.eater.Eater", Hungry)
    yield Hungry.made
    assert all(each.closed for each in Hungry.made)


def test_everything_a_second_time(script: Script, hungry: list[Hungry], tmp_path: Path) -> None:
    measured = _run(tmp_path, globs="anon-*", pressure=MIB, rounds=2)
    assert [(cell.row, cell.eaten) for cell in measured.cells] == [
        (row.number, eaten) for eaten in (0, MIB) for row in measured.rows
    ]
    assert all(len(cell.samples) == 2 for cell in measured.cells)
    assert [each.size for each in hungry] == [MIB]


def test_pressure_that_is_gone_fails_its_loads(
    script: Script, hungry: list[Hungry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hungry, "gone", True)
    measured = _run(tmp_path, globs="anon-bio", pressure=MIB, rounds=2)
    clean, pressed = measured.cells
    assert not any(sample.failed for sample in clean.samples)
    assert all("is gone" in sample.failed for sample in pressed.samples)


def test_pressure_that_goes_during_a_load_fails_it(
    script: Script, hungry: list[Hungry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outcome(strategy: str, number: int, load: int) -> dict[str, Any]:
        Hungry.gone = load == 3
        return {}

    script.outcome = outcome
    _, pressed = _run(tmp_path, globs="anon-bio", pressure=MIB, rounds=2).cells
    assert "is gone" in pressed.samples[0].failed
    assert len(script.loads) == 3  # and round 2 under pressure is not even begun
    assert "is gone" in pressed.samples[1].failed


def test_memory_that_cannot_be_had_leaves_the_clean_half(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(size: int) -> None:
        raise DmatraceError("1 MiB of memory cannot be taken", do="take less")

    monkeypatch.setattr("dmatrace.session.eater.Eater", fails)
    measured = _run(tmp_path, globs="anon-*", pressure=MIB, rounds=1)
    clean = [cell for cell in measured.cells if not cell.eaten]
    pressed = [cell for cell in measured.cells if cell.eaten]
    assert all(len(cell.samples) == 1 for cell in clean)
    assert [cell.why for cell in pressed] == ["1 MiB of memory cannot be taken"] * 2


def test_too_much_pressure_is_refused_before_anything(script: Script, tmp_path: Path) -> None:
    with pytest.raises(CannotHere, match=r"(at most|nothing) .*can be taken here") as caught:
        _run(tmp_path, globs="anon-*", pressure=1 << 50)
    assert caught.value.code == 3
    assert script.loads == []
    assert not list(tmp_path.iterdir())


# --- what is refused


def test_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CannotHere, match="needs root") as caught:
        measure(_options())
    assert (caught.value.code, caught.value.do) == (3, "run it with sudo")


def test_if_no_row_can_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(benchplan.Checks, "why_not", lambda *_: ("no heap", "x"))
    monkeypatch.setattr(bench.module, "loaded", lambda *_: nullcontext())
    with pytest.raises(CannotHere, match="no row can run here: no heap; x"):
        _run(tmp_path, table="H3")
    assert not list(tmp_path.iterdir())


def test_no_room_for_the_file(script: Script, tmp_path: Path) -> None:
    with pytest.raises(DmatraceError, match="no room for 1 EiB"):
        _run(tmp_path, sizes=(1 << 60,))
    with pytest.raises(DmatraceError, match="no directory"):
        measure(_options(directory=str(tmp_path / "none")))


def test_a_row_that_no_strategy_reproduces() -> None:
    checks = benchplan.Checks(plan(_options(globs="anon-bio")), None)
    why, do = checks.why_not(Entry(3, "x", "no-such-bio"), MIB, None) or ("", "")
    assert "no strategy no-such-bio" in why
    assert do


def test_without_the_module_the_other_rows_run(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why it could not be loaded stands with each row that needs it."""

    @contextmanager
    def loaded(*_: object) -> Iterator[None]:
        raise CannotHere("no kernel headers", do="apt install them")
        yield

    def check(strategy: Strategy, size: int, buffers: int = 1) -> None:
        if native.module in strategy.needs:
            raise ModuleMissing

    monkeypatch.undo()
    monkeypatch.setattr(bench, "Recorder", script.recorder)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(bench.module, "loaded", loaded)
    monkeypatch.setattr(Strategy, "check", check)
    measured = _run(tmp_path, globs="anon-*,dmabuf-allocread-bio", rounds=1)
    cells = {measured.rows[at].strategy: cell for at, cell in enumerate(measured.cells)}
    assert cells["dmabuf-allocread-bio"].why == "no kernel headers"
    assert cells["dmabuf-allocread-bio"].do == "apt install them"
    assert cells["anon-bio"].samples


def test_what_the_module_reports_is_kept(script: Script, tmp_path: Path) -> None:
    told = '{"calls": 1, "alloc_ns": 5, "vmap_ns": 6, "read_ns": 7, "bytes": 8}'
    script.outcome = lambda *_: {"module": told}
    measured = _run(tmp_path, globs="anon-bio", rounds=1)
    assert measured.cells[0].samples[0].split == {"alloc_ns": 5, "vmap_ns": 6, "read_ns": 7}


def test_limits_are_those_of_one_buffer(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 buffers of 2 MiB need no limit of 64 MiB raised."""
    asked: list[tuple[tuple[str, ...], int]] = []

    @contextmanager
    def raised(names: tuple[str, ...], size: int, say: object) -> Iterator[None]:
        asked.append((names, size))
        yield

    monkeypatch.setattr(bench, "raised", raised)
    _run(tmp_path, table="H2", sizes=(64 * MIB,), rounds=1)
    ((names, size),) = asked
    assert size == 2 * MIB
    assert "udmabuf-dio" in names


# --- how long it will take

LOADS = st.tuples(st.integers(1, 3), st.sampled_from([MIB, GIB]), st.sampled_from([0, GIB]))
TOOK = st.floats(0.001, 1e5)
DONE = st.builds(
    lambda load, fixed, loading: Took(load, fixed + loading, loading), LOADS, TOOK, TOOK
)


@given(st.lists(DONE, min_size=1, max_size=10), st.lists(LOADS, max_size=10))
def test_an_estimate_is_a_sum_of_what_was_seen(
    done: list[Took], todo: list[tuple[int, int, int]]
) -> None:
    found = seconds_left(done, todo)
    assert found is not None
    least = min(took.seconds for took in done)
    most = max(took.seconds for took in done)
    assert len(todo) * least / 1024 * 0.999 <= found <= len(todo) * most * 1024 * 1.001
    assert seconds_left(done, []) == 0


def test_an_estimate_by_hand() -> None:
    done = [Took((1, MIB, 0), 2.0, 0.5), Took((1, MIB, 0), 4.0, 1.5), Took((2, MIB, 0), 9.0, 4.0)]
    assert seconds_left(done, [(1, MIB, 0)]) == 3  # as it took
    assert seconds_left(done, [(3, MIB, 0)]) == 5  # as others of its size took
    assert seconds_left(done, [(1, MIB, GIB)]) == 5  # as in clean memory
    # 3 s beside loading, and 2 s of loading, four times as long.
    assert seconds_left(done, [(1, 4 * MIB, 0)]) == 3 + 8
    assert seconds_left(done, [(1, MIB, 0), (3, MIB, 0)]) == 8
    assert seconds_left([], [(1, MIB, 0)]) is None


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "1.5 h")],
)
def test_estimates_in_words(seconds: float, said: str) -> None:
    assert in_words(seconds) == said


# --- the bar


def test_a_line_per_load_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar()
    bar.plan([(1, MIB, 0), (2, MIB, 0), (1, MIB, 0), (2, MIB, 0)])
    bar.begin("round 1/2, row 1 anon-bio")
    bar.end(10.0, 1.0, "1.00 s")
    bar.begin("round 1/2, row 2 anon-dio")
    bar.end(20.0, 2.0, "2.00 s")
    bar.leave_out((2, MIB, 0))
    bar.begin("round 2/2, row 1 anon-bio")
    bar.now("never shown here")
    bar.end(10.0, 0.0, "failed: no", stays=True)
    bar.stop()
    assert capsys.readouterr().err.splitlines() == [
        "[1/4] round 1/2, row 1 anon-bio: 1.00 s, about 30 s left",
        "[2/4] round 1/2, row 2 anon-dio: 2.00 s, about 30 s left",
        "[3/3] round 2/2, row 1 anon-bio: failed: no",
    ]


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar(quiet=True)
    bar.plan([(1, MIB, 0)])
    bar.begin("x")
    bar.end(1.0, 1.0, "y")
    bar("z")
    assert capsys.readouterr().err == ""


@given(st.lists(st.tuples(st.integers(1, 3), TOOK), min_size=1, max_size=20))
def test_the_fraction_never_falls(loads: list[tuple[int, float]]) -> None:
    bar = Bar(quiet=True)
    bar.plan([(row, MIB, 0) for row, _ in loads])
    seen = [bar.fraction]
    for _, took in loads:
        bar.begin("")
        bar.end(took, took, "")
        seen.append(bar.fraction)
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert seen[-1] == pytest.approx(1)
