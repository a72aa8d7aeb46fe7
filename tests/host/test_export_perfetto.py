"""What we write of Perfetto's format, read with Perfetto's own classes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import everything
import pytest
import synthetic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as official

import dmatrace
from dmatrace.export import Options, perfetto
from dmatrace.export.tracks import Slice, Trace
from dmatrace.export.wire import MESSAGES, packet, varint

# A busy machine is no bug.
_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
_KINDS = {
    "varint": {"int32", "int64", "uint32", "uint64", "bool", "enum"},
    "fixed64": {"fixed64"},
    "double": {"double"},
    "bytes": {"string", "bytes"},
}
_NAMES = {
    getattr(official.TracePacket.DESCRIPTOR.fields[0], name): name.removeprefix("TYPE_").lower()
    for name in dir(official.TracePacket.DESCRIPTOR.fields[0])
    if name.startswith("TYPE_")
}


def _descriptor(name: str) -> Any:
    nested = {"Clock": official.ClockSnapshot.Clock}
    return (nested.get(name) or getattr(official, name)).DESCRIPTOR


@pytest.mark.parametrize("name", MESSAGES)
def test_numbers_and_kinds_are_the_official_ones(name: str) -> None:
    theirs = _descriptor(name).fields_by_name
    for field, (number, kind) in MESSAGES[name].items():
        assert theirs[field].number == number, field
        if kind in MESSAGES:
            assert theirs[field].message_type.full_name == _descriptor(kind).full_name
        else:
            assert _NAMES[theirs[field].type] in _KINDS[kind], field


@_PATIENT
@given(st.integers(-(1 << 63), (1 << 64) - 1))
def test_varints_are_read_back(number: int) -> None:
    event = official.TrackEvent()
    event.ParseFromString(b"\xf0\x01" + varint(number))  # counter_value is field 30
    assert event.counter_value == (number if number < 1 << 63 else number - (1 << 64))


@_PATIENT
@given(st.text(), st.floats(allow_nan=False), st.lists(st.integers(0, (1 << 64) - 1), max_size=4))
def test_packets_are_read_back(name: str, value: float, flows: list[int]) -> None:
    note: dict[str, Any] = {"name": "x", "double_value": value}
    event: dict[str, Any] = {"name": "n" + name.encode("utf-8", "replace").decode(), "type": 1}
    found = official.Trace()
    found.ParseFromString(
        packet({"timestamp": 5, "track_event": {**event, "debug_annotations": [note],
                                                "flow_ids": flows}})
    )  # fmt: skip
    assert found.packet[0].timestamp == 5
    assert found.packet[0].track_event.name == event["name"]
    assert found.packet[0].track_event.debug_annotations[0].double_value == value
    assert list(found.packet[0].track_event.flow_ids) == flows


def _events(data: bytes) -> list[tuple[int, int, int, str]]:
    """(track, type, time, name) of a trace, in its order."""
    trace = official.Trace()
    trace.ParseFromString(data)
    return [
        (p.track_event.track_uuid, p.track_event.type, p.timestamp, p.track_event.name)
        for p in trace.packet
        if p.HasField("track_event")
    ]


_PIECES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=25)


@_PATIENT
@given(_PIECES, st.booleans())
def test_slices_on_a_track_nest_and_none_is_lost(
    pieces: list[tuple[int, int]], overlapping: bool
) -> None:
    out = io.BytesIO()
    trace = Trace(out, 0)
    slices = [Slice(str(n), a, a + ns, "c") for n, (a, ns) in enumerate(pieces)]
    left: list[Slice] = []
    if overlapping:
        trace.overlapping("lane", 0, sorted(slices, key=lambda one: one.start))
    else:
        left = trace.nested(trace.track("t"), slices)
    found: dict[str, tuple[int, int]] = {}
    for track in {event[0] for event in _events(out.getvalue())}:
        stack: list[tuple[str, int]] = []
        last = 0
        for event_track, kind, at, name in _events(out.getvalue()):
            if event_track != track:
                continue
            assert at >= last  # a track's events are in the order of time
            last = at
            if kind == 1:
                stack.append((name, at))
            else:
                opened, start = stack.pop()
                found[opened] = (start, at)
        assert not stack
    expected = {one.name: (one.start, one.end) for one in slices if one not in left}
    assert found == expected
    if not overlapping:  # what is left really crosses one that was drawn
        for one in left:
            assert any(a < one.end and one.start < b for a, b in found.values())


def test_flows_are_capped_and_each_is_of_one_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perfetto, "FLOWS", 3)
    out = io.BytesIO()
    frames = dmatrace.open(synthetic.write(tmp_path / "a.dmt"))
    perfetto.write(frames, out, Options())
    trace = official.Trace()
    trace.ParseFromString(out.getvalue())
    events = [p.track_event for p in trace.packet if p.HasField("track_event")]
    loads = [set(e.flow_ids) for e in events if "load" in e.categories]
    requests = [list(e.flow_ids) for e in events if "request" in e.categories]
    assert [len(found) for found in loads] == [3, 3]
    assert sorted(map(len, requests)) == [0, 0, 1, 1, 1, 1, 1, 1]
    assert loads[0] | loads[1] == {flow for flows in requests for flow in flows}
    assert not loads[0] & loads[1]


def test_a_request_that_never_ended_is_a_moment(tmp_path: Path) -> None:
    with synthetic.Writer.create(tmp_path / "n.dmt", synthetic.META) as writer:
        request: dict[str, Any] = {
            "load_id": 1, "tid": 1, "tgid": 1, "dev": 1, "sector": 8, "bytes": 4096,
            "op": "read", "queue_ns": 1_100_000, "issue_ns": 1_200_000, "complete_ns": 0,
        }  # fmt: skip
        writer.append("requests", [request])
    out = io.BytesIO()
    perfetto.write(dmatrace.open(tmp_path / "n.dmt"), out, Options())
    moments = [at for _, _, at, _ in _events(out.getvalue())]
    assert moments == [1_100_000, 1_100_000]


def _rich(tmp_path: Path) -> list[Any]:
    """The packets of a recording with rows in every table."""
    out = io.BytesIO()
    perfetto.write(dmatrace.open(everything.write(tmp_path / "e.dmt")), out, Options())
    trace = official.Trace()
    trace.ParseFromString(out.getvalue())
    return list(trace.packet)


def test_counters_go_over_time_and_waits_and_processes_have_tracks(tmp_path: Path) -> None:
    packets = _rich(tmp_path)
    described = [p.track_descriptor for p in packets if p.HasField("track_descriptor")]
    tracks = {track.uuid: track for track in described}
    values: dict[str, list[tuple[int, int]]] = {}
    slices: dict[str, list[tuple[str, int]]] = {}
    for p in packets:
        event = p.track_event
        name = tracks[event.track_uuid].name if event.track_uuid in tracks else ""
        if event.type == event.TYPE_COUNTER:
            values.setdefault(name, []).append((p.timestamp, event.counter_value))
        elif event.type == event.TYPE_SLICE_BEGIN:
            slices.setdefault(name, []).append((event.name, p.timestamp))
    size = synthetic.SIZE
    assert values["pinned"][-4:] == [
        (2_000_000, 0), (2_200_000, size // 2), (2_400_000, size), (2_600_000, 0),
    ]  # fmt: skip
    cached = values["page cache of all files of the load"][:4]
    assert [at for at, _ in cached] == [1_000_000, 1_200_000, 1_400_000, 1_600_000]
    assert [value for _, value in cached][2:] == [size * 2 // 3, size]
    # The other file's 8 KiB are not the loaded file's.
    own = dict(values["page cache of the file"])
    assert (own[1_600_000], own[2_000_000], own[2_600_000]) == (size, 0, 0)
    assert max(value for _, value in values["reads at the device, most at once"]) == 2
    assert values["some task stalled for I/O"][:2] == [(1_000_000, 0), (1_200_000, 20_000)]
    assert slices["off CPU"][:2] == [("blocked", 1_300_000), ("runnable", 1_600_000)]
    (observed,) = (one for one in tracks.values() if one.name == "observed")
    assert tracks[observed.parent_uuid].process.pid == everything.PID
    assert slices["observed"][0][0] == f"{everything.COMM} {everything.PID}"
