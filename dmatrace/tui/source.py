"""Where snapshots come from.  The view knows this interface and no other.

A source only reads a recording: one that is finished (``Replay``), or one that a
recorder is writing (``dmatrace.tui.live``).  ``read`` is called from one worker
thread, the controls from the view's; neither needs privilege.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from dmatrace.recording.tail import Row, Tail
from dmatrace.tui.fold import Fold
from dmatrace.tui.model import Snapshot, Transport

SPEEDS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0)


class Source(Protocol):
    """Snapshots of one recording."""

    def read(self) -> Snapshot:
        """The state now.  Raises DmatraceError when there is no more to be had."""

    def pause(self, paused: bool) -> None:
        """Keep showing this moment, or go on."""

    def step(self, samples: int) -> None:
        """To the next or an earlier sample; nothing where ``Snapshot.transport`` is None."""

    def faster(self, steps: int) -> None:
        """Speed up or slow down by steps; nothing where there is no transport."""

    def jump(self, at: int) -> None:
        """To ``at`` ns from the beginning; nothing where there is no transport."""

    def load(self, step: int) -> None:
        """To the beginning of the next or previous load; nothing without a transport."""

    def close(self) -> None:
        """End what was started; twice does nothing."""


class Replay:
    """Plays a recording, finished or still growing, as if it happened now."""

    def __init__(
        self,
        path: str | Path,
        *,
        playing: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tail = Tail.open(path)
        self._clock = clock
        self._lock = threading.RLock()
        self._events: list[tuple[int, int, str, Row]] = []
        self._marks: list[int] = []  # times of snapshots
        self._starts: list[int] = []  # of loads
        self._fold = Fold()
        self._fed = 0
        self._speed = SPEEDS.index(1.0)
        self._paused = not playing
        self._at = 0.0  # ns since the beginning
        self._clocked = clock()
        self._grow()

    def read(self) -> Snapshot:
        """The state at the player's time."""
        with self._lock:
            self._grow()
            self._advance()
            now = self._begin + int(self._at)
            self._catch_up(now)
            over = self._at >= self._length and self._tail.complete
            whole = self._tail.complete or self._at < self._length
            self._fold.settle()
            note = "" if whole else "its recorder did not close it, or still writes"
            return self._fold.snapshot(
                self._tail.meta,
                now,
                title=self._tail.path.name,
                state="ended" if self._at >= self._length else "replay",
                note="the end of the recording" if over else note,
                paused=self._paused,
                transport=Transport(int(self._at), self._length, SPEEDS[self._speed]),
            )

    def pause(self, paused: bool) -> None:
        with self._lock:
            self._advance()
            if not paused and self._at >= self._length:
                self._at = 0.0  # play at the end begins anew
            self._paused = paused

    def step(self, samples: int) -> None:
        with self._lock:
            self._advance()
            self._paused = True
            now = self._begin + int(self._at)
            if samples > 0:
                place = bisect.bisect_right(self._marks, now) + samples - 1
            else:
                place = bisect.bisect_left(self._marks, now) + samples
            if self._marks:
                self._go(self._marks[min(max(place, 0), len(self._marks) - 1)])

    def faster(self, steps: int) -> None:
        with self._lock:
            self._advance()
            self._speed = min(max(self._speed + steps, 0), len(SPEEDS) - 1)

    def jump(self, at: int) -> None:
        with self._lock:
            self._go(self._begin + at)

    def load(self, step: int) -> None:
        with self._lock:
            self._advance()
            now = self._begin + int(self._at)
            later = bisect.bisect_right(self._starts, now)
            # Back from within a load is to its beginning, from its beginning to the one before.
            place = later if step > 0 else bisect.bisect_left(self._starts, now) - 1
            if 0 <= place < len(self._starts):
                self._go(self._starts[place])
            else:
                self._go(self._begin if step < 0 else self._begin + self._length)

    def close(self) -> None:
        pass

    @property
    def _begin(self) -> int:
        return self._events[0][0] if self._events else 0

    @property
    def _length(self) -> int:
        return self._events[-1][0] - self._events[0][0] if self._events else 0

    def _go(self, now: int) -> None:
        self._clocked = self._clock()
        self._at = float(min(max(now - self._begin, 0), self._length))

    def _advance(self) -> None:
        """Let the player's time pass."""
        clock = self._clock()
        passed, self._clocked = clock - self._clocked, clock
        if not self._paused:
            self._at = min(self._at + passed * SPEEDS[self._speed] * 1e9, float(self._length))

    def _catch_up(self, now: int) -> None:
        """The fold holds every event up to ``now`` and none after."""
        if self._fed and self._events[self._fed - 1][0] > now:
            self._fold, self._fed = Fold(), 0
        while self._fed < len(self._events) and self._events[self._fed][0] <= now:
            _, _, table, row = self._events[self._fed]
            self._fold.feed(table, (row,))
            self._fed += 1

    def _grow(self) -> None:
        """Read what was written since; a finished recording is read once."""
        new = self._tail.poll()
        if not new:
            return
        order = len(self._events)
        if self._tail.complete and not self._events and "runs" in new:
            new["runs"] = _of_mappings(new["runs"], new.get("ways", ()))
        for table, rows in new.items():
            for row in rows:
                order += 1
                self._events.append((_time(table, row), order, table, row))
        self._events = _dated(self._events)
        self._marks = sorted(
            {t for t, _, table, row in self._events if table == "snapshots" and row["load_id"] > 0}
        )
        self._starts = sorted(
            {t for t, _, table, row in self._events if table == "loads" and not _last(row)}
        )
        # What is new may lie before what was fed: from the beginning once more.
        self._fold, self._fed = Fold(), 0


def _of_mappings(runs: Iterable[Row], ways: Iterable[Row]) -> list[Row]:
    """The runs of files that were mapped: what is loaded by reads, the ways tell alone.

    There may be millions of the others.
    """
    faulted = {(row["load_id"], row["dev"], row["ino"]) for row in ways if row["way"] == "fault"}
    return [
        row
        for row in runs
        if row["kind"] != "readahead" and (row["load_id"], row["dev"], row["ino"]) in faulted
    ]


def _last(row: Row) -> bool:
    return bool(row["end_ns"] or row["failed"])


def _time(table: str, row: Row) -> int:
    """When a row was known, ns; 0 if it does not say."""
    if table in ("snapshots", "counters", "page_cache", "buffers"):
        return int(row["t_ns"])
    if table in ("loads", "threads", "intervals"):
        return int(row["end_ns"])
    if table == "requests":
        return int(row["complete_ns"] or row["issue_ns"] or row["queue_ns"])
    if table == "runs":
        return int(row["until_ns"])
    found: Any = row.get("t_ns", 0)
    return int(found)


def _dated(events: list[tuple[int, int, str, Row]]) -> list[tuple[int, int, str, Row]]:
    """In the order of time; a load's first row is dated to its first mark.

    What the recorder saw outside of loads is left out: it may be hours before the first.
    """
    begun: dict[int, int] = {}
    for t, _, table, row in events:
        if table == "snapshots" and row["load_id"] > 0:
            begun[row["load_id"]] = min(t, begun.get(row["load_id"], t))
    ends = {row["load_id"]: t for t, _, table, row in events if table == "loads" and t}
    result = []
    for t, order, table, row in events:
        load_id = row.get("load_id", 0)
        if table == "loads" and not t:
            t = begun.get(load_id, 0)
        if table == "file_reads":
            t = ends.get(load_id, 0)  # what it says is of the whole load
        if load_id > 0 and t > 0:
            result.append((t, order, table, row))
    result.sort(key=lambda event: event[:2])
    return result
