"""Time per thread and phase, from cumulative snapshots.

A span is one stretch of one thread that belongs to a load, bounded by two
snapshots; what happened in it is their difference.  The bounds are

- begin..end, the loader's own markers, once per window.  A begin without its
  end (the loader or the recorder was killed) ends at the thread's last
  snapshot, and the span is not ``whole``;
- work-begin..work-end, of a worker (a kworker of the loader module, an io-wq
  worker) for the thread that owns the work.  At other times it is nobody's;
- for a thread that set no marker (a kernel thread forked inside the window,
  a traced process) fork..exit, or from its first to its last snapshot where
  the recording does not reach that far.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from dmatrace.phases import PHASE_ID, PHASES

if TYPE_CHECKING:
    import pandas as pd

CELLS = ("cpu_ns", "blocked_ns", "runnable_ns", "count")


class Key(NamedTuple):
    """What tells one snapshot from all others."""

    load_id: int
    tid: int
    t_ns: int
    window: int
    kind: str


@dataclass(frozen=True)
class Span:
    """One stretch of a thread between two of its snapshots."""

    first: Key
    last: Key
    tgid: int
    comm: str
    marked: bool
    whole: bool
    owner: int = 0  # tid that a worker worked for

    @property
    def ns(self) -> int:
        """Its length by the tracer's clock."""
        return self.last.t_ns - self.first.t_ns


class Seen(NamedTuple):
    """One snapshot, and what it says of its thread."""

    key: Key
    tgid: int
    comm: str
    owner: int


def spans(snapshots: pd.DataFrame) -> list[Span]:
    """All spans of a recording, in the order of (load, tid, time)."""
    columns = ["load_id", "tid", "t_ns", "window", "kind", "tgid", "comm", "owner"]
    # One line per snapshot; a stable sort keeps the recording's order within one ns.
    distinct = snapshots[columns].drop_duplicates(columns[:5], keep="last")
    distinct = distinct.sort_values(["load_id", "tid", "t_ns"], kind="stable")
    found: list[Span] = []
    thread: list[Seen] = []
    for load_id, tid, t_ns, window, kind, tgid, comm, owner in _rows(distinct, columns):
        key = Key(load_id, tid, t_ns, window, kind)
        if thread and thread[0][0][:2] != key[:2]:
            found += thread_spans(thread)
            thread = []
        thread.append(Seen(key, tgid, comm, owner))
    if thread:
        found += thread_spans(thread)
    return found


_ENDS = {"begin": "end", "work-begin": "work-end"}


def thread_spans(thread: Sequence[Seen]) -> Iterator[Span]:
    """The spans of one thread of one load, from its snapshots in time order."""
    if not any(seen.key.kind in _ENDS for seen in thread):
        yield from _unmarked(thread)
        return
    begin: Seen | None = None
    last: Seen | None = None
    for seen in thread:
        key = seen.key
        if key.kind in _ENDS:
            if begin and last:
                yield _span(begin, last, marked=True, whole=False)
            begin, last = seen, None
        elif begin and key.kind == _ENDS[begin.key.kind] and key.window == begin.key.window:
            yield _span(begin, seen, marked=True, whole=True)
            begin = last = None
        elif begin and key.kind in ("poll", "exit"):
            last = seen
    if begin:
        yield _span(begin, last or begin, marked=True, whole=False)


def _span(first: Seen, last: Seen, *, marked: bool, whole: bool) -> Span:
    return Span(first.key, last.key, last.tgid, last.comm, marked, whole, last.owner)


def _unmarked(thread: Sequence[Seen]) -> Iterator[Span]:
    """Lives of a thread (and of the next one with its number), fork to exit."""
    first: Seen | None = None
    previous: Seen | None = None
    for seen in thread:
        if seen.key.kind == "fork" and first and previous:
            yield _span(first, previous, marked=False, whole=True)
            first = None
        first = first or seen
        previous = seen
        if seen.key.kind == "exit":
            yield _span(first, seen, marked=False, whole=True)
            first = previous = None
    if first and previous:
        yield _span(first, previous, marked=False, whole=True)


Cells = dict[str, tuple[int, ...]]


def cells(
    found: Iterable[Span], table: pd.DataFrame, name: str, values: Sequence[str]
) -> dict[Span, Cells]:
    """What each span changed in a cumulative table: {name: differences of values}.

    ``table`` is snapshots with name "phase", or counters with name "counter".
    Names that did not change are left out.
    """
    found = list(found)
    needed = {key for span in found for key in (span.first, span.last)}
    at: dict[Key, Cells] = {}
    keys = ["load_id", "tid", "t_ns", "window", "kind"]
    # Most rows of a long recording are polls nobody asks for.
    bounds = table[table["t_ns"].isin({key.t_ns for key in needed})]
    for row in _rows(bounds, [*keys, name, *values]):
        key = Key(*row[:5])
        if key in needed:
            at.setdefault(key, {})[row[5]] = tuple(row[6:])
    zero = (0,) * len(values)
    result: dict[Span, Cells] = {}
    for span in found:
        before, after = at.get(span.first, {}), at.get(span.last, {})
        result[span] = {}
        for what in before.keys() | after.keys():
            change = tuple(
                b - a for a, b in zip(before.get(what, zero), after.get(what, zero), strict=True)
            )
            if any(change):
                result[span][what] = change
    return result


