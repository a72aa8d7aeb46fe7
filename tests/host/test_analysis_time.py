"""Time closes: phases of random event streams, against a simulation that only clips segments.

The tracer charges `now - last` to one cell at every event and shows cumulative
cells in snapshots; the simulation here writes down (start, end, phase, state)
segments and sums their overlap with the load's windows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from dmatrace.analysis import document, law
from dmatrace.phases import PHASES
from dmatrace.recording import Recording, Writer

STATES = ("cpu", "blocked", "runnable")
Segment = tuple[int, int, str, str]
Rows = list[dict[str, Any]]


@dataclass
class Thread:
    """What the tracer keeps per thread, the way the kernel side does it."""

    tid: int
    now: int
    stack: list[str] = field(default_factory=lambda: ["user"])
    state: str = "cpu"
    cells: dict[str, list[int]] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)
    rows: Rows = field(default_factory=list)
    clocks: Rows = field(default_factory=list)
    began: int = 0

    def advance(self, ns: int) -> None:
        cell = self.cells.setdefault(self.stack[-1], [0, 0, 0, 0])
        cell[STATES.index(self.state)] += ns
        self.segments.append((self.now, self.now + ns, self.stack[-1], self.state))
        self.now += ns

    def enter(self, phase: str) -> None:
        self.stack.append(phase)
        self.cells.setdefault(phase, [0, 0, 0, 0])[3] += 1

    def snapshot(self, kind: str, load_id: int, window: int) -> None:
        key = (load_id, self.tid, self.now, window, kind)
        cells = {p: tuple(c) for p, c in self.cells.items() if any(c)}
        self.rows += synthetic.snapshot(key, cells, tgid=100)  # type: ignore[arg-type]
        if kind == "begin":
            self.began = self.now
        if kind == "end":
            sums = self.expected([(self.began, self.now)])
            self.clocks.append(
                {
                    "load_id": load_id,
                    "window": window,
                    "tid": self.tid,
                    "comm": "loader",
                    "start_ns": self.began,
                    "end_ns": self.now,
                    "sched_run_ns": sum(cells["cpu"] for cells in sums.values()),
                    "sched_wait_ns": sum(cells["runnable"] for cells in sums.values()),
                }
            )

    def expected(self, windows: list[tuple[int, int]]) -> dict[str, dict[str, int]]:
        """The reference: clip every segment with every window."""
        sums: dict[str, dict[str, int]] = {}
        for start, end, phase, state in self.segments:
            for low, high in windows:
                inside = min(end, high) - max(start, low)
                if inside > 0:
                    cell = sums.setdefault(phase, dict.fromkeys(STATES, 0))
                    cell[state] += inside
        return sums


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "exit", "block", "wake", "run", "poll"]),
        st.sampled_from(PHASES),
        st.integers(0, 10_000),
    ),
    max_size=25,
)


def _play(thread: Thread, steps: list[tuple[str, str, int]], load_id: int, window: int) -> None:
    for what, phase, ns in steps:
        if what == "enter" and len(thread.stack) < 8:
            thread.enter(phase)
        elif what == "exit" and len(thread.stack) > 1:
            thread.stack.pop()
        elif what == "block":
            thread.state = "blocked"
        elif what == "wake" and thread.state == "blocked":
            thread.state = "runnable"
        elif what == "run":
            thread.state = "cpu"
        elif what == "poll":
            thread.snapshot("poll", load_id, window)
        thread.advance(ns)


def _phases(thread: dict[str, Any]) -> dict[str, dict[str, int]]:
    sums = {
        row["phase"]: {state: row[f"{state}_ns"] for state in STATES} for row in thread["phases"]
    }
    return {phase: cells for phase, cells in sums.items() if any(cells.values())}


LIFE = st.lists(st.tuples(STEPS, STEPS, STEPS), min_size=1, max_size=3)


@given(st.lists(LIFE, min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_random_streams_close_exactly(lives: Any) -> None:
    """Threads that mark windows 0 and 1 of up to three loads, with time between them."""
    threads, spans = [], {}
    for number, life in enumerate(lives):
        thread = Thread(100 + number, 1000 * number)
        for load_id, (before, inside, closing) in enumerate(life, 1):
            _play(thread, before, load_id, 0)
            start = thread.now
            thread.snapshot("begin", load_id, 0)
            _play(thread, inside, load_id, 0)
            thread.advance(1)
            thread.snapshot("end", load_id, 0)
            middle = thread.now
            _play(thread, before, load_id, 1)
            restart = thread.now
            thread.snapshot("begin", load_id, 1)
            _play(thread, closing, load_id, 1)
            thread.advance(1)
            thread.snapshot("end", load_id, 1)
            spans[thread.tid, load_id] = [(start, middle), (restart, thread.now)]
        threads.append(thread)
    rows = [row for thread in threads for row in thread.rows]
    recording = synthetic.InMemory(
        {"snapshots": rows, "threads": [row for thread in threads for row in thread.clocks]}
    )
    found = document(recording)
    assert len(found["loads"]) == max(len(life) for life in lives)
    for load in found["loads"]:
        named = [thread["tid"] for thread in load["threads"]]
        mine = sorted(tid for tid, load_id in spans if load_id == load["load_id"])
        assert sorted(named) == mine
        assert named[0] == mine[0] or mine[0] != 100, "the main thread first"
        for row in load["threads"]:
            windows = spans[row["tid"], load["load_id"]]
            (thread,) = (thread for thread in threads if thread.tid == row["tid"])
            assert _phases(row) == thread.expected(windows)
            total = sum(sum(cells.values()) for cells in _phases(row).values())
            assert total == row["wall_ns"] == sum(end - start for start, end in windows)
            assert row["clock"] == "loader"
            order_of = [PHASES.index(cells["phase"]) for cells in row["phases"]]
            assert order_of == sorted(order_of)
    for load in found["loads"]:
        load["partial"] = False  # no loads table here, which makes them so
    assert law.closure(found) == []


@given(STEPS, STEPS, STEPS, st.sampled_from(["exit", "poll", "none"]))
@settings(max_examples=80, deadline=None)
def test_a_thread_without_markers_counts_from_fork_to_exit(
    first: Any, second: Any, third: Any, ending: str
) -> None:
    """io_uring's workers set no marker; a process has their number again later."""
    thread = Thread(200, 5)
    thread.snapshot("fork", 1, 0)
    start = thread.now
    _play(thread, [step for step in first if step[0] != "poll"], 1, 0)
    thread.snapshot("poll", 1, 0)
    last = thread.now
    _play(thread, [step for step in second if step[0] != "poll"], 1, 1)
    if ending != "none":
        thread.snapshot(ending, 1, 1)
        last = thread.now
    windows = [(start, last)]
    if ending == "exit":
        thread.advance(50)  # nobody has the number now
        thread.cells, thread.stack, thread.state = {}, ["user"], "cpu"
        thread.snapshot("fork", 1, 1)
        again = thread.now
        _play(thread, [step for step in third if step[0] != "poll"], 1, 1)
        thread.advance(3)
        thread.snapshot("exit", 1, 1)
        windows.append((again, thread.now))
    found = document(synthetic.InMemory({"snapshots": thread.rows}))
    (load,) = found["loads"]
    wall = sum(b - a for a, b in windows)
    if not wall:
        assert load["threads"] == []
        return
    (row,) = load["threads"]
    assert _phases(row) == thread.expected(windows)
    assert row["wall_ns"] == wall
    assert (row["clock"], row["sched_run_ns"]) == ("tracer", None)


