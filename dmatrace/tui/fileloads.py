"""The files that followed processes load, while they do: the report's ``file_loads``, row by row.

The figures are those of ``analysis.fileloads``.  What it needs is kept, and no more: of each
way the last row, of runs which bytes they cover, of system calls what tells how a file was
mapped.  Limits, for a view that runs for days: of a process the ``FILES`` files that were read
last are kept, of each sort of call the first and last ``CALLS``; and what has led to no load
in ``LATE`` ns never will.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from dmatrace.analysis import fileloads
from dmatrace.analysis.fileloads import Facts, File
from dmatrace.analysis.findings import of_file
from dmatrace.analysis.overlap import length, union
from dmatrace.tui.model import FileLoad, Finding, Part

Row = Mapping[str, Any]
Span = tuple[int, int]

#: Files of one process; more are halved to this.
FILES = 256
CALLS = 128
#: Sorts of calls (of a file, or advice of a process) from which on old ones are looked for.
SORTS = 4096
#: Exports of dma-bufs whose heap is kept.
EXPORTS = 4096
#: ns after which a row's consequences have come: the recorder writes twice a second.
LATE = 30 * 10**9

#: Reads that are not seen without a hook.
_SEEN_BY = (
    ("buffered reads", ("filemap_read",)),
    ("direct reads", ("__iomap_dio_rw",)),
    ("spliced reads", ("filemap_splice_read", "generic_file_splice_read", "copy_splice_read")),
    ("faults on mappings", ("filemap_fault", "filemap_map_pages")),
)


def unseen(missing: Iterable[str]) -> tuple[str, ...]:
    """The reads that missing hooks hide, each with the hooks: "direct reads (__iomap_dio_rw)"."""
    gone = set(missing)
    found = ((what, [name for name in names if name in gone]) for what, names in _SEEN_BY)
    return tuple(f"{what} ({', '.join(names)})" for what, names in found if names)


class _Spans:
    """Bytes that are covered; those that touch are joined."""

    __slots__ = ("_joined", "spans")

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._joined = 0

    def add(self, span: Span) -> None:
        self.spans.append(span)
        if len(self.spans) > 2 * self._joined + 64:
            self.join()

    def join(self) -> int:
        """How many bytes they are."""
        self.spans = union(self.spans)
        self._joined = len(self.spans)
        return length(self.spans)


class _Runs:
    """Which bytes of a file runs cover: mapped around faults, and in any way."""

    __slots__ = ("_every", "_mapped", "_rows", "until")

    def __init__(self) -> None:
        self.until = 0
        self._mapped, self._every = _Spans(), _Spans()
        self._rows: list[Row] = []

    def __len__(self) -> int:
        return len(self._mapped.spans) + len(self._every.spans)

    def add(self, row: Row) -> None:
        span = int(row["start"]), int(row["end"])
        self._every.add(span)
        if row["kind"] == "mapped":
            self._mapped.add(span)
        self.until = max(self.until, int(row["until_ns"]))
        self._rows.clear()

    def rows(self, load_id: int, file: File) -> Iterable[Row]:
        """Two runs that cover as many bytes of either sort: more is not asked of them."""
        if not self._rows:
            mapped, every = self._mapped.join(), self._every.join()
            head = {"load_id": load_id, "dev": file[0], "ino": file[1]}
            self._rows = [
                {**head, "kind": "mapped", "start": 0, "end": mapped},
                {**head, "kind": "read", "start": mapped, "end": every},
            ]
        return self._rows


class _Sort:
    """Calls of one sort: the first, which tell how it began, and the last."""

    __slots__ = ("_first", "_last", "file", "t_ns")

    def __init__(self, file: File | None) -> None:
        self.file = file
        self.t_ns = 0
        self._first: list[tuple[int, Row]] = []
        self._last: deque[tuple[int, Row]] = deque(maxlen=CALLS)

    def add(self, number: int, row: Row) -> None:
        (self._first if len(self._first) < CALLS else self._last).append((number, row))
        self.t_ns = max(self.t_ns, int(row["t_ns"]))

    def rows(self) -> Iterator[tuple[int, Row]]:
        yield from self._first
        yield from self._last


class _Process:
    """What is kept of one load."""

    def __init__(self) -> None:
        self.row: Row = {}
        self.ways: dict[File, dict[tuple[Any, ...], Row]] = {}
        self.written: dict[tuple[Any, ...], Row] = {}
        self.runs: dict[File, _Runs] = {}
        self.t_ns = 0
        self.changed = False
        self.over = False  # its rows are gone, what they gave stays
        self.more = False
        self.found: list[dict[str, Any]] = []
        self.shown: tuple[FileLoad, ...] = ()

    @property
    def observed(self) -> bool:
        return bool(self.row.get("strategy") == "observed")

    def faults(self, file: File) -> bool:
        return fileloads.faults(list(self.ways.get(file, {}).values()))

    def all_ways(self) -> Iterator[Row]:
        for ways in self.ways.values():
            yield from ways.values()


class FileLoads:
    """The file loads of everything fed so far."""

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}
        self._calls: dict[tuple[Any, ...], _Sort] = {}
        self._number = 0  # of calls
        self._exports: dict[int, Row] = {}
        self._cached: dict[File, int] = {}
        self._touched: set[File] = set()  # whose page cache changed
        self._about: set[File] = set()  # that calls were about
        self._all = False  # something came that may be about any
        self._last = 0  # ns
        self._known: tuple[bool, tuple[str, ...]] = False, ()

    @property
    def rows(self) -> int:
        """How many rows are kept."""
        kept = sum(len(list(each.rows())) for each in self._calls.values()) + len(self._exports)
        for process in self._processes.values():
            kept += len(list(process.all_ways())) + len(process.written)
            kept += sum(map(len, process.runs.values()))
        return kept

    @property
    def several(self) -> bool:
        """Whether more than one process is followed."""
        return sum(process.observed for process in self._processes.values()) > 1

    def touched(self, load_id: int) -> set[File]:
        """The files that a followed process has read, written or mapped."""
        process = self._processes.get(load_id)
        if process is None:
            return set()
        return {
            (row["dev"], row["ino"]) for row in (*process.all_ways(), *process.written.values())
        }

    def _of(self, load_id: int) -> _Process | None:
        process = self._processes.setdefault(load_id, _Process()) if load_id > 0 else None
        return None if process is None or process.over else process

    def load(self, row: Row) -> None:
        """A row of the loads table."""
        process = self._of(int(row["load_id"]))
        if process is not None:
            named = {name: row[name] for name in ("strategy", "comm")}
            process.changed |= named != process.row
            process.row = named

    def way(self, row: Row) -> None:
        """A row of the ways table, cumulative."""
        process = self._of(int(row["load_id"]))
        if process is None:
            return
        file = int(row["dev"]), int(row["ino"])
        ways = process.written if row["way"] == "written" else process.ways.setdefault(file, {})
        ways[fileloads.way(row)] = row
        process.changed = True
        process.t_ns = max(process.t_ns, int(row["t_ns"]))
        self._last = max(self._last, process.t_ns)
        if row["way"] == "written":  # what the pipe's other end read went there
            self._all = True

    def run(self, row: Row) -> None:
        """A row of the runs table."""
        process = self._of(int(row["load_id"])) if row["kind"] != "readahead" else None
        if process is None:
            return
        file = int(row["dev"]), int(row["ino"])
        runs = process.runs.setdefault(file, _Runs())
        runs.add(row)
        process.changed |= process.faults(file)
        self._last = max(self._last, runs.until)

    def call(self, row: Row) -> None:
        """A row of the calls table."""
        file = int(row["dev"]), int(row["ino"])
        what, target = str(row["what"]), str(row["target"])
        if what in ("close", "munmap", "attach", "detach"):
            return
        advice = what == "madvise"
        # A udmabuf is known by its memfd: many may be made of one.
        about = (int(row["other_dev"]), int(row["other"])) if what == "udmabuf" else file
        key = (what, int(row["tgid"]), int(row["flags"])) if advice else (what, target, *about)
        sort = self._calls.setdefault(key, _Sort(None if advice else about))
        self._number += 1
        sort.add(self._number, row)
        self._last = max(self._last, sort.t_ns)
        if advice or target == "dmabuf":
            self._all = True
        else:
            self._about.add(file)

    def buffer(self, row: Row) -> None:
        """A row of the buffers table."""
        if row["event"] == "export":
            ino = int(row["ino"])
            self._exports.pop(ino, None)
            self._exports[ino] = row
            if len(self._exports) > EXPORTS:
                del self._exports[next(iter(self._exports))]
            self._all = True

    def page_cache(self, row: Row) -> None:
        """A file's ledger, cumulative."""
        file = int(row["dev"]), int(row["ino"])
        current = max(0, int(row["current"]))
        if self._cached.get(file) != current:
            self._cached[file] = current
            self._touched.add(file)

    def refresh(self, *, cached: bool, unseen: tuple[str, ...]) -> None:
        """Compute anew what has changed; ``cached``: whether the page cache is known."""
        followed = {n: p for n, p in self._processes.items() if p.observed and not p.over}
        for process in followed.values():
            process.changed |= self._all or not self._about.isdisjoint(process.ways)
        self._all = False
        self._about.clear()
        changed = {n: p for n, p in followed.items() if p.changed}
        ways = [row for process in changed.values() for row in process.all_ways()]
        found: dict[int, list[dict[str, Any]]] = {}
        if ways:
            runs = [
                row
                for load_id, process in changed.items()
                for file, each in process.runs.items()
                if process.faults(file)
                for row in each.rows(load_id, file)
            ]
            rows = {load_id: process.row for load_id, process in changed.items()}
            for load in fileloads.file_loads(ways, self._facts(), runs, self._cached, rows):
                found.setdefault(load["load_id"], []).append(load)
        anew = self._known != (cached, unseen)
        self._known = cached, unseen
        for load_id, process in self._processes.items():
            if load_id in changed:
                process.found = found.get(load_id, [])
            touched = self._touched and not self._touched.isdisjoint(map(_file, process.found))
            if process.changed or touched or anew:
                for load in process.found:
                    load["cached"] = self._cached.get(_file(load))
                process.shown = tuple(
                    file_load(load, cached=cached, unseen=unseen) for load in process.found
                )
                process.changed = False
        self._touched.clear()

    def _facts(self) -> Facts:
        calls = sorted(
            (each for sort in self._calls.values() for each in sort.rows()), key=lambda one: one[0]
        )
        written = [row for each in self._processes.values() for row in each.written.values()]
        return Facts([row for _, row in calls], list(self._exports.values()), written)

    def of(self, load_id: int) -> tuple[FileLoad, ...]:
        """A followed process's, as of the last refresh; of loads by a strategy, none."""
        process = self._processes.get(load_id)
        return process.shown if process is not None and process.observed else ()

    def more(self, load_id: int) -> bool:
        """Whether it loaded files that are no longer kept."""
        process = self._processes.get(load_id)
        return process is not None and process.more

    def settle(self, *, ended: Callable[[int], bool], dropped: int) -> None:
        """Drop what is of no use any more; call it once a refresh, behind ``refresh``.

        Of a load that has ``ended`` what it gave stays, until it is one of the ``dropped``
        (all up to this load_id).
        """
        before = self._last - LATE
        for load_id in [each for each in self._processes if each <= dropped]:
            del self._processes[load_id]
        for load_id, process in self._processes.items():
            for file in [f for f in process.runs if process.runs[f].until < before]:
                if not process.faults(file):
                    del process.runs[file]
            if len(process.ways) > 2 * FILES:
                self._halve(process)
            process.over |= ended(load_id) and process.t_ns < before and not process.changed
            if process.over or (process.row and not process.observed):
                process.ways.clear()
                process.runs.clear()
                process.written.clear()
        if len(self._calls) > SORTS:
            self._sort_out(before)

    @staticmethod
    def _halve(process: _Process) -> None:
        """Keep the files that were read last."""
        last = {file: max(w["t_ns"] for w in ways.values()) for file, ways in process.ways.items()}
        old = sorted(last, key=lambda file: -last[file])[FILES:]
        process.more |= not set(old).isdisjoint(map(_file, process.found))
        for file in old:
            del process.ways[file]
            process.runs.pop(file, None)
        process.changed = True

    def _sort_out(self, before: int) -> None:
        """Drop old calls about what no load is of, or went into."""
        rows = [r for p in self._processes.values() for r in (*p.all_ways(), *p.written.values())]
        files = {(int(row[dev]), int(row[ino])) for row in rows
                 for dev, ino in (("dev", "ino"), ("to_dev", "to_ino"))}  # fmt: skip
        tgids = {int(row["tgid"]) for row in rows}
        for key, sort in list(self._calls.items()):
            used = key[1] in tgids if sort.file is None else sort.file in files
            if not used and sort.t_ns < before:
                del self._calls[key]