def total(parts: Iterable[Cells]) -> Cells:
    """The sum of several spans' cells."""
    result: Cells = {}
    for part in parts:
        for what, values in part.items():
            if what in result:
                values = tuple(a + b for a, b in zip(result[what], values, strict=True))
            result[what] = values
    return result


def in_phase_order(names: Iterable[str]) -> list[str]:
    """Phases in the contract's order, unknown ones (of a newer recorder) behind."""
    return sorted(names, key=lambda name: (PHASE_ID.get(name, len(PHASES)), name))


def phase_rows(sums: Mapping[str, tuple[int, ...]]) -> list[dict[str, int | str]]:
    """The contract's ``phases`` list from cells with the values of CELLS."""
    return [
        {"phase": phase, **dict(zip(CELLS, sums[phase], strict=True))}
        for phase in in_phase_order(sums)
    ]


class OwnClock(NamedTuple):
    """What a loading thread measured itself, over one or more windows, in ns.

    ``mark_ns`` is how far its wall time and the tracer's can be apart: the time that its
    marks took.  ``clock`` is whose the wall time is, "" for the loader's own.
    """

    wall_ns: int
    run_ns: int
    wait_ns: int
    mark_ns: int
    clock: str = ""


def own_clocks(threads: pd.DataFrame) -> dict[tuple[int, int], dict[int, OwnClock]]:
    """{(load, tid): {window: its own clock}} of the threads table."""
    columns = [
        "load_id", "tid", "window", "start_ns", "end_ns", "sched_run_ns", "sched_wait_ns",
        "mark_ns", "clock",
    ]  # fmt: skip
    result: dict[tuple[int, int], dict[int, OwnClock]] = {}
    for load_id, tid, window, start, end, run, wait, mark, clock in _rows(threads, columns):
        windows = result.setdefault((load_id, tid), {})
        old = windows.get(window, OwnClock(0, 0, 0, 0))
        windows[window] = OwnClock(
            old.wall_ns + end - start,
            old.run_ns + run,
            old.wait_ns + wait,
            old.mark_ns + mark,
            clock,
        )
    return result


def own_windows(threads: pd.DataFrame) -> dict[int, dict[int, list[tuple[int, int]]]]:
    """{load: {tid: [(start, end) of each window by its own clock]}} of the threads table."""
    result: dict[int, dict[int, list[tuple[int, int]]]] = {}
    for load_id, tid, start, end in _rows(threads, ["load_id", "tid", "start_ns", "end_ns"]):
        result.setdefault(load_id, {}).setdefault(tid, []).append((start, end))
    return result


def thread_rows(
    load_spans: Sequence[Span],
    phases: Mapping[Span, Cells],
    counted: Mapping[Span, Cells],
    own: Mapping[int, Mapping[int, OwnClock]],
    comms: Mapping[int, str],
) -> list[dict[str, object]]:
    """The contract's ``threads`` list of one load: the main thread first, then by start.

    ``owner`` is the thread that a worker worked for, None for the loader's own; a worker's
    ``wall_ns`` is what it worked for it.

    ``wall_ns`` is the loader's own clock (``clock`` "loader"), or the recorder's ("recorder")
    of a thread that it looked at; the tracer's where neither said anything, which then
    proves nothing about closure (``clock`` "tracer").
    ``mark_ns`` is what its two clocks can be apart, or the recorder's and schedstat's.
    ``wake_ns`` is the part of its runnable time that lies between a wakeup and a CPU.
    """
    by_tid: dict[int, list[Span]] = {}
    for span in load_spans:
        by_tid.setdefault(span.first.tid, []).append(span)
    order = []
    for tid in by_tid.keys() | own.keys():
        mine = by_tid.get(tid, [])
        started = min((span.first.t_ns for span in mine), default=0)
        order.append((all(span.tgid != tid for span in mine), started, tid))
    rows: list[dict[str, object]] = []
    for _, _, tid in sorted(order):
        mine = by_tid.get(tid, [])
        windows = own.get(tid, {})
        unclocked = [span for span in mine if span.first.window not in windows]
        wall = sum(clock.wall_ns for clock in windows.values())
        wall += sum(span.ns for span in unclocked)
        phase_list = phase_rows(total(phases[span] for span in mine))
        if not wall and not phase_list:
            continue
        clocked = bool(windows) and not unclocked
        rows.append(
            {
                "tid": tid,
                "comm": mine[-1].comm if mine else comms.get(tid, ""),
                "owner": (mine[-1].owner or None) if mine else None,
                "wall_ns": wall,
                "clock": _clock(windows.values()) if clocked else "tracer",
                "sched_run_ns": sum(c.run_ns for c in windows.values()) if clocked else None,
                "sched_wait_ns": sum(c.wait_ns for c in windows.values()) if clocked else None,
                "mark_ns": sum(c.mark_ns for c in windows.values()),
                "wake_ns": sum(counted[span].get("wake_ns", (0,))[0] for span in mine),
                "phases": phase_list,
            }
        )
    return rows


def _clock(clocks: Iterable[OwnClock]) -> str:
    """Whose clocks these are: one that proves nothing spoils the others."""
    names = {clock.clock or "loader" for clock in clocks}
    return "tracer" if "tracer" in names else min(names)


def _rows(frame: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The rows of some columns as plain Python values, fast."""
    return zip(*(frame[column].tolist() for column in columns), strict=True)
