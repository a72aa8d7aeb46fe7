"""Queue depth and what bounded a load, against counting every nanosecond."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from dmatrace.analysis import document
from dmatrace.analysis.block import Times
from dmatrace.analysis.critical import PARTS, Load, Wait, critical, without
from dmatrace.analysis.depth import SLICES, depth, slice_ns, timeline
from dmatrace.analysis.overlap import union
from dmatrace.analysis.sweep import of

_SPAN = st.tuples(st.integers(0, 60), st.integers(0, 15)).map(lambda i: (i[0], i[0] + i[1]))
_SPANS = st.lists(_SPAN, max_size=5)
_TIMES = st.tuples(*[st.integers(0, 70)] * 3).map(lambda times: tuple(sorted(times)))
_TIDS = (1, 2, 3)


def _ticks(spans: Any) -> set[int]:
    return {t for start, end in spans for t in range(start, end)}


@given(_SPANS)
@settings(deadline=None)
def test_depth_is_what_counting_says(spans: list[tuple[int, int]]) -> None:
    held = Counter(t for start, end in spans for t in range(start, end))
    found = depth(of(spans))
    busy = [span for span in spans if span[0] < span[1]]
    ends = (min(s for s, _ in busy), max(e for _, e in busy)) if busy else (0, 0)
    by_depth = Counter(held[t] for t in range(*ends))
    assert found["hist_ns"] == {str(n): by_depth[n] for n in sorted(by_depth)}
    assert found["max"] == max(held.values(), default=0)
    assert found["busy_ns"] == len(held)
    span = ends[1] - ends[0]
    assert found["mean"] == (round(sum(held.values()) / span, 3) if span else 0)


@given(st.lists(st.tuples(_SPAN, st.integers(1, 1 << 30)), max_size=6), st.integers(1, 30))
@settings(deadline=None)
def test_a_time_line_adds_up(requests: list[Any], interval: int) -> None:
    rows = [(start, end, size) for (start, end), size in requests]
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    found = timeline(of(row[:2] for row in rows), *columns, interval)
    kept = [row for row in rows if row[0] < row[1]]
    assert sum(found["read_bytes"]) == sum(size for *_, size in kept)
    held = Counter(t for start, end, _ in kept for t in range(start, end))
    last = max((end for _, end, _ in kept), default=0)
    for index, mean in enumerate(found["depth_mean"]):
        start = found["start_ns"] + index * interval
        ticks = [held[t] for t in range(start, min(start + interval, last))]
        assert mean == round(sum(ticks) / len(ticks), 3)
        assert found["depth_max"][index] == max(ticks)


@given(st.integers(0, 1 << 62))
def test_slices_are_round_and_few(span: int) -> None:
    width = slice_ns(span)
    assert str(width).rstrip("0") in ("1", "2", "5")
    assert width * SLICES >= span
    assert width == 1000 or (width // 2) * SLICES < span or (2 * width // 5) * SLICES < span


Requests = list[tuple[int, int, int]]  # queued, issued, completed


def _times(requests: Requests) -> Times:
    return Times(
        of((issued, done) for _, issued, done in requests),
        of((queued, issued) for queued, issued, _ in requests),
    )


def _expected(load: Load, requests: Requests) -> dict[str, int]:
    """Every tick by the table in the module's docstring."""
    running = {
        tid: _ticks(load.threads[tid])
        - _ticks((wait.start, wait.end) for wait in load.waits.get(tid, ()))
        for tid in load.threads
    }
    runs = set().union(*running.values()) if running else set()
    alloc = {t for tid, ticks in running.items() for t in ticks & _ticks(load.allocations[tid])}
    io = _ticks((issued, done) for _, issued, done in requests)
    queued = _ticks((first, issued) for first, issued, _ in requests)
    ready = _ticks((w.woken, w.end) for waits in load.waits.values() for w in waits)
    found: Counter[str] = Counter()
    for t in _ticks(load.windows):
        if t in alloc:
            found["alloc_io" if t in io else "alloc"] += 1
        elif t in runs:
            found["cpu_io" if t in io else "cpu"] += 1
        elif t in io:
            found["io"] += 1
        elif t in queued:
            found["queue"] += 1
        else:
            found["runnable" if t in ready else "wait"] += 1
    return found


@st.composite
def _loads(draw: st.DrawFn) -> tuple[Load, Requests]:
    waits = st.lists(_TIMES.map(lambda times: Wait(*times)), max_size=4)
    requests = draw(st.lists(_TIMES, max_size=4))
    load = Load(
        windows=draw(st.lists(_SPAN, min_size=1, max_size=3)),
        threads={tid: draw(_SPANS) for tid in _TIDS},
        waits={tid: draw(waits) for tid in _TIDS},
        allocations={tid: draw(_SPANS) for tid in _TIDS},
        requests=_times(requests),
    )
    return load, requests


