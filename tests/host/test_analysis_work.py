"""Work that others do for a load: its threads, its steps, and the overlap of alloc and I/O.

A gather is simulated tick by tick: a caller allocates batch after batch,
workers read them, and what every tick was spent on is written down beside.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from dmatrace.analysis import document, law
from dmatrace.analysis.steps import STEPS, steps

CALLER, KWORKER, LOAD = 100, 7000, 1
DEV = 0xFE00000


@dataclass
class Gather:
    """One load, and every tick of it."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    allocating: set[int] = field(default_factory=set)
    reading: set[int] = field(default_factory=set)  # calls of dmatrace_loader_read
    flying: set[int] = field(default_factory=set)  # requests
    working: Counter[int] = field(default_factory=Counter)  # ticks by worker
    read_bytes: int = 0

    def add(self, table: str, *rows: dict[str, Any]) -> None:
        self.rows.setdefault(table, []).extend(rows)

    def interval(self, tid: int, hook: str, start: int, end: int) -> None:
        self.add("intervals", {
            "load_id": LOAD, "tid": tid, "phase": "heap-alloc" if "alloc" in hook else "module",
            "hook": hook, "start_ns": start, "end_ns": end,
        })  # fmt: skip

    def alloc(self, start: int, ticks: int) -> None:
        self.interval(CALLER, "dmatrace_loader_alloc", start, start + ticks)
        self.allocating |= set(range(start, start + ticks))

    def work(self, tid: int, start: int, before: int, read: int, flies: list[int]) -> int:
        """One batch: some ticks of set-up, then a read with requests in it; when it ends."""
        end = start + before + read
        for kind, at, cells in (
            ("work-begin", start, {}),
            ("work-end", end, {"module": (before, 0, 0, 1), "dio": (0, read, 0, 1)}),
        ):
            key = (LOAD, tid, at, 0, kind)
            rows = synthetic.snapshot(key, cells, comm=f"kworker/u8:{tid}")
            self.add("snapshots", *(row | {"owner": CALLER} for row in rows))
            if kind == "work-end":
                self.add("counters", *synthetic.counters(key, {"dio_bytes": 4096}))
        self.interval(tid, "dmatrace_loader_read", start + before, end)
        self.reading |= set(range(start + before, end))
        for fly in flies:
            first = start + before + fly % (read + 1)
            self.add("requests", {
                "load_id": LOAD, "tid": tid, "tgid": 100, "dev": DEV, "sector": 0, "bytes": 4096,
                "op": "read", "queue_ns": first, "issue_ns": first, "complete_ns": end,
            })  # fmt: skip
            self.flying |= set(range(first, end))
        self.working[tid] += end - start
        self.read_bytes += 4096
        return end

    def finish(self, start: int, end: int) -> None:
        """The caller's own window around it all."""
        total = end - start
        self.add("snapshots", *synthetic.snapshot((LOAD, CALLER, start, 0, "begin"), {}))
        cells = {"module": (total, 0, 0, 1)}
        self.add("snapshots", *synthetic.snapshot((LOAD, CALLER, end, 0, "end"), cells))
        self.add("threads", {
            "load_id": LOAD, "window": 0, "tid": CALLER, "comm": "loader", "start_ns": start,
            "end_ns": end, "sched_run_ns": total, "sched_wait_ns": 0,
        })  # fmt: skip
        self.add("loads", synthetic.load(LOAD, "dmabuf-gather-dio", bytes=self.read_bytes))


