"""Threads' snapshots as processes: births, ends, new numbers, sums, and the document of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import synthetic

from dmatrace.analysis.document import document
from dmatrace.analysis.verdicts import BUFFERED
from dmatrace.bpf import layout
from dmatrace.recording import Recording, Writer
from dmatrace.report import text
from dmatrace.session import observe, processes
from dmatrace.session.observe import Observer
from dmatrace.session.observed import READ
from dmatrace.session.pagecounts import PageCounts
from dmatrace.session.procevents import Event
from dmatrace.session.progress import Progress
from dmatrace.session.schedstat import SchedStat
from tests.host.page_table import PageTable

MIB = 1 << 20


class _Tracer:
    """Reports what the test says."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.running: list[tuple[int, int, dict[str, int]]] = []
        self.now = 0
        self.read = 0  # how often there was something to take
        self.late = False  # whether there is more than a short look can read
        table = PageTable()
        table.counts[1, 2] = layout.FilePages(added=5, removed=1, peak=5)
        table.counts[1, 3] = layout.FilePages(added=50, peak=50, shmem=1)
        self.pages = PageCounts(table)

    def say(
        self,
        kind: str,
        tid: int,
        tgid: int,
        t_ns: int,
        comm: str = "a",
        owner: int = 0,
        **counted: int,
    ) -> None:
        key = (-1, tid, t_ns, -1, kind)
        phases = {"user": (t_ns, 0, 0, 0), "dio": (0, 2 * t_ns, 0, 1)}
        rows = synthetic.snapshot(key, phases, tgid=tgid, comm=comm)
        self.rows.setdefault("snapshots", []).extend({**row, "owner": owner} for row in rows)
        counters = synthetic.counters(key, counted, tgid=tgid)
        self.rows.setdefault("counters", []).extend(counters)

    def follow(self, pid: int, *, show: bool) -> dict[int, SchedStat]:
        assert show
        for tid, tgid, _ in self.running:
            if tgid == pid:
                self.say("poll", tid, tgid, self.now)
        return {tid: SchedStat(tid, 0, 3) for tid, tgid, _ in self.running if tgid == pid}

    def poll_threads(self, *, last: bool = False) -> dict[int, SchedStat]:
        for tid, tgid, counted in self.running:
            self.say("poll", tid, tgid, self.now, **counted)
        return {tid: SchedStat(2 * tid, 5, 4) for tid, _, _ in self.running}

    def mark(self) -> int:
        return self.read + bool(self.rows or self.late)

    def past(self, mark: int) -> bool:
        return self.read >= mark

    def drain(self, seconds: float | None = None) -> None:
        if seconds is None:
            self.late = False

    def take(self) -> dict[str, list[dict[str, Any]]]:
        if self.late:
            return {}
        rows, self.rows = self.rows, {}
        self.read += bool(rows)
        return rows

    def pinned_peak(self) -> int:
        return 7

    def open_runs(self) -> None:
        pass

    def file_reads(self) -> list[dict[str, Any]]:
        return []


class _Events:
    def __init__(self) -> None:
        self.waiting: list[Event] = []

    def take(self) -> list[Event]:
        waiting, self.waiting = self.waiting, []
        return waiting


@pytest.fixture
def tracer() -> _Tracer:
    return _Tracer()


@pytest.fixture
def events() -> _Events:
    return _Events()


@pytest.fixture
def observed(
    tmp_path: Path, tracer: _Tracer, events: _Events, monkeypatch: pytest.MonkeyPatch
) -> tuple[Observer, Writer]:
    """An observer of processes that this machine does not have."""
    monkeypatch.setattr(processes, "alive", lambda _pid: True)
    monkeypatch.setattr(
        processes, "look", lambda pid: processes.Process(pid, "a", "S", False, "a -x")
    )
    writer = Writer.create(tmp_path / "a.dmt", {**synthetic.META, "target": {"kind": "pid"}})
    say = Progress(quiet=True)
    return Observer(cast(Any, tracer), writer, cast(Any, events), None, say), writer


def _document(writer: Writer) -> dict[str, Any]:
    writer.close()
    return document(Recording.open(writer.path))


def test_bytes_read_are_what_verdicts_are_made_of() -> None:
    assert set(READ) == {"dio_bytes", *BUFFERED}


