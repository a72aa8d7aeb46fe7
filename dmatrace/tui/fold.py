"""From rows, as they come, to snapshots: the state of what was seen so far.

Rows are fed in the order they were recorded; ``snapshot`` may be asked for at any
time.  A load's figures are those that ``report`` computes (the functions are the
same, a test compares them).  Of a load that has ended, only its figures stay, so a
view that runs for days keeps its size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import compress
from typing import Any

from dmatrace.analysis.hidden import HIDDEN_BY, hidden, missing
from dmatrace.tui import queue
from dmatrace.tui.figures import Known
from dmatrace.tui.fileloads import FileLoads, unseen
from dmatrace.tui.ledger import Ledger
from dmatrace.tui.load import LoadState
from dmatrace.tui.model import Load, Missing, Snapshot, Transport

Row = Mapping[str, Any]

#: Of tables with thousands of rows a second, the columns that are looked at here.
COLUMNS = {"requests": queue.COLUMNS}
#: Loads whose figures stay, at most; the oldest go first.
KEEP = 1000
#: Refreshes without a new row after which the rows of a load that has ended are dropped.
_SETTLE = 2


class Fold:
    """Everything fed so far."""

    def __init__(self) -> None:
        self.first = 0  # ns, of the first row that has a time
        self.last = 0
        self._live: dict[int, LoadState] = {}
        self._done: dict[int, Load] = {}
        self._dropped = 0  # the last load whose figures are gone
        self._ledger = Ledger()
        self._files = FileLoads()

    def feed(self, table: str, rows: Iterable[Row]) -> None:
        """Rows of a table; tables that the view does not draw are passed over."""
        found: dict[str, Callable[[Row], None]] = {
            "snapshots": self._snapshot,
            "counters": self._counter,
            "loads": self._load,
            "threads": lambda row: self._of(row, "clocks"),
            "intervals": lambda row: self._of(row, "intervals"),
            "page_cache": self._page_cache,
            "buffers": self._buffer,
            "samples": lambda row: self._of(row, "samples"),
            "file_reads": lambda row: self._of(row, "file_reads"),
            "ways": self._files.way,
            "calls": self._files.call,
            "runs": self._files.run,
        }
        take = found.get(table)
        if table == "requests":
            self._requests(rows)
        elif take is not None:
            for row in rows:
                take(row)
        else:
            self._ledger.other(table, rows)

    def _state(self, load_id: int) -> LoadState | None:
        """The load's; None for what belongs to no load, or to one that is settled."""
        if load_id <= self._dropped or load_id in self._done:
            return None
        if load_id not in self._live:
            self._live[load_id] = LoadState(load_id)
        return self._live[load_id]

    def _seen(self, t_ns: int) -> None:
        if t_ns > 0:
            self.first = min(self.first or t_ns, t_ns)
            self.last = max(self.last, t_ns)

    def _snapshot(self, row: Row) -> None:
        state = self._state(row["load_id"])
        if state is not None:
            self._seen(row["t_ns"])
            state.snapshot(row)

    def _counter(self, row: Row) -> None:
        state = self._state(row["load_id"])
        if state is not None:
            state.counter(row)
            if row["counter"] == "shmem_alloc_bytes":
                self._ledger.shmem(row)

    def _load(self, row: Row) -> None:
        self._files.load(row)
        state = self._state(row["load_id"])
        if state is not None:
            self._seen(row["start_ns"])
            self._seen(row["end_ns"])
            state.row(row)
            self._ledger.name((row["dev"], row["ino"]), row["file"])
            if state.ended:
                self._ledger.ended(row["load_id"], row["end_ns"])

    def _of(self, row: Row, what: str) -> None:
        state = self._state(row["load_id"])
        if state is not None:
            getattr(state, what).append(row)
            state.dirty = True

    def _requests(self, rows: Iterable[Row]) -> None:
        """Column by column: there are thousands a second."""
        columns = queue.columns(rows)
        loads = columns["load_id"]
        for load_id in dict.fromkeys(loads):
            mine = columns
            if loads.count(load_id) < len(loads):
                of_it = [each == load_id for each in loads]
                mine = {name: [*compress(values, of_it)] for name, values in columns.items()}
            state = self._state(load_id)
            if state is not None:
                state.requests.add(mine)
                state.dirty = True
            if load_id > 0:
                self._seen(max(mine["complete_ns"]))
                self._seen(min(filter(None, mine["complete_ns"]), default=0))

    def _page_cache(self, row: Row) -> None:
        self._seen(row["t_ns"])
        self._ledger.page_cache(row)
        self._files.page_cache(row)
        state = self._state(row["load_id"])
        if state is not None:
            state.page_cache(row)

    def _buffer(self, row: Row) -> None:
        self._files.buffer(row)
        self._seen(row["t_ns"])
        state = self._state(row["load_id"])
        self._ledger.buffer(row, state.comm(row["tid"]) if state else "")
        if state is not None:
            state.buffer(row)

    @property
    def rows(self) -> int:
        """How many loads are kept as rows."""
        return len(self._live)

    def settle(self) -> None:
        """Keep only the figures of loads that ended a while ago; call it once a refresh."""
        for load_id, state in list(self._live.items()):
            if state.ended and not state.dirty:
                state.quiet += 1
                if state.quiet >= _SETTLE and state.drawn is not None:
                    self._done[load_id] = state.drawn
                    del self._live[load_id]
        if len(self._done) > KEEP:
            # Some at a time: the table is filled anew when its first row goes.
            kept = KEEP - KEEP // 10
            for load_id in sorted(self._done)[:-kept]:
                del self._done[load_id]
                self._dropped = load_id
        self._files.settle(ended=self._done.__contains__, dropped=self._dropped)

    def snapshot(
        self,
        meta: Mapping[str, Any],
        now: int,
        *,
        title: str,
        state: str,
        note: str = "",
        paused: bool = False,
        transport: Transport | None = None,
    ) -> Snapshot:
        """What is known at ``now`` (ns); ``meta`` is the recording's."""
        hooks = meta.get("hooks") or []
        gone = tuple(
            Missing(str(hook.get("name", "")), str(hook.get("phase") or ""), str(hook["hides"]))
            for hook in missing(hooks)
        )
        unknown = frozenset(hidden(hooks))
        # Hooks that samples stand in for say when, and count nothing.
        left_out = {hook.get("name") for hook in hooks if hook.get("attached") == "samples"}
        uncounted = frozenset(
            what for what, names in HIDDEN_BY.items() if left_out.intersection(names)
        )
        not_seen = unseen({hook.name for hook in gone} | left_out)
        known = Known(
            unknown,
            uncounted,
            self._ledger.paths,
            divided=meta.get("detail") == "sampled",
            over=state == "ended",
            sampled="ledger" in meta,
        )
        loads = {load_id: each.load(now, known) for load_id, each in self._live.items()}
        if self._files.several:
            loads = {n: self._own(load, told=not not_seen) for n, load in loads.items()}
        loads |= self._done
        self._files.refresh(cached="cached" not in unknown, unseen=not_seen)
        drawn = tuple(self._with_files(loads[load_id]) for load_id in sorted(loads))
        return Snapshot(
            title=title,
            kernel=str(meta.get("kernel") or ""),
            state=state,
            note=note,
            paused=paused,
            now=now,
            start=self.first,
            loads=drawn + _without_load(meta, drawn, over=known.over),
            series=self._ledger.series(unknown | uncounted),
            files=self._ledger.files(),
            heaps=self._ledger.heaps(),
            buffers=self._ledger.buffers(),
            pressure=self._ledger.pressure(),
            missing=gone,
            hidden=unknown,
            uncounted=uncounted,
            lost=int(meta.get("lost_events") or 0),
            lost_by=tuple((name, int(n)) for name, n in (meta.get("lost") or {}).items() if n),
            unavailable=tuple(((meta.get("ledger") or {}).get("unavailable") or {}).items()),
            detail=str(meta.get("detail") or ""),
            transport=transport,
            unseen=not_seen,
        )

    def _own(self, load: Load, *, told: bool) -> Load:
        """Of several processes that are followed each has the page cache of the files it loads.

        The recorder says it so in the end; until then the samples go with the first of them.
        ``told``: whether every way to load a file is seen.
        """
        if load.memory.added is None or self._live[load.load_id].ended:
            return load
        held = self._ledger.held(self._files.touched(load.load_id)) if told else (None, None)
        return replace(load, memory=replace(load.memory, cached=held[0], cached_peak=held[1]))

    def _with_files(self, load: Load) -> Load:
        """A followed process with the files that it loads."""
        found = self._files.of(load.load_id)
        more = self._files.more(load.load_id)
        if not found and not more:
            return load
        most = max((file for file in found if file.path), key=lambda file: file.bytes, default=None)
        name = load.file or (most.path if most else "")
        return replace(load, files=found, more_files=more, file=name)


def _without_load(
    meta: Mapping[str, Any], loads: tuple[Load, ...], *, over: bool
) -> tuple[Load, ...]:
    """Strategies that are skipped, or still have to run: they belong to the picture."""
    seen = {load.strategy for load in loads}
    skipped = {
        str(skip.get("strategy")): f"{skip.get('why', '')}; {skip.get('do', '')}"
        for skip in meta.get("skipped") or []
    }
    target = meta.get("target") or {}
    names = [*(target.get("strategies") or ()), *skipped]
    found = []
    for name in dict.fromkeys(names):
        if name in seen:
            continue
        if name in skipped:
            found.append(LoadState.nothing(name, "skipped", skipped[name]))
        elif not (over and meta.get("complete")):
            found.append(LoadState.nothing(name, "waiting", "its turn comes"))
    return tuple(found)