def _file(load: Row) -> File:
    """The file of a row of ``file_loads``."""
    major, minor = str(load["dev"]).split(":")
    return int(major) << 20 | int(minor), int(load["ino"])


def file_load(load: Row, *, cached: bool = True, unseen: tuple[str, ...] = ()) -> FileLoad:
    """A row of the document's ``file_loads`` as the view has it."""
    plain = ("load_id", "pid", "comm", "path", "format", "dev", "ino", "size", "bytes", "verdict",
             "method", "target")  # fmt: skip
    known = {**load, "cached": load["cached"] if cached else None}
    return FileLoad(
        key=f"{load['load_id']}/{load['dev']}:{load['ino']}",
        **{name: load[name] for name in plain},
        start=load["start_ns"],
        end=load["end_ns"],
        progress=None if unseen else load["progress"],
        rate=None if unseen else load["bytes_per_s"],
        cached=known["cached"],
        parts=tuple(map(_part, load["parts"])),
        findings=tuple(
            Finding(each["kind"], each["text"], each["next"]) for each in of_file(known)
        ),
        unseen=unseen,
    )


def _part(part: Row) -> Part:
    return Part(
        name=part["name"],
        bytes=part["bytes"],
        share=part["share"],
        calls=part["calls"],
        block=part["block"],
        depth=part["depth_mean"],
        depth_max=part["depth_max"],
        evidence=tuple(part["evidence"]),
    )
