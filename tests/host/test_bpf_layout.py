"""layout.py and dmatrace.h describe the same bytes, field by field, by the C compiler's word."""

from __future__ import annotations

import ctypes
import inspect
import re
from importlib import resources

import bpf_host
import pytest

from dmatrace.bpf import layout
from dmatrace.phases import PHASES

# Python's class -> C's struct.
_STRUCTS = {
    layout.Cell: "cell",
    layout.Frame: "frame",
    layout.Thread: "thread",
    layout.Request: "request_event",
    layout.Buffer: "buffer_event",
    layout.Interval: "interval_event",
    layout.Sample: "sample",
    layout.FileKey: "file_key",
    layout.FilePages: "file_pages",
    layout.FileIo: "file_io",
    layout.Wait: "wait_event",
    layout.Run: "run",
    layout.WayKey: "way_key",
    layout.Way: "way",
    layout.Region: "region",
    layout.Regions: "regions",
    layout.Call: "call_event",
}
_FIELDS = [(kind, name) for kind in _STRUCTS for name in (field[0] for field in kind._fields_)]
_CONSTANTS = (
    "PHASE_MAX", "HOOK_MAX", "DEPTH_MAX", "COUNTER_MAX", "PHASE_OUTER", "MODE_CPU", "MODE_BLOCKED",
    "MODE_RUNNABLE", "EV_SNAPSHOT", "EV_REQUEST", "EV_BUFFER", "EV_INTERVAL", "EV_WAIT", "EV_RUN",
    "REMOVED_MAX", "PINNED_NOW", "PINNED_PEAK", "PINNED_MOMENT", "PINNED_SINCE", "PINNED_NS",
    "EV_SAMPLE", "FRAMES_MAX", "EV_CALL", "REGIONS_MAX", "SIZES_MAX", "PATH_MAX_KEPT", "NO_CALL",
    "WAY_O_DIRECT", "WAY_DONTCACHE", "WAY_FIXED", "WAY_WORKER",
)  # fmt: skip
_SNAPS = {
    "SNAP_BEGIN": "begin", "SNAP_END": "end", "SNAP_FORK": "fork", "SNAP_EXIT": "exit",
    "SNAP_WORK_BEGIN": "work-begin", "SNAP_WORK_END": "work-end",
}  # fmt: skip
_KINDS = {f"KIND_{name.upper().replace('-', '_')}": name for name in layout.REQUEST_KINDS}
_WAYS = {
    "WAY_": layout.WAY_PATHS, "TO_": layout.TARGETS, "CALL_": layout.CALLS,
}  # fmt: skip
_BUFFERS = {"BUFFER_EXPORT": "export", "BUFFER_RELEASE": "release"}


def _header() -> str:
    text = (resources.files("dmatrace.bpf") / "dmatrace.h").read_text()
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def _counters() -> list[str]:
    body = re.search(r"enum counter \{(.*?)\}", _header(), re.DOTALL)
    assert body
    return re.findall(r"COUNT_(\w+)", body[1])


@pytest.fixture(scope="module")
def asked() -> dict[str, int]:
    """Expression -> value, asked of the compiler in one array."""
    wanted = [f"sizeof(struct {name})" for name in _STRUCTS.values()]
    wanted += [f"offsetof(struct {_STRUCTS[kind]}, {name})" for kind, name in _FIELDS]
    wanted += [f"sizeof(((struct {_STRUCTS[kind]} *)0)->{name})" for kind, name in _FIELDS]
    wanted += [f"{prefix}{n.upper()}" for prefix, names in _WAYS.items() for n in names if n]
    wanted += [*_CONSTANTS, *_SNAPS, *_BUFFERS, *_KINDS, *(f"COUNT_{name}" for name in _counters())]
    more = f"u64 asked[] = {{ {', '.join(wanted)} }};"
    library = bpf_host.compiled(more=more)
    values = (ctypes.c_uint64 * len(wanted)).in_dll(library, "asked")
    return dict(zip(wanted, values, strict=True))


def test_every_structure_is_compared() -> None:
    mine = {
        kind
        for _, kind in inspect.getmembers(layout, inspect.isclass)
        if issubclass(kind, ctypes.Structure)
    }
    assert mine == {*_STRUCTS, layout.Snapshot, layout.SampleHead}
    assert set(re.findall(r"struct (\w+) \{", _header())) == set(_STRUCTS.values())


@pytest.mark.parametrize("kind", _STRUCTS, ids=lambda kind: kind.__name__)
def test_sizes(asked: dict[str, int], kind: type[ctypes.Structure]) -> None:
    assert ctypes.sizeof(kind) == asked[f"sizeof(struct {_STRUCTS[kind]})"]


@pytest.mark.parametrize(
    ("kind", "name"), _FIELDS, ids=[f"{kind.__name__}.{name}" for kind, name in _FIELDS]
)
def test_fields(asked: dict[str, int], kind: type[ctypes.Structure], name: str) -> None:
    field = getattr(kind, name)
    assert field.offset == asked[f"offsetof(struct {_STRUCTS[kind]}, {name})"]
    assert field.size == asked[f"sizeof(((struct {_STRUCTS[kind]} *)0)->{name})"]


@pytest.mark.parametrize("kind", _STRUCTS, ids=lambda kind: kind.__name__)
def test_no_field_of_c_is_missing(kind: type[ctypes.Structure]) -> None:
    body = re.search(rf"struct {_STRUCTS[kind]} \{{(.*?)\n\}}", _header(), re.DOTALL)
    assert body
    theirs = re.findall(r"(\w+)(?:\[\w+\])?;", body[1])
    assert theirs == [field[0] for field in kind._fields_]


def test_a_snapshot_is_a_thread_without_its_stack(asked: dict[str, int]) -> None:
    assert ctypes.sizeof(layout.Snapshot) == asked["offsetof(struct thread, stack)"]


@pytest.mark.parametrize("name", _CONSTANTS)
def test_constants(asked: dict[str, int], name: str) -> None:
    assert getattr(layout, name) == asked[name]


def test_kinds(asked: dict[str, int]) -> None:
    assert {asked[c]: name for c, name in _SNAPS.items()} == layout.SNAP_KINDS
    assert {asked[c]: name for c, name in _BUFFERS.items()} == layout.BUFFER_KINDS
    assert [asked[c] for c in _KINDS] == list(range(len(layout.REQUEST_KINDS)))


def test_ways_are_in_the_same_order(asked: dict[str, int]) -> None:
    for prefix, names in _WAYS.items():
        for number, name in enumerate(names):
            assert not name or asked[f"{prefix}{name.upper()}"] == number


def test_counters_are_in_the_same_order(asked: dict[str, int]) -> None:
    names = _counters()
    assert [asked[f"COUNT_{name}"] for name in names] == list(range(len(names)))
    assert tuple(name.removesuffix("_bytes") for name in layout.COUNTERS) == tuple(
        name.lower() for name in names
    )
    assert len(names) <= layout.COUNTER_MAX


def test_tables_fit(asked: dict[str, int]) -> None:
    from dmatrace.bpf.hooks import HOOKS

    assert len(PHASES) <= asked["PHASE_MAX"]
    assert len(HOOKS) < asked["HOOK_MAX"]