@given(_loads())
@settings(max_examples=400, deadline=None)
def test_each_moment_counts_once(drawn: tuple[Load, Requests]) -> None:
    load, requests = drawn
    found = critical(load, 0)
    wall = len(_ticks(load.windows))
    if not wall:
        assert found is None
        return
    assert found is not None
    expected = _expected(load, requests)
    assert {part: found[f"{part}_ns"] for part in PARTS} == {p: expected[p] for p in PARTS}
    assert sum(int(str(found[f"{part}_ns"])) for part in PARTS) == found["wall_ns"] == wall
    assert expected[str(found["bound_by"])] == max(expected.values())


@given(_SPANS, _SPANS)
def test_without(one: Any, other: Any) -> None:
    assert _ticks(without(union(one), union(other))) == _ticks(one) - _ticks(other)


def test_time_off_the_cpu_that_was_not_recorded_is_told() -> None:
    load = Load([(0, 100)], {1: [(0, 100)]}, {1: [Wait(10, 20, 30)]}, {}, _times([]))
    found = critical(load, 50)
    assert found is not None
    assert (found["unseen_ns"], found["cpu_ns"], found["wait_ns"]) == (30, 80, 10)
    assert found["runnable_ns"] == 10
    # Nothing recorded, and yet it slept: nobody can say when.
    assert critical(Load([(0, 100)], {1: [(0, 100)]}, {}, {}, _times([])), 50) is None
    assert critical(Load([(0, 100)], {1: [(0, 100)]}, {}, {}, _times([])), 0) is not None


def test_of_a_recording() -> None:
    """One thread of 1 ms: it allocates, waits for the disk, and copies."""

    def at(t_ns: int, kind: str, blocked: int) -> list[dict[str, Any]]:
        cells = {"user": (t_ns - blocked, 0, 0, 1), "dio": (0, blocked, 0, 1)}
        return synthetic.snapshot((1, 100, t_ns, 0, kind), cells)

    tables: dict[str, list[dict[str, Any]]] = {
        "loads": [synthetic.load(1, "memfd-dio", wall_ns=1000)],
        "snapshots": at(10_000, "begin", 0) + at(11_000, "end", 400),
        "threads": [{"load_id": 1, "window": 0, "tid": 100, "start_ns": 10_000, "end_ns": 11_000}],
        "intervals": [
            {"load_id": 1, "tid": 100, "phase": "heap-alloc", "start_ns": 10_000, "end_ns": 10_300}
        ],
        "requests": [
            {"load_id": 1, "tid": 100, "dev": 1, "bytes": 4096, "op": "read", "kind": "direct",
             "queue_ns": 10_200, "issue_ns": 10_250, "complete_ns": 10_700},
        ],
        "waits": [{"load_id": 1, "tid": 100, "phase": "dio", "start_ns": 10_400,
                   "woken_ns": 10_750, "end_ns": 10_800}],
    }  # fmt: skip
    (load,) = document(synthetic.InMemory(tables))["loads"]
    found = load["critical"]
    assert {part: found[f"{part}_ns"] for part in PARTS if found[f"{part}_ns"]} == {
        "alloc": 250, "alloc_io": 50, "cpu_io": 100, "io": 300, "wait": 50, "runnable": 50,
        "cpu": 200,
    }  # fmt: skip
    assert (found["bound_by"], found["parallel"], found["unseen_ns"]) == ("io", 1.0, 0)
    assert found["wall_ns"] == load["wall_ns"]
    # Without waits it cannot be told.
    (load,) = document(synthetic.InMemory({**tables, "waits": []}))["loads"]
    assert load["critical"] is None


@pytest.mark.parametrize("name", PARTS)
def test_every_part_can_be_the_longest(name: str) -> None:
    thread, asleep = [(0, 100)], [Wait(0, 100, 100)]
    cases: dict[str, Load] = {
        "alloc_io": Load(thread, {1: thread}, {}, {1: thread}, _times([(0, 0, 100)])),
        "alloc": Load(thread, {1: thread}, {}, {1: thread}, _times([])),
        "cpu_io": Load(thread, {1: thread}, {}, {}, _times([(0, 0, 100)])),
        "cpu": Load(thread, {1: thread}, {}, {}, _times([])),
        "io": Load(thread, {1: thread}, {1: asleep}, {}, _times([(0, 0, 100)])),
        "queue": Load(thread, {1: thread}, {1: asleep}, {}, _times([(0, 100, 100)])),
        "runnable": Load(thread, {1: thread}, {1: [Wait(0, 0, 100)]}, {}, _times([])),
        "wait": Load(thread, {1: thread}, {1: asleep}, {}, _times([])),
    }
    found = critical(cases[name], 0)
    assert found is not None
    assert (found["bound_by"], found[f"{name}_ns"]) == (name, 100)