_BATCHES = st.lists(
    st.tuples(
        st.integers(0, 12),  # ticks to allocate it
        st.integers(0, 5),  # of set-up
        st.integers(0, 12),  # to read it
        st.lists(st.integers(0, 12), max_size=3),  # requests
        st.integers(0, 2),  # by which worker
        st.integers(0, 4),  # how long it waits to begin
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(batches=_BATCHES)
def test_a_gather_adds_up(batches: list[tuple[int, int, int, list[int], int, int]]) -> None:
    gather = Gather()
    now, free = 1000, Counter[int]()
    for ticks, before, read, flies, worker, wait in batches:
        gather.alloc(now, ticks)
        now += ticks
        tid = KWORKER + worker
        # A work item does not begin in the tick in which the one before it ended.
        begin = max(now, free[tid] + 1) + wait
        free[tid] = gather.work(tid, begin, before, read, flies)
    gather.finish(1000, max(now, *free.values()))

    (load,) = document(synthetic.InMemory(gather.rows))["loads"]
    assert load["overlap"] == {
        "alloc_ns": len(gather.allocating),
        "io_ns": len(gather.flying),
        "both_ns": len(gather.allocating & gather.flying),
    }
    assert load["steps"] == {
        "alloc_ns": len(gather.allocating),
        "read_ns": len(gather.reading),
        "overlap_ns": len(gather.allocating & gather.reading),
    }
    workers = [thread for thread in load["threads"] if thread["owner"]]
    assert {t["tid"]: t["wall_ns"] for t in workers} == gather.working
    for thread in workers:
        assert thread["owner"] == CALLER
        assert thread["comm"].startswith("kworker/")
        assert thread["clock"] == "tracer"
        assert (thread["sched_run_ns"], thread["sched_wait_ns"]) == (None, None)
    assert load["threads"][0]["tid"] == CALLER
    assert load["threads"][0]["owner"] is None
    assert not load["partial"]
    assert law.closure({"loads": [load]}) == []
    assert load["direct"]["direct_bytes"] == 4096 * len(batches)


def test_work_whose_end_was_not_seen_is_partial() -> None:
    """The recorder was killed while a worker read: what it had done by the last poll counts."""
    gather = Gather()
    gather.alloc(1000, 5)
    gather.work(KWORKER, 1005, 5, 20, [0])
    gather.finish(1000, 1030)
    rows = gather.rows["snapshots"]
    rows[:] = [row for row in rows if row["kind"] != "work-end"]
    poll = (LOAD, KWORKER, 1017, -1, "poll")
    rows += [row | {"owner": CALLER} for row in synthetic.snapshot(poll, {"dio": (7, 0, 0, 1)})]
    (load,) = document(synthetic.InMemory(gather.rows))["loads"]
    assert load["partial"]
    assert [(t["tid"], t["wall_ns"]) for t in load["threads"]] == [(CALLER, 30), (KWORKER, 12)]


def test_a_worker_of_two_loads_belongs_to_each_for_its_own_work() -> None:
    rows: list[dict[str, Any]] = []
    for number, load in enumerate((1, 2, 1)):
        for kind, at, cells in (
            ("work-begin", 100 * number, {}),
            ("work-end", 100 * number + 10 * load, {"module": (10 * load, 0, 0, 1)}),
        ):
            found = synthetic.snapshot((load, KWORKER, at, 0, kind), cells)
            rows += [row | {"owner": CALLER} for row in found]
    loads = [synthetic.load(1, "a-dio"), synthetic.load(2, "b-dio")]
    found_loads = document(synthetic.InMemory({"snapshots": rows, "loads": loads}))["loads"]
    assert [[t["wall_ns"] for t in load["threads"]] for load in found_loads] == [[20], [20]]


def test_every_step_is_a_hook_that_reports_its_calls() -> None:
    from dmatrace.bpf.hooks_module import MODULE_HOOKS

    hooks = {hook.name: hook for hook in MODULE_HOOKS}
    for names in STEPS.values():
        assert all(hooks[name].interval for name in names)


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([], {}),
        ([("dma_heap_buffer_alloc", 0, 10)], {}),
        ([("dmatrace_loader_vmap", 0, 10), ("dmatrace_loader_vunmap", 20, 25)], {"vmap_ns": 15}),
        # Two threads read at once: it counts once.
        ([("dmatrace_loader_read", 0, 10), ("dmatrace_loader_read", 5, 12)], {"read_ns": 12}),
        ([("dmatrace_loader_alloc", 0, 10), ("dmatrace_loader_read", 8, 12)],
         {"alloc_ns": 10, "read_ns": 4, "overlap_ns": 2}),
    ],
)  # fmt: skip
def test_steps(calls: list[tuple[str, int, int]], expected: dict[str, int]) -> None:
    assert steps(calls) == expected