def test_a_number_used_again_after_an_exit_nobody_saw() -> None:
    """The second thread starts at zero: its cells are not the first one's continuation."""
    rows = []
    for start, spent in ((0, 700), (5000, 300)):
        rows += synthetic.snapshot((1, 200, start, 0, "fork"), {})
        rows += synthetic.snapshot((1, 200, start + spent, 0, "poll"), {"dio": (spent, 0, 0, 1)})
    (load,) = document(synthetic.InMemory({"snapshots": rows}))["loads"]
    (row,) = load["threads"]
    assert row["wall_ns"] == 1000
    assert _phases(row) == {"dio": {"cpu": 1000, "blocked": 0, "runnable": 0}}


@given(STEPS, STEPS)
@settings(max_examples=80, deadline=None)
def test_a_load_without_an_end_counts_to_its_last_poll(first: Any, second: Any) -> None:
    thread = Thread(100, 7)
    _play(thread, first, 1, 0)
    thread.snapshot("begin", 1, 0)
    start = thread.now
    _play(thread, first, 1, 0)
    thread.advance(1)
    thread.snapshot("poll", 1, 0)
    last = thread.now
    _play(thread, [step for step in second if step[0] != "poll"], 1, 0)
    recording = synthetic.InMemory(
        {"snapshots": thread.rows, "loads": [synthetic.load(1, "udmabuf-dio")]}
    )
    (load,) = document(recording)["loads"]
    assert load["partial"] is True
    (row,) = load["threads"]
    assert _phases(row) == thread.expected([(start, last)])
    assert row["wall_ns"] == last - start


def test_markers_win_over_fork_and_exit() -> None:
    """A worker of the loader marks its window; its start-up and end are not the load's."""
    thread = Thread(101, 0)
    thread.snapshot("fork", 1, 0)
    thread.advance(1000)
    thread.snapshot("begin", 1, 0)
    thread.enter("gup")
    thread.advance(500)
    thread.snapshot("end", 1, 0)
    thread.advance(2000)
    thread.snapshot("exit", 1, 0)
    found = document(synthetic.InMemory({"snapshots": thread.rows, "threads": thread.clocks}))
    (row,) = found["loads"][0]["threads"]
    assert row["wall_ns"] == 500
    assert _phases(row) == {"gup": {"cpu": 500, "blocked": 0, "runnable": 0}}


def test_snapshots_may_come_out_of_order_across_threads_and_loads(tmp_path: Path) -> None:
    def write(name: str, *, reverse: bool) -> Any:
        thread, rows = Thread(100, 0), []
        for load_id in (1, 2):
            thread.snapshot("begin", load_id, 0)
            thread.advance(100 * load_id)
            thread.snapshot("end", load_id, 0)
        rows = thread.rows[::-1] if reverse else thread.rows
        with Writer.create(tmp_path / name, {}) as writer:
            for row in rows:
                writer.append("snapshots", [row])
            writer.append("threads", thread.clocks)
        return document(Recording.open(tmp_path / name))["loads"]

    assert write("a.dmt", reverse=False) == write("b.dmt", reverse=True)


def test_the_clock_of_an_untraced_thread_is_not_hidden() -> None:
    """A thread the loader timed and the tracer missed shows as a break of law 1."""
    clock = {
        "load_id": 1, "window": 0, "tid": 300, "comm": "worker", "start_ns": 0,
        "end_ns": 10_000_000, "sched_run_ns": 9_000_000, "sched_wait_ns": 0,
    }  # fmt: skip
    found = document(
        synthetic.InMemory({"threads": [clock], "loads": [synthetic.load(1, "memfd-bio")]})
    )
    (row,) = found["loads"][0]["threads"]
    assert (row["comm"], row["wall_ns"], row["phases"]) == ("worker", 10_000_000, [])
    assert len(law.closure(found)) == 1
    assert len(law.schedstat(found)) == 1