def test_a_process_its_child_and_a_worker(
    observed: tuple[Observer, Writer], tracer: _Tracer, events: _Events
) -> None:
    observer, writer = observed
    tracer.now, tracer.running = 1000, [(10, 10, {}), (11, 10, {"dio_bytes": 3 * MIB})]
    assert observer.add(10)
    # The child's thread is seen in the map before its birth is read from the ring.
    tracer.say("poll", 20, 20, 1300, copy_read_bytes=1)
    tracer.say("fork", 20, 20, 1200)
    tracer.say("fork", 12, 10, 1250)
    tracer.say("work-begin", 90, 10, 1300, owner=10, copy_read_bytes=5)
    tracer.say("work-end", 90, 10, 1400, owner=10, copy_read_bytes=9)
    tracer.say("exit", 12, 10, 1500, dio_bytes=MIB, sched_run_ns=44, sched_wait_ns=2)
    tracer.say("exit", 20, 20, 1600, "b", copy_read_bytes=5 * MIB, sched_run_ns=55)
    observer.idle()
    assert observer.alive({10})
    assert not observer.alive({20})
    events.waiting = [Event("exit", 1700, 20, 20, status=9)]
    tracer.now = 3000
    observer.finish()
    found = _document(writer)
    parent, child = found["loads"]
    assert (parent["pid"], parent["ended"], parent["bytes"]) == (10, "", 4 * MIB + 4)
    assert (child["pid"], child["ended"], child["bytes"]) == (20, "signal 9", 5 * MIB)
    assert (child["comm"], child["command"], child["wall_ns"]) == ("b", "a -x", 500)
    assert child["direct"]["verdict"] == "buffered"
    clocks = {
        t["tid"]: (t["clock"], t["sched_run_ns"], t["mark_ns"], t["wall_ns"])
        for t in parent["threads"]
    }
    assert clocks == {
        10: ("recorder", 10, 7, 2000), 11: ("recorder", 11, 7, 2000), 12: ("tracer", 44, 0, 250),
        90: ("tracer", None, 0, 100),
    }  # fmt: skip
    assert [t["clock"] for t in child["threads"]] == ["tracer"]
    report = text.render(found)
    assert "a 10" in report
    assert "contents" not in report


