"""A recording as a Perfetto trace, for ui.perfetto.dev and trace_processor.

- ``loads``: a slice per load, whose arguments are the report's figures, with create, io
  and close inside, by the loader's own clock;
- each thread: what it did for a load, the calls that were recorded one by one inside, and
  counters of its phases and of its time on a CPU, blocked and runnable, in ns since the
  load began (the last value of a load is the report's);
- below it ``off CPU``: its waits of 10 us or more, blocked, then runnable;
- ``block requests``: a slice per request, from the driver to completion.  A flow leads to
  each from its load, for the first FLOWS of a load;
- ``reads at the device``: how many at once, by slices of time;
- ``memory``: see export/counters.py.

A process that was followed has its load as a slice on a track of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from dmatrace.analysis import time
from dmatrace.export import Options
from dmatrace.export import counters as memory
from dmatrace.export.tracks import Slice, Trace
from dmatrace.phases import MEANING
from dmatrace.sizes import short_size

if TYPE_CHECKING:
    import pandas as pd

    from dmatrace.analysis.frames import Frames

#: Flows of a load: each is 9 bytes of its slice, and ten thousand arrows help nobody.
FLOWS = 10_000

_STEPS = ("create", "io", "close")
_AT_ONCE = 1 << 15  # rows
_KINDS = ("cpu_ns", "blocked_ns", "runnable_ns")


def write(frames: Frames, out: BinaryIO, _options: Options) -> None:
    """The trace of a recording to ``out``."""
    rows = {int(row["load_id"]): row for row in _rows(frames.recording.table("loads"))}
    moments = [row["start_ns"] for row in rows.values() if row["start_ns"]]
    trace = Trace(out, min(moments, default=0))
    flows = _flows(frames)
    processes = _Processes(trace)
    _loads(trace, frames, rows, flows, processes)
    _requests(trace, frames, flows)
    _depth(trace, frames)
    memory.write(trace, frames, rows)
    _threads(trace, frames, processes)


class _Processes:
    """The processes' tracks, each described once."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._tracks: dict[int, int] = {}

    def track(self, pid: int, name: str) -> int:
        """The track of process ``pid``; the first name given holds."""
        if pid not in self._tracks:
            self._tracks[pid] = self._trace.process(pid, name)
        return self._tracks[pid]


