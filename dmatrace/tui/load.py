"""One load while it happens: its rows so far, and the figures they give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dmatrace.analysis import overlap, samples, time
from dmatrace.analysis.copies import copies
from dmatrace.analysis.memory import memory
from dmatrace.analysis.steps import STEPS
from dmatrace.analysis.time import CELLS, Key, Seen
from dmatrace.analysis.verdicts import direct
from dmatrace.recording.schema import TABLES
from dmatrace.tui import figures, queue
from dmatrace.tui.figures import Known
from dmatrace.tui.model import Interval, Io, Load

Row = Mapping[str, Any]

_BLANK: dict[str, Any] = {column.name: column.default for column in TABLES["loads"]}
_MOST_SPANS = 200  # of one line of the waterfall


class _Mark:
    """One snapshot of one thread."""

    __slots__ = ("comm", "counters", "owner", "phases", "tgid")

    def __init__(self) -> None:
        self.tgid = 0
        self.comm = ""
        self.owner = 0
        self.phases: dict[str, tuple[int, ...]] = {}
        self.counters: dict[str, tuple[int]] = {}


class LoadState:
    """The rows of one load, with the polls between its marks forgotten but the last."""

    def __init__(self, load_id: int) -> None:
        self.load_id = load_id
        self.dirty = True
        self.quiet = 0  # refreshes since its last row
        self.drawn: Load | None = None
        self.clocks: list[Row] = []
        self.requests = queue.Requests()
        self.intervals: list[Row] = []
        self.samples: list[Row] = []
        self.file_reads: list[Row] = []
        self._exited: set[int] = set()  # tids
        self._row: dict[str, Any] = {**_BLANK, "load_id": load_id, "strategy": "unknown"}
        self._marks: dict[int, dict[Key, _Mark]] = {}
        self._polled: dict[int, Key] = {}  # tid: its last poll
        self._pages: dict[tuple[int, int], Row] = {}
        self._dmabuf = 0

    @staticmethod
    def nothing(strategy: str, state: str, note: str) -> Load:
        """A strategy without a load."""
        empty = LoadState(0)
        empty._row["strategy"] = strategy
        nothing = Known(frozenset(), frozenset(), {}, divided=False, over=False)
        return empty._draw(0, nothing, state, note)

    @property
    def ended(self) -> bool:
        """Whether its last row has come."""
        return bool(self._row["end_ns"] or self._row["failed"])

    def row(self, row: Row) -> None:
        """A row of the loads table; the last one holds."""
        self._row = dict(row)
        self._row["verified"] = None if row["verified"] is None else bool(row["verified"])
        self.dirty = True

    def snapshot(self, row: Row) -> None:
        """A row of the snapshots table: one phase of one thread."""
        mark = self._mark(row)
        mark.tgid, mark.comm, mark.owner = row["tgid"], row["comm"], row["owner"]
        mark.phases[row["phase"]] = tuple(row[name] for name in CELLS)
        if row["kind"] == "exit":
            self._exited.add(row["tid"])
        elif row["kind"] == "fork":
            self._exited.discard(row["tid"])

    def counter(self, row: Row) -> None:
        """A row of the counters table."""
        self._mark(row).counters[row["counter"]] = (row["value"],)

    def page_cache(self, row: Row) -> None:
        """A file's ledger, cumulative."""
        if (row.get("kind") or "file") == "file":
            self._pages[row["dev"], row["ino"]] = row
            self.dirty = True

    def buffer(self, row: Row) -> None:
        """A buffer exported or released meanwhile."""
        self._dmabuf += row["size"] if row["event"] == "export" else 0
        self.dirty = True

    def comm(self, tid: int) -> str:
        """The name of a thread, if one of its snapshots has come."""
        marks = self._marks.get(tid)
        return next(reversed(marks.values())).comm if marks else ""

    def _mark(self, row: Row) -> _Mark:
        """The snapshot that a row belongs to; its rows may come in any order."""
        self.dirty = True
        tid = row["tid"]
        key = Key(row["load_id"], tid, row["t_ns"], row["window"], row["kind"])
        marks = self._marks.setdefault(tid, {})
        mark = marks.get(key)
        if mark is None:
            mark = marks[key] = _Mark()
            if key.kind == "poll":
                self._forget(marks, tid, key)
        return mark

    def _forget(self, marks: dict[Key, _Mark], tid: int, key: Key) -> None:
        """Of the polls only the first mark of a thread and the last poll bound a span."""
        old = self._polled.get(tid)
        if old is not None and old.t_ns > key.t_ns:
            return  # a late row of one that was forgotten
        self._polled[tid] = key
        if old is not None and old in marks and old != next(iter(marks)):
            del marks[old]

    @property
    def _observed(self) -> bool:
        """Whether it is a process that is followed, and no loader of ours."""
        return bool(self._row["pid"])

    def load(self, now: int, known: Known) -> Load:
        """Its figures at ``now``."""
        if not self.dirty and self.ended and self.drawn is not None:
            return self.drawn
        state, note = self._state(over=known.over)
        self.drawn = self._draw(now, known, state, note)
        self.dirty = False
        self.quiet = 0
        return self.drawn

    def _state(self, *, over: bool) -> tuple[str, str]:
        """(state, why)."""
        row = self._row
        if row["failed"]:
            return "failed", str(row["failed"])
        if self._observed:
            if row["ended"]:
                return "exited", str(row["ended"])
            if row["end_ns"]:
                return "ran on", "it was still running when the recording ended"
            if self._marks and self._marks.keys() <= self._exited:
                return "exited", ""
        elif row["end_ns"]:
            return ("refused", str(row["refused"])) if row["refused"] else ("done", "")
        return ("cut off", "the recording ends before it did") if over else ("running", "")

    def _spans(self) -> list[time.Span]:
        found: list[time.Span] = []
        for tid in sorted(self._marks):
            marks = self._marks[tid]
            seen = [
                Seen(key, mark.tgid, mark.comm, mark.owner)
                for key, mark in marks.items()
                if mark.phases
            ]
            found += time.thread_spans(sorted(seen, key=lambda each: each.key.t_ns))
        return found

    def _change(self, span: time.Span, what: str) -> time.Cells:
        """What a span changed in its thread's phases, or counters."""
        before, after = (
            getattr(self._marks[key.tid][key], what) for key in (span.first, span.last)
        )
        result: time.Cells = {}
        for name in before.keys() | after.keys():
            width = len(before.get(name) or after[name])
            zero = (0,) * width
            pairs = zip(before.get(name, zero), after.get(name, zero), strict=True)
            # A poll is read while its thread runs: a single cell of it may lag.
            change = tuple(max(0, b - a) for a, b in pairs)
            if any(change):
                result[name] = change
        return result

    def _draw(self, now: int, known: Known, state: str, note: str) -> Load:
        row, spans, hidden = self._row, self._spans(), known.hidden
        phases = {span: self._change(span, "phases") for span in spans}
        counted = {span: self._change(span, "counters") for span in spans}
        counters = {name: values[0] for name, values in time.total(counted.values()).items()}
        own: dict[int, dict[int, time.OwnClock]] = {}
        for clock in self.clocks:
            wall = clock["end_ns"] - clock["start_ns"]
            times = (wall, clock["sched_run_ns"], clock["sched_wait_ns"], clock["mark_ns"])
            own.setdefault(clock["tid"], {})[clock["window"]] = time.OwnClock(*times)
        comms = {clock["tid"]: clock["comm"] for clock in self.clocks}
        rows = time.thread_rows(spans, phases, counted, own, comms)
        if known.divided:
            self._divide(rows, spans)
        threads = tuple(map(figures.thread, rows))
        size, bill = int(row["bytes"]), memory(row)
        if not self.ended:
            bill |= self._so_far(counters, known)
        if "cached" in hidden:
            bill |= {"page_cache_added": None}
        copied = copies(counters, size)
        judged = direct(counters, str(row["strategy"]), str(row["refused"]), bill, size)
        judged |= figures.doubted(judged, hidden)
        start = min((span.first.t_ns for span in spans), default=int(row["start_ns"]))
        elapsed = int(row["wall_ns"]) or (max(0, now - start) if start else 0)
        io = self.requests.io() if "requests" not in hidden else None
        bytes_now = self._bytes(state, judged, io, hidden)
        first = spans[0] if spans else None
        begun = state not in ("waiting", "skipped")
        return Load(
            key=str(self.load_id) if self.load_id else f"{state} {row['strategy']}",
            load_id=self.load_id,
            strategy=str(row["strategy"]),
            round=int(row["round"]),
            process=str(row["comm"])
            or next((span.comm for span in spans if span.tgid == span.first.tid), "")
            or (first.comm if first else ""),
            pid=int(row["pid"]) or (first.tgid if first else 0),
            file=str(row["file"]) or self._file(known.paths),
            bytes=size,
            cache_before=str(row["cache_before"]),
            state=state,
            note=note,
            done_bytes=bytes_now,
            start=start,
            elapsed=elapsed,
            rate=bytes_now * 10**9 // elapsed if bytes_now and elapsed else None,
            copied=int(copied["cpu_bytes"]) if begun and "copies" not in hidden else None,
            copies_per_byte=figures.per_byte(copied, bytes_now, size, state)
            if begun and "copies" not in hidden
            else None,
            verdict=str(judged["verdict"]) if begun else None,
            why=str(judged["why"]) if begun else "",
            direct_bytes=int(judged["direct_bytes"]),
            buffered_bytes=int(judged["buffered_bytes"]),
            threads=threads,
            memory=figures.held(bill, known, begun=begun, ended=self.ended),
            io=io,
            create=int(row["create_ns"]),
            reading=int(row["io_ns"]),
            close=int(row["close_ns"]),
            verified=row["verified"],
            waterfall=tuple(self._waterfall(spans)),
            overlap=self._overlap(),
            command=str(row["command"]),
        )

    def _divide(self, rows: list[dict[str, Any]], spans: list[time.Span]) -> None:
        """The threads' phases in place, by their samples, as the report does it."""
        values = (tuple(row[name] for name in samples.COLUMNS) for row in self.samples)
        tallied = samples.tallied(spans, values)
        for row in rows:
            mine = [tally for span, tally in tallied.items() if span.first.tid == row["tid"]]
            row["phases"] = samples.divide(row["phases"], samples.together(mine))

    def _file(self, paths: Mapping[tuple[int, int], str]) -> str:
        """The file that a followed process read most of, where one is known."""
        most: dict[str, int] = {}
        for row in self.file_reads:
            if row["path"]:
                read = row["direct"] + row["buffered"] + row["spliced"]
                most[row["path"]] = most.get(row["path"], 0) + read
        if not most:
            for file, read in self.requests.by_file.items():
                path = paths.get(file)
                if path:
                    most[path] = most.get(path, 0) + read
        return max(most, key=lambda path: most[path], default="")

    def _so_far(self, counters: Mapping[str, int], known: Known) -> dict[str, int | None]:
        """The memory bill of a load that has not ended, from what was seen of it."""
        own = self._pages.get((self._row["dev"], self._row["ino"]))
        pages = [own] if own else [] if self._row["ino"] else list(self._pages.values())
        if self._observed:  # the samples go with the first process; its own count is here
            return {
                "page_cache_added": counters.get("cache_added_bytes", 0),
                "page_cache_removed": counters.get("cache_removed_bytes", 0),
                "page_cache_peak": sum(row["peak"] for row in pages) if pages else None,
                "page_cache_end": sum(row["current"] for row in pages) if pages else None,
                "dmabuf": self._dmabuf,
                "shmem": counters.get("shmem_alloc_bytes", 0),
            }
        # Nothing of the file is there as long as a sample would show it.
        seen = bool(pages) or known.sampled
        return {
            "page_cache_added": sum(row["added"] for row in pages) if seen else None,
            "page_cache_removed": sum(row["removed"] for row in pages) if seen else None,
            "page_cache_peak": sum(row["peak"] for row in pages) if seen else None,
            "page_cache_end": sum(row["current"] for row in pages) if seen else None,
            "dmabuf": self._dmabuf,
            "shmem": counters.get("shmem_alloc_bytes", 0),
        }

    def _bytes(
        self, state: str, judged: Mapping[str, Any], io: Io | None, hidden: frozenset[str]
    ) -> int | None:
        """How much of the file is loaded: all of it, or what passed a hooked path or the disk.

        None where a path is not hooked and nothing else tells.
        """
        size = int(self._row["bytes"])
        if state == "done" or (self._observed and self._row["end_ns"]):
            return size
        if state in ("waiting", "skipped"):
            return None
        seen = max(int(judged["direct_bytes"]) + int(judged["buffered_bytes"]), 0)
        if not seen and not (io and io.read_bytes) and figures.PATHS & hidden:
            return None
        return min(size, max(seen, io.read_bytes if io else 0)) if size else seen

    def _overlap(self) -> tuple[int, int, int]:
        allocating = (
            (row["start_ns"], row["end_ns"])
            for row in self.intervals
            if row["phase"] in overlap.ALLOCATING
        )
        found = overlap.overlap(allocating, self.requests.busy())
        return found["alloc_ns"], found["io_ns"], found["both_ns"]

    def _waterfall(self, spans: list[time.Span]) -> Iterator[tuple[str, tuple[Interval, ...]]]:
        """(what, when), in the order of the beginnings."""
        row = self._row
        lines: dict[str, list[Interval]] = {}
        windows: dict[int, list[int]] = {}
        for span in spans:
            if span.marked and not span.owner:
                times = windows.setdefault(span.first.window, [])
                times += [span.first.t_ns, span.last.t_ns]
        if 0 in windows:
            begin, end = min(windows[0]), max(windows[0])
            turn = min(end, begin + int(row["create_ns"]))
            if row["create_ns"]:
                lines["create the buffer"] = [(begin, turn)]
            lines["load the bytes" if row["create_ns"] else "create and load"] = [(turn, end)]
        if 1 in windows:
            lines["close"] = [(min(windows[1]), max(windows[1]))]
        names = {hook: step for step, hooks in STEPS.items() for hook in hooks}
        for each in self.intervals:
            what = "  allocating" if each["phase"] in overlap.ALLOCATING else ""
            if each["hook"] in names:
                what = f"  module: {names[each['hook']]}"
            if what:
                lines.setdefault(what, []).append((each["start_ns"], each["end_ns"]))
        for span in spans:
            if span.owner:
                worked = (span.first.t_ns, span.last.t_ns)
                lines.setdefault("  workers", []).append(worked)
        if self.requests.busy():
            lines["  disk reads"] = self.requests.busy()
        for what, intervals in lines.items():
            whole = overlap.union(intervals)
            if whole:
                yield what, queue.thinned(whole, _MOST_SPANS)
