"""What bounded a load at each moment of its wall time.

The load's windows (the main thread's, by the loader's clock) are cut wherever
a thread of the load leaves or gets a CPU, an allocation begins or ends, or a
request is queued, issued or completed.  Between two cuts nothing changes, so
each piece has one answer, the first of these that is true:

    alloc_io   a thread runs inside an allocation, and a read is on the device
    alloc      a thread runs inside an allocation
    cpu_io     a thread runs, outside allocation, and a read is on the device
    cpu        a thread runs, outside allocation: copying, page cache, user code
    io         no thread runs, a read is on the device
    queue      no thread runs, a read is queued and not yet issued
    runnable   no thread runs, at least one waits for a CPU
    wait       all sleep, and no read of theirs is under way: locks, timers, others

So the parts sum to the wall time exactly.  A thread runs in its spans less
the waits recorded of it; waits under 10 us are not recorded and count as
running (``unseen_ns`` is how much: time off CPU in the cells and not in the
waits, over all threads).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dmatrace.analysis import sweep
from dmatrace.analysis.overlap import ALLOCATING, Interval, both, length, union

if TYPE_CHECKING:
    import pandas as pd

    from dmatrace.analysis.block import Times
    from dmatrace.analysis.time import Span

PARTS = ("alloc_io", "alloc", "cpu_io", "cpu", "io", "queue", "runnable", "wait")


@dataclass(frozen=True)
class Wait:
    """A thread off its CPU: blocked from start to woken, runnable from there to end; ns."""

    start: int
    woken: int
    end: int


@dataclass(frozen=True)
class Load:
    """The intervals of one load, ns of CLOCK_MONOTONIC.

    ``threads`` and ``waits`` and ``allocations`` are by tid; ``requests`` are when reads
    were on the device, and when queued.
    """

    windows: Sequence[Interval]
    threads: Mapping[int, Sequence[Interval]]
    waits: Mapping[int, Sequence[Wait]]
    allocations: Mapping[int, Sequence[Interval]]
    requests: Times


def critical(load: Load, off_cpu_ns: int) -> dict[str, object] | None:
    """The ``critical`` object of a load; ``off_cpu_ns`` is its threads' by their cells.

    ``{"NAME_ns": ...}`` of PARTS, ``bound_by`` the longest of them, ``parallel`` the mean
    number of running threads while one runs, and ``unseen_ns``.  None where it cannot be
    told: no windows, or threads were off the CPU and no wait was recorded.
    """
    windows = union(load.windows)
    wall = length(windows)
    recorded = _recorded(load)
    if not wall or (off_cpu_ns and not recorded):
        return None
    running = {tid: _running(load, tid) for tid in load.threads}
    sources: dict[str, list[Interval]] = {
        "running": [span for spans in running.values() for span in spans],
        "alloc": [
            span
            for tid, spans in running.items()
            for span in both(spans, union(load.allocations.get(tid, ())))
        ],
        "runnable": [
            (wait.woken, wait.end) for waits in load.waits.values() for wait in waits
        ],
    }  # fmt: skip
    parts = _attribute(
        {
            "window": sweep.of(windows),
            **{name: sweep.of(spans) for name, spans in sources.items()},
            "io": load.requests.reading,
            "queue": load.requests.queued,
        }
    )
    busy = length(both(union(sources["running"]), windows))
    worked = sum(length(both(spans, windows)) for spans in running.values())
    return {
        **{f"{name}_ns": parts[name] for name in PARTS},
        "wall_ns": wall,
        "bound_by": max(PARTS, key=lambda name: parts[name]),
        "parallel": round(worked / busy, 3) if busy else 0.0,
        "unseen_ns": max(0, off_cpu_ns - recorded),
    }


def of_load(
    threads: Iterable[Mapping[str, Any]],
    spans: Sequence[Span],
    tables: Mapping[str, pd.DataFrame],
    requests: Times,
    clocks: Mapping[int, Sequence[Interval]],
) -> dict[str, object] | None:
    """``critical`` from a load's thread rows, its spans, its parts of the tables and its reads.

    ``clocks``: {tid: its windows by the loader's clock}; where the main thread has none
    (a traced process) the windows are its spans.
    """
    leaders = {span.tgid for span in spans}
    windows = [window for tid in leaders for window in clocks.get(tid, ())]
    if not windows:
        windows = [(span.first.t_ns, span.last.t_ns) for span in spans]
    lives: dict[int, list[Interval]] = {}
    for span in spans:
        lives.setdefault(span.first.tid, []).append((span.first.t_ns, span.last.t_ns))
    intervals, waits = tables["intervals"], tables["waits"]
    allocating = intervals[intervals["phase"].isin(ALLOCATING)]
    off_cpu = sum(
        phase["blocked_ns"] + phase["runnable_ns"]
        for thread in threads
        for phase in thread["phases"]
    )
    load = Load(
        windows,
        lives,
        {
            tid: [Wait(*row) for row in rows]
            for tid, rows in _by_tid(waits, "start_ns", "woken_ns", "end_ns").items()
        },
        _by_tid(allocating, "start_ns", "end_ns"),
        requests,
    )  # fmt: skip
    return critical(load, off_cpu)


def _by_tid(frame: pd.DataFrame, *columns: str) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    values = (frame[name].tolist() for name in ("tid", *columns))
    for tid, *row in zip(*values, strict=True):
        found.setdefault(int(tid), []).append(tuple(row))
    return found


def _attribute(sources: Mapping[str, sweep.Intervals]) -> dict[str, int]:
    """ns of each part, inside the windows: every stretch to the first that is true."""
    import numpy as np

    parts = dict.fromkeys(PARTS, 0)
    for lengths, levels in sweep.sweep(sources):
        now = {name: level > 0 for name, level in levels.items()}
        true = {
            "alloc_io": now["alloc"] & now["io"],
            "alloc": now["alloc"],
            "cpu_io": now["running"] & now["io"],
            "cpu": now["running"],
            "io": now["io"],
            "queue": now["queue"],
            "runnable": now["runnable"],
            "wait": np.ones(len(lengths), dtype=bool),
        }
        which = np.argmax(np.stack([true[name] for name in PARTS]), axis=0)
        inside = now["window"]
        for number, ns in sweep.tally(which[inside], lengths[inside]).items():
            parts[PARTS[number]] += ns
    return parts


def _running(load: Load, tid: int) -> list[Interval]:
    """When a thread of the load ran."""
    spans = union(load.threads[tid])
    away = union((wait.start, wait.end) for wait in load.waits.get(tid, ()))
    return without(spans, away)


def _recorded(load: Load) -> int:
    """Time off CPU that the waits tell, inside the threads' spans."""
    return sum(
        length(both(union(spans), union((w.start, w.end) for w in load.waits.get(tid, ()))))
        for tid, spans in load.threads.items()
    )


def without(one: Sequence[Interval], other: Iterable[Interval]) -> list[Interval]:
    """Where ``one`` is and ``other`` is not; both disjoint and ascending."""
    found: list[Interval] = []
    away = list(other)
    j = 0
    for start, end in one:
        at = start
        while j < len(away) and away[j][1] <= at:
            j += 1
        k = j
        while k < len(away) and away[k][0] < end:
            if away[k][0] > at:
                found.append((at, away[k][0]))
            at = max(at, away[k][1])
            k += 1
        if at < end:
            found.append((at, end))
    return found
