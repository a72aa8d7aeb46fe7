"""The messages of a Perfetto trace that we write, in protobuf's wire format.

Field numbers are those of perfetto/trace/perfetto_trace.proto; a test reads what is
written here with the official classes of the PyPI package ``perfetto``, which is not
needed to write.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

#: {message: {field: (number, kind)}}; kind is varint, fixed64, double, bytes or a message.
MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "TracePacket": {
        "clock_snapshot": (6, "ClockSnapshot"),
        "timestamp": (8, "varint"),
        "trusted_packet_sequence_id": (10, "varint"),
        "track_event": (11, "TrackEvent"),
        "sequence_flags": (13, "varint"),
        "timestamp_clock_id": (58, "varint"),
        "track_descriptor": (60, "TrackDescriptor"),
    },
    "ClockSnapshot": {"clocks": (1, "Clock"), "primary_trace_clock": (2, "varint")},
    "Clock": {"clock_id": (1, "varint"), "timestamp": (2, "varint")},
    "TrackDescriptor": {
        "uuid": (1, "varint"),
        "name": (2, "bytes"),
        "process": (3, "ProcessDescriptor"),
        "thread": (4, "ThreadDescriptor"),
        "parent_uuid": (5, "varint"),
        "counter": (8, "CounterDescriptor"),
        "child_ordering": (11, "varint"),
        "sibling_order_rank": (12, "varint"),
    },
    "ProcessDescriptor": {"pid": (1, "varint"), "process_name": (6, "bytes")},
    "ThreadDescriptor": {
        "pid": (1, "varint"),
        "tid": (2, "varint"),
        "thread_name": (5, "bytes"),
    },
    "CounterDescriptor": {"unit": (3, "varint"), "unit_name": (6, "bytes")},
    "TrackEvent": {
        "debug_annotations": (4, "DebugAnnotation"),
        "type": (9, "varint"),
        "track_uuid": (11, "varint"),
        "categories": (22, "bytes"),
        "name": (23, "bytes"),
        "counter_value": (30, "varint"),
        "flow_ids": (47, "fixed64"),
    },
    "DebugAnnotation": {
        "bool_value": (2, "varint"),
        "int_value": (4, "varint"),
        "double_value": (5, "double"),
        "string_value": (6, "bytes"),
        "name": (10, "bytes"),
    },
}

_WIRE = {"varint": 0, "fixed64": 1, "double": 1}

Value = int | float | str | bool | Mapping[str, "Value"] | Sequence["Value"]


def varint(number: int) -> bytes:
    """``number`` as a varint; a negative one in two's complement of 64 bits."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def message(name: str, fields: Mapping[str, Value]) -> bytes:
    """The message ``name``; a list is a repeated field.  KeyError for an unknown field."""
    known = MESSAGES[name]
    out = bytearray()
    for field, value in fields.items():
        number, kind = known[field]
        many = isinstance(value, Sequence) and not isinstance(value, str)
        for one in value if many else (value,):  # type: ignore[union-attr]
            out += _field(number, kind, one)
    return bytes(out)


def packet(fields: Mapping[str, Value]) -> bytes:
    """One TracePacket, as a trace holds it; a trace is these and nothing else."""
    body = message("TracePacket", fields)
    return b"\x0a" + varint(len(body)) + body


def _field(number: int, kind: str, value: Value) -> bytes:
    head = varint(number << 3 | _WIRE.get(kind, 2))
    if kind == "varint":
        return head + varint(int(value))  # type: ignore[arg-type]
    if kind == "fixed64":
        return head + int(value).to_bytes(8, "little")  # type: ignore[arg-type]
    if kind == "double":
        return head + struct.pack("<d", value)
    body = str(value).encode() if kind == "bytes" else message(kind, value)  # type: ignore[arg-type]
    return head + varint(len(body)) + body