def test_a_process_that_lives_shorter_than_a_look_takes(
    observed: tuple[Observer, Writer],
    tracer: _Tracer,
    events: _Events,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is born and ends while what the kernel said of others is taken: its end is known."""
    observer, writer = observed
    taken = events.take

    def take() -> list[Event]:
        tracer.say("fork", 40, 40, 100)
        tracer.say("exit", 40, 40, 300, dio_bytes=MIB, sched_run_ns=1)
        monkeypatch.setattr(events, "take", taken)
        return [Event("exit", 310, 40, 40, status=3 << 8)]

    monkeypatch.setattr(events, "take", take)
    observer.idle()
    observer.finish()
    (load,) = _document(writer)["loads"]
    assert (load["ended"], load["wall_ns"], load["bytes"]) == ("exit code 3", 210, MIB)


def test_what_the_kernel_says_waits_for_what_the_tracer_wrote_before(
    observed: tuple[Observer, Writer], tracer: _Tracer, events: _Events
) -> None:
    """A flood of records: neither is an end without its process, nor the process without it."""
    observer, _ = observed
    tracer.say("fork", 40, 40, 100)
    tracer.say("exit", 40, 40, 300, dio_bytes=MIB, sched_run_ns=1)
    tracer.late = True
    events.waiting = [Event("exit", 310, 40, 40, status=3 << 8)]
    observer.idle()
    assert observer.behind
    assert observer.processes == []
    tracer.late = False
    observer.idle()
    assert not observer.behind
    observer.finish()
    (row,) = (process.row for process in observer.processes)
    assert (row["ended"], row["end_ns"], row["bytes"]) == ("exit code 3", 310, MIB)


def test_an_end_on_its_way_is_waited_for(
    observed: tuple[Observer, Writer], tracer: _Tracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proc has the process no more, and its end is not read yet."""
    observer, _ = observed
    tracer.running = [(10, 10, {"dio_bytes": 1})]
    assert observer.add(10)
    tracer.running = []
    monkeypatch.setattr(processes, "alive", lambda _pid: False)
    monkeypatch.setattr(observe, "_POLL_S", 0)
    tracer.say("exit", 10, 10, 300, dio_bytes=MIB, sched_run_ns=1)
    tracer.late = True
    observer.idle()
    assert observer.alive({10})
    tracer.late = False
    observer.idle()
    assert not observer.alive({10})
    tracer.say("fork", 11, 11, 400)
    observer.idle()
    assert not observer.alive({11}), "its end was lost, and nothing is on its way"
    observer.finish()
    ended, lost = (process.row for process in observer.processes)
    assert (ended["end_ns"], ended["bytes"]) == (300, MIB)
    assert lost["end_ns"] > 400


def test_a_birth_that_is_read_late(observed: tuple[Observer, Writer], tracer: _Tracer) -> None:
    """What was seen of the thread meanwhile stays."""
    observer, _ = observed
    tracer.say("poll", 10, 10, 1000, dio_bytes=MIB)
    tracer.say("fork", 10, 10, 100, dio_bytes=1)
    tracer.now = 900
    observer.finish()
    (row,) = (process.row for process in observer.processes)
    assert (row["start_ns"], row["bytes"]) == (100, MIB - 1)


def test_a_thread_that_execs_keeps_its_process(
    observed: tuple[Observer, Writer], tracer: _Tracer, events: _Events
) -> None:
    observer, writer = observed
    tracer.say("fork", 30, 30, 100)
    tracer.say("fork", 31, 30, 200)
    tracer.say("exit", 30, 30, 300, dio_bytes=10, sched_run_ns=1)
    tracer.say("fork", 30, 30, 400, dio_bytes=7)
    tracer.say("exit", 31, 30, 400, dio_bytes=7, sched_run_ns=1)
    events.waiting = [Event("exec", 401, 30, 30)]
    observer.idle()
    assert observer.alive({30})
    tracer.say("exit", 30, 30, 500, "dd", dio_bytes=9, sched_run_ns=3)
    observer.idle()
    assert not observer.alive({30})
    observer.finish()
    (load,) = _document(writer)["loads"]
    assert (load["bytes"], load["comm"]) == (10 + 7 + 2, "dd")
    assert load["wall_ns"] == 400


@pytest.mark.parametrize(
    ("state", "found", "expected"),
    [("R", "dd if=/a of=/b", "dd if=/a of=/b"), ("Z", "", ""), ("", "", "")],
)
def test_what_it_ran_before_exec_is_not_its_command(
    observed: tuple[Observer, Writer], tracer: _Tracer, events: _Events,
    monkeypatch: pytest.MonkeyPatch, state: str, found: str, expected: str,
) -> None:  # fmt: skip
    """Proc has the command of one that runs; of a zombie none; of one that is gone nothing."""
    observer, _ = observed
    parent = processes.Process(30, "python3", "R", False, "python3 reading.py")
    monkeypatch.setattr(processes, "look", lambda _pid: parent)
    tracer.say("fork", 30, 30, 100)
    observer.idle()
    (process,) = observer.processes
    assert process.row["command"] == "python3 reading.py"
    after = processes.Process(30, "dd", state, False, found) if state else None
    monkeypatch.setattr(processes, "look", lambda _pid: after)
    events.waiting = [Event("exec", 401, 30, 30)]
    observer.idle()
    assert process.row["command"] == expected


def test_of_several_processes_each_has_the_page_cache_of_its_files(
    tmp_path: Path, tracer: _Tracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger counts by file; another's file is in nobody else's bill."""

    class _Ways:
        def touched(self, load_id: int) -> set[tuple[int, int]]:
            return {1: {(1, 2), (9, 9)}, 2: set()}[load_id]

        def sample(self, _named: object, *, last: bool = False) -> None:
            pass

    monkeypatch.setattr(processes, "alive", lambda _pid: True)
    writer = Writer.create(tmp_path / "a.dmt", {**synthetic.META, "target": {"kind": "pid"}})
    say = Progress(quiet=True)
    arguments = cast(Any, (tracer, writer, None, None, say))
    observer = Observer(*arguments, ways=lambda _load_of: cast(Any, _Ways()))
    tracer.say("fork", 10, 10, 100)
    tracer.say("fork", 20, 20, 100)
    observer.finish()
    writer.close()
    rows = [process.row for process in observer.processes]
    assert [row["page_cache_end"] for row in rows] == [4, 0]
    assert [row["page_cache_peak"] for row in rows] == [5, 0]


def test_a_number_that_is_used_again(
    observed: tuple[Observer, Writer], tracer: _Tracer, events: _Events
) -> None:
    observer, writer = observed
    for start in (100, 1000):
        tracer.say("fork", 40, 40, start)
        tracer.say("exit", 40, 40, start + 50, dio_bytes=start, sched_run_ns=5)
    observer.idle()
    observer.ended(40, 256)
    observer.finish()
    first, second = _document(writer)["loads"]
    assert (first["bytes"], second["bytes"]) == (100, 1000)
    assert second["ended"] == "exit code 1"
    assert [len(load["threads"]) for load in (first, second)] == [1, 1]