def _rows(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Rows as plain Python values, nulls as None; not all of them at a time."""
    for start in range(0, len(frame), _AT_ONCE):
        part = frame.iloc[start : start + _AT_ONCE]
        columns = {
            name: part[name].astype(object).where(part[name].notna(), None).tolist()
            for name in part.columns
        }
        for row in zip(*columns.values(), strict=True):
            yield dict(zip(columns, row, strict=True))


def _flows(frames: Frames) -> dict[int, range]:
    """{load_id: the numbers of its requests' flows}."""
    found: dict[int, range] = {}
    first = 1
    for load_id, count in frames["requests"]["load_id"].value_counts(sort=False).items():
        if int(str(load_id)) > 0:
            found[int(str(load_id))] = range(first, first + min(int(count), FLOWS))
            first += int(count)
    return found


def _loads(
    trace: Trace,
    frames: Frames,
    rows: Mapping[int, Mapping[str, Any]],
    flows: Mapping[int, range],
    processes: _Processes,
) -> None:
    clocks = _first_clocks(frames.recording.table("threads"))
    slices = []
    for load in _rows(frames["loads"]):
        row = rows.get(load["load_id"], {})
        steps = list(_steps(load, clocks))
        start = min([row.get("start_ns") or 0, *(step.start for step in steps)])
        if not start:
            continue  # it never began
        end = max([row.get("end_ns") or start, *(step.end for step in steps)])
        load_flows = flows.get(load["load_id"], range(0))
        if load["pid"]:
            # A process that was followed: several may run at a time.
            name = f"{load['comm']} {load['pid']}"
            one = Slice(name, start, end, "load", load, load_flows)
            process = processes.track(load["pid"], str(load["comm"]))
            trace.nested(trace.track("observed", process), [one, *steps])
            continue
        slices.append(Slice(load["strategy"], start, end, "load", load, load_flows))
        slices += steps
    # What does not nest cannot be: loads run one after the other.  Shown all the same.
    left = trace.nested(trace.track("loads", rank=1), slices)
    trace.overlapping("loads at the same time", 0, _by_start(left), rank=2)


def _first_clocks(threads: pd.DataFrame) -> dict[tuple[int, int], int]:
    """{(load, window): when its first thread began, by the loader's clock}."""
    found: dict[tuple[int, int], int] = {}
    columns = (threads[name].tolist() for name in ("load_id", "window", "start_ns"))
    for load_id, window, start in zip(*columns, strict=True):
        if start:
            found[load_id, window] = min(start, found.get((load_id, window), start))
    return found


def _steps(load: Mapping[str, Any], clocks: Mapping[tuple[int, int], int]) -> Iterator[Slice]:
    """Create, io and close of a load: as long as the report says, where the clock began them."""
    starts = {
        "create": clocks.get((load["load_id"], 0)),
        "io": clocks.get((load["load_id"], 0), 0) + load["create_ns"],
        "close": clocks.get((load["load_id"], 1)),
    }
    for step in _STEPS:
        start, ns = starts[step], load[f"{step}_ns"]
        if start and ns and (load["load_id"], int(step == "close")) in clocks:
            yield Slice(step, start, start + ns, "step")


def _requests(trace: Trace, frames: Frames, flows: Mapping[int, range]) -> None:
    found = frames["requests"]
    ended = found["latency_ns"].notna() & (found["latency_ns"] >= 0)
    # Submitted and never seen to end: a moment, not a length that nobody measured.
    starts = found["issue_ns"].where(ended, found["queue_ns"]).astype("int64")
    order = starts.sort_values(kind="stable").index
    trace.overlapping("block requests", 0, _transfers(found.loc[order], flows), rank=3)


def _transfers(requests: pd.DataFrame, flows: Mapping[int, range]) -> Iterator[Slice]:
    """A slice per request, in their order."""
    numbers = {load_id: iter(found) for load_id, found in flows.items()}
    for row in _rows(requests):
        flow = next(numbers.get(row["load_id"], iter(())), 0)
        start, end = row["issue_ns"], row["complete_ns"]
        if start is None or end is None or end < start:
            start = end = row["queue_ns"]
            row["never_completed"] = True
        name = f"{row['op']} {short_size(row['bytes'])}"
        yield Slice(name, start, end, "request", row, (flow,) if flow else ())


def _depth(trace: Trace, frames: Frames) -> None:
    """Requests at the device, by the slices of the report."""
    depth = frames["depth"]
    if not len(depth):
        return
    track = trace.counter("reads at the device, most at once", "count", rank=4)
    for _, part in depth.groupby("load_id"):
        columns = ("start_ns", "interval_ns", "depth_max")
        rows = list(zip(*(part[name].tolist() for name in columns), strict=True))
        for start, _, most in rows:
            trace.value(track, start, most)
        last, width, _ = rows[-1]
        trace.value(track, last + width, 0)


def _threads(trace: Trace, frames: Frames, processes: _Processes) -> None:
    snapshots = frames.recording.table("snapshots")
    spans = [span for span in time.spans(snapshots) if span.first.load_id > 0]
    groups = dict(snapshots.drop_duplicates("tid", keep="last").set_index("tid")["tgid"])
    names: dict[int, str] = {}
    for span in spans:
        names[span.first.tid] = span.comm
    calls = {int(str(tid)): part for tid, part in frames["intervals"].groupby("tid")}
    off = _off_cpu(frames)
    for tid in dict.fromkeys([*names, *calls]):
        tgid = int(groups.get(tid, tid))
        processes.track(tgid, names.get(tgid, ""))
        track = trace.thread(tgid, tid, names.get(tid, ""))
        mine = [span for span in spans if span.first.tid == tid]
        slices = [_window(span) for span in mine]
        if tid in calls:
            slices += (_call(row) for row in _rows(calls[tid]))
        left = trace.nested(track, slices)
        trace.overlapping("calls that cross others", track, _by_start(left))
        if tid in off:
            trace.overlapping("off CPU", track, _by_start(off[tid]))
        _phases(trace, track, mine, snapshots[snapshots["tid"] == tid])


def _by_start(slices: Iterable[Slice]) -> list[Slice]:
    return sorted(slices, key=lambda each: (each.start, each.end))


def _off_cpu(frames: Frames) -> dict[int, list[Slice]]:
    """{tid: its waits}: blocked until it is woken, and runnable until it has a CPU."""
    found: dict[int, list[Slice]] = {}
    for row in _rows(frames["waits"]):
        start, woken, end = row["start_ns"], row["woken_ns"], row["end_ns"]
        args = {"phase": row["phase"], "load_id": row["load_id"]}
        for name, since, until in (("blocked", start, woken), ("runnable", woken, end)):
            if since < until:
                found.setdefault(row["tid"], []).append(Slice(name, since, until, "wait", args))
    return found


def _window(span: time.Span) -> Slice:
    name = f"works for {span.owner}" if span.owner else f"load {span.first.load_id}"
    if span.marked and not span.owner:
        name += ", close" if span.first.window == 1 else ", create and io"
    args = {"load_id": span.first.load_id, "whole": span.whole}
    return Slice(name, span.first.t_ns, span.last.t_ns, "window", args)


def _call(row: Mapping[str, Any]) -> Slice:
    args = {"phase": row["phase"], "meaning": MEANING.get(row["phase"]), "load_id": row["load_id"]}
    return Slice(row["hook"] or row["phase"], row["start_ns"], row["end_ns"], "call", args)


def _phases(trace: Trace, parent: int, spans: list[time.Span], snapshots: pd.DataFrame) -> None:
    """Counters of a thread's phases and of cpu, blocked and runnable, from 0 in each load."""
    columns = ["load_id", "tid", "t_ns", "window", "kind", "phase", *_KINDS]
    at: dict[time.Key, dict[str, list[int]]] = {}
    for row in zip(*(snapshots[name].tolist() for name in columns), strict=True):
        at.setdefault(time.Key(*row[:5]), {})[row[5]] = list(row[6:])
    polls = sorted((key for key in at if key.kind == "poll"), key=lambda key: key.t_ns)
    tracks: dict[str, int] = {}
    for load_id in dict.fromkeys(span.first.load_id for span in spans):
        done: dict[str, int] = {}
        for span in spans:
            if span.first.load_id != load_id:
                continue
            inside = [
                key
                for key in polls
                if key.load_id == load_id and span.first.t_ns < key.t_ns < span.last.t_ns
            ]
            now = dict(done)
            for key in (span.first, *inside, span.last):
                now = _added(done, at.get(span.first, {}), at.get(key, {}))
                for name in sorted(now, key=_order):
                    if name not in tracks:
                        tracks[name] = trace.counter(name, "ns", parent, rank=len(tracks))
                    trace.value(tracks[name], key.t_ns, now[name])
            done = now


def _added(
    done: Mapping[str, int], first: Mapping[str, list[int]], here: Mapping[str, list[int]]
) -> dict[str, int]:
    """Counters at a moment: what earlier spans left, and the difference of two snapshots."""
    result = dict(done)
    for phase, values in here.items():
        change = [b - a for a, b in zip(first.get(phase, (0, 0, 0)), values, strict=True)]
        result[phase] = result.get(phase, 0) + sum(change)
        for kind, ns in zip(_KINDS, change, strict=True):
            name = f"all {kind.removesuffix('_ns')}"
            result[name] = result.get(name, 0) + ns
    return result


def _order(name: str) -> tuple[bool, list[str]]:
    return name.startswith("all "), time.in_phase_order([name])
