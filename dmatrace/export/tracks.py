"""Tracks of a Perfetto trace: slices that nest, slices that overlap, counters, flows.

Time stamps are ns of CLOCK_MONOTONIC.  Strings are made plain: the viewer shows them,
and so does whoever queries the trace in a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from dmatrace.export.wire import Value, packet
from dmatrace.safe import escaped

_BEGIN, _END, _COUNTER = 1, 2, 4
_CLOCK_MONOTONIC = 3  # BuiltinClock's
_SEQUENCE = 1
_CLEARED = 1  # SEQ_INCREMENTAL_STATE_CLEARED
UNITS = {"ns": 1, "count": 2, "bytes": 3}  # CounterDescriptor.Unit
_EXPLICIT = 3  # TrackDescriptor.ChildTracksOrdering


@dataclass(frozen=True)
class Slice:
    """What began and ended; ``flows`` are numbers it shares with other slices."""

    name: str
    start: int
    end: int
    category: str
    args: Mapping[str, int | float | str | bool | None] = field(default_factory=dict)
    flows: Sequence[int] = ()


class Trace:
    """The writing end of a trace."""

    def __init__(self, out: BinaryIO, start: int) -> None:
        self._out = out
        self._uuids = 0
        clock: dict[str, Value] = {"clock_id": _CLOCK_MONOTONIC, "timestamp": start}
        snapshot: dict[str, Value] = {
            "clocks": [clock],
            "primary_trace_clock": _CLOCK_MONOTONIC,
        }
        self._put(
            {
                "clock_snapshot": snapshot,
                "trusted_packet_sequence_id": _SEQUENCE,
                "sequence_flags": _CLEARED,
            }
        )

    def process(self, pid: int, name: str) -> int:
        """A process; its track."""
        found: dict[str, Value] = {"pid": pid, "process_name": escaped(name)}
        return self._describe({"process": found})

    def thread(self, pid: int, tid: int, name: str) -> int:
        """A thread of process ``pid``; its track."""
        found: dict[str, Value] = {"pid": pid, "tid": tid, "thread_name": escaped(name)}
        return self._describe({"thread": found})

    def track(self, name: str, parent: int = 0, rank: int = 0) -> int:
        """A track for slices that nest, or one that others stand below."""
        found: dict[str, Value] = {"name": escaped(name), "child_ordering": _EXPLICIT}
        return self._describe(found | {"sibling_order_rank": rank} | _below(parent))

    def counter(self, name: str, unit: str, parent: int = 0, rank: int = 0) -> int:
        """A track for values over time; ``unit`` is one of UNITS."""
        found: dict[str, Value] = {"name": escaped(name), "counter": {"unit": UNITS[unit]}}
        return self._describe(found | {"sibling_order_rank": rank} | _below(parent))

    def value(self, track: int, at: int, value: int) -> None:
        """The counter's value from ``at`` on."""
        self._event(at, {"type": _COUNTER, "track_uuid": track, "counter_value": value})

    def nested(self, track: int, slices: Iterable[Slice]) -> list[Slice]:
        """Slices of one track, those inside others below them; returns what does not nest."""
        left: list[Slice] = []
        open_: list[Slice] = []
        for each in sorted(slices, key=lambda one: (one.start, -one.end)):
            while open_ and open_[-1].end <= each.start and each is not open_[-1]:
                self._end(track, open_.pop())
            if open_ and open_[-1].end < each.end:
                left.append(each)
                continue
            self._begin(track, each)
            open_.append(each)
        while open_:
            self._end(track, open_.pop())
        return left

    def overlapping(self, name: str, parent: int, slices: Iterable[Slice], rank: int = 0) -> None:
        """Slices that may overlap, by their start: as many tracks ``name`` as run at once.

        The viewer shows tracks of one name and parent as one.  Nothing is kept: a reader
        sorts by time, and on each track these are in order.
        """
        lanes: list[tuple[int, Slice]] = []
        for each in slices:
            for number, (track, last) in enumerate(lanes):
                if last.end <= each.start and last.start < each.start:
                    lanes[number] = (track, each)
                    break
            else:
                track = self.track(name, parent, rank)
                lanes.append((track, each))
            self._begin(track, each)
            self._end(track, each)

    def _begin(self, track: int, each: Slice) -> None:
        event: dict[str, Value] = {
            "type": _BEGIN,
            "track_uuid": track,
            "name": escaped(each.name),
            "categories": each.category,
        }
        notes = [_note(name, value) for name, value in each.args.items() if value is not None]
        event["debug_annotations"] = notes
        event["flow_ids"] = list(each.flows)
        self._event(each.start, event)

    def _end(self, track: int, each: Slice) -> None:
        self._event(each.end, {"type": _END, "track_uuid": track})

    def _event(self, at: int, event: Mapping[str, Value]) -> None:
        self._put(
            {
                "timestamp": at,
                "timestamp_clock_id": _CLOCK_MONOTONIC,
                "trusted_packet_sequence_id": _SEQUENCE,
                "track_event": event,
            }
        )

    def _describe(self, found: Mapping[str, Value]) -> int:
        self._uuids += 1
        self._put(
            {
                "trusted_packet_sequence_id": _SEQUENCE,
                "track_descriptor": {"uuid": self._uuids, **found},
            }
        )
        return self._uuids

    def _put(self, fields: Mapping[str, Value]) -> None:
        self._out.write(packet(fields))


def _below(parent: int) -> dict[str, Value]:
    return {"parent_uuid": parent} if parent else {}


def _note(name: str, value: int | float | str | bool | None) -> dict[str, Value]:
    if isinstance(value, bool):
        return {"name": name, "bool_value": value}
    if isinstance(value, int):
        return {"name": name, "int_value": value}
    if isinstance(value, float):
        return {"name": name, "double_value": value}
    return {"name": name, "string_value": escaped(str(value))}
