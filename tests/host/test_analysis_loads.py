"""Files loaded by processes: classifier, file -> buffer flow and findings, from made-up facts."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import synthetic

from dmatrace import formats
from dmatrace.analysis import classify
from dmatrace.analysis.bufferflow import buffer_flows
from dmatrace.analysis.classify import METHODS, Part, Taker
from dmatrace.analysis.document import document
from dmatrace.analysis.fileloads import Facts, file_loads
from dmatrace.export import htmlloads, markup
from dmatrace.report import text
from dmatrace.report.fileloads import flows
from dmatrace.report.layout import Style

MIB = 1 << 20
MODEL = (0xFE00001, 50)
NS = 1_000_000


def _part(
    way: str = "buffered", call: str = "pread64", target: str = "anonymous", **more: Any
) -> Part:
    return Part(way, call, target, **({"bytes": 4 * MIB, "calls": 4} | more))


@pytest.mark.parametrize(
    ("part", "named"),
    [
        (_part(), "buffered into anonymous memory"),
        (_part(call="preadv2", dontcache=True), "dontcache into anonymous memory"),
        (_part("direct", "read", o_direct=True), "direct into anonymous memory"),
        (_part(target="shmem"), "buffered into memfd"),
        (_part(target="shmem", taker=Taker(behind=(7,))), "buffered into udmabuf"),
        (_part(target="dmabuf", taker=Taker("udmabuf")), "buffered into udmabuf"),
        (_part(target="dmabuf", taker=Taker("system", "system")), "buffered into dma-heap buffer"),
        (_part(target="dmabuf", taker=Taker("i915")), "buffered into dma-buf of i915"),
        (_part(target="dmabuf"), "buffered into dma-buf"),
        (_part(target="device"), "buffered into device mapping"),
        (_part(target="unknown"), "buffered into unknown memory"),
        (_part("spliced", "sendfile", "shmem"), "sendfile into memfd"),
        (_part("direct", "sendfile", "shmem", o_direct=True), "sendfile into memfd"),
        (_part("spliced", "splice", "pipe"), "splice into pipe"),
        (_part("spliced", "copy_file_range", "file"), "copy_file_range into file"),
        (_part(call="io_uring_enter"), "io_uring into anonymous memory"),
        (_part(call="worker", fixed=True), "io_uring+fixed into anonymous memory"),
        (_part("direct", "io_uring_enter", "shmem"), "io_uring+direct into memfd"),
        (_part("direct", "worker", fixed=True), "io_uring+direct+fixed into anonymous memory"),
        (_part(call="worker", dontcache=True), "io_uring+dontcache into anonymous memory"),
        (_part("direct", "io_submit"), "aio+direct into anonymous memory"),
        (_part(call="io_submit"), "aio into anonymous memory"),
        (_part(call="ioctl", target="kernel"), "ioctl into the kernel's pages"),
        (_part("fault", "", "mapping"), "mmap"),
        (_part("fault", "write", "mapping"), "mmap"),
        (_part("fault", "mmap", "mapping"), "mmap+populate"),
        (_part("fault", "madvise", "mapping"), "mmap+populate"),
        (_part("fault", "mmap", "mapping", advised=frozenset({"MAP_LOCKED"})), "mmap+lock"),
        (_part("fault", "mlock", "mapping"), "mmap+lock"),
        (_part("fault", "", "mapping", advised=frozenset({"WILLNEED"})), "mmap+willneed"),
        (_part(call=""), "unknown into anonymous memory"),
        (_part(call="system call 999"), "unknown into anonymous memory"),
        (_part("spliced", "", "pipe"), "unknown into pipe"),
    ],
)  # fmt: skip
def test_each_way_has_one_name(part: Part, named: str) -> None:
    assert classify.name(part) == named
    assert classify.method(part) in METHODS
    assert classify.classify([part]).name == named
    assert list(classify.evidence(part))


def test_a_mixed_load_is_called_mixed_and_a_tail_is_not() -> None:
    """Below a hundredth of the bytes another way is a header or an unaligned tail."""
    large = _part("direct", "preadv", bytes=100 * MIB)
    assert classify.classify([large, _part(bytes=MIB)]).name == "direct into anonymous memory"
    mixed = classify.classify([large, _part(bytes=50 * MIB)])
    assert (mixed.name, mixed.method, mixed.target) == ("mixed", "mixed", "anonymous memory")
    assert list(mixed.shares.values()) == [100 * MIB, 50 * MIB]
    two = classify.classify([large, _part("direct", "preadv", "shmem", bytes=50 * MIB)])
    assert (two.name, two.method, two.target) == ("mixed", "direct", "mixed")
    assert classify.classify([]).name == "unknown"
    # Ways that differ in nothing that a verdict names are one.
    same = classify.classify([large, _part("direct", "read", bytes=90 * MIB)])
    assert same.name == "direct into anonymous memory"


def test_any_facts_have_a_verdict() -> None:
    ways = ("buffered", "direct", "spliced", "fault", "written", "none")
    calls = ("read", "worker", "sendfile", "", "mmap", "ioctl", "odd")
    targets = ("unknown", "anonymous", "shmem", "dmabuf", "device", "pipe", "mapping", "new")
    for way, call, target, flag in itertools.product(ways, calls, targets, (False, True)):
        part = _part(way, call, target, fixed=flag, dontcache=flag, o_direct=flag)
        assert classify.method(part) in METHODS
        assert classify.classify([part]).name == classify.name(part)


def test_block_sizes() -> None:
    sizes = (0,) * 8 + (63, 1) + (0,) * 6  # 63 below 1 MiB, one of it
    assert classify.usual_size(_part(sizes=sizes)) == (512 << 10, MIB)
    assert classify.block_size(_part(sizes=sizes, largest=MIB, bytes=33 * MIB, calls=64)) < MIB
    equal = (0,) * 9 + (64,) + (0,) * 6
    assert classify.block_size(_part(sizes=equal, largest=MIB, bytes=64 * MIB, calls=64)) == MIB
    assert classify.block_size(_part()) == 0


def _way(**more: Any) -> dict[str, Any]:
    return {
        "t_ns": 900, "load_id": 1, "tgid": 9, "dev": MODEL[0], "ino": MODEL[1], "size": 8 * MIB,
        "path": "/data/model.gguf", "format": "GGUF", "way": "buffered", "call": "pread64",
        "target": "anonymous", "to_dev": 0, "to_ino": 0, "o_direct": False, "dontcache": False,
        "fixed": False, "worker": False, "late": 0, "calls": 64, "bytes": 8 * MIB,
        "first_ns": 100 * NS, "last_ns": 300 * NS, "begun": 64, "depth": 64, "deepest": 1,
        "largest": 128 << 10, "sizes": "[0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0]",
    } | more  # fmt: skip


def _call(what: str, **more: Any) -> dict[str, Any]:
    return {
        "t_ns": 50 * NS, "load_id": 1, "tid": 9, "tgid": 9, "what": what, "target": "file",
        "dev": MODEL[0], "ino": MODEL[1], "size": 8 * MIB, "address": 0, "length": 0, "flags": 0,
        "prot": 0, "fd": 3, "exporter": "", "other": 0, "other_dev": 0, "path": "",
    } | more  # fmt: skip


def _run(kind: str, start: int, end: int) -> dict[str, Any]:
    return {
        "load_id": 1, "tid": 9, "tgid": 9, "kind": kind, "dev": MODEL[0], "ino": MODEL[1],
        "start": start, "end": end, "since_ns": 0, "until_ns": 1,
    }  # fmt: skip


def test_a_load_has_progress_and_rate() -> None:
    older = _way(t_ns=500, bytes=MIB, last_ns=150 * NS)
    small = _way(ino=51, bytes=MIB - 1)
    (load,) = file_loads(
        [older, _way(), small], Facts([], []), [], {MODEL: 4096}, {1: {"comm": "a"}}
    )
    assert (load["bytes"], load["size"], load["progress"]) == (8 * MIB, 8 * MIB, 1.0)
    assert (load["start_ns"], load["end_ns"]) == (100 * NS, 300 * NS)
    assert load["bytes_per_s"] == 8 * MIB * 5
    assert (load["comm"], load["cached"], load["dev"]) == ("a", 4096, "254:1")
    (part,) = load["parts"]
    assert (part["block"], part["depth_mean"], part["usual"]) == (
        128 << 10, 1.0, [128 << 10, 256 << 10],
    )  # fmt: skip
    assert load["verdict"] == "buffered into anonymous memory"


def test_faults_are_pages_that_runs_tell_and_code_is_no_load() -> None:
    """Bytes are the union of what was mapped, not faults times what each could map."""
    fault = _way(way="fault", call="", target="mapping", bytes=30 * MIB, begun=0, depth=0)
    runs = [
        _run("mapped", 0, 3 * MIB),
        _run("mapped", MIB, 4 * MIB),
        _run("read", 5 * MIB, 6 * MIB),
    ]
    runs.append(_run("readahead", 0, 8 * MIB))
    mapping = _call("mmap", address=1 << 40, length=8 * MIB, flags=2, prot=1)
    (load,) = file_loads([fault], Facts([mapping], []), runs, {}, {})
    assert (load["bytes"], load["verdict"], load["target"]) == (5 * MIB, "mmap", "")
    assert load["parts"][0]["depth_mean"] is None
    # A file that is read as well: only what is surely the faults'.
    (load,) = file_loads([fault, _way(bytes=4 * MIB)], Facts([mapping], []), runs, {}, {})
    assert {part["name"]: part["bytes"] for part in load["parts"]} == {
        "mmap": 4 * MIB, "buffered into anonymous memory": 4 * MIB,
    }  # fmt: skip
    assert load["verdict"] == "mixed"
    for calls in ([], [mapping, {**mapping, "prot": 5}]):
        assert file_loads([fault], Facts(calls, []), runs, {}, {}) == []


def test_a_read_that_was_under_way_counts_whole_and_has_no_rate() -> None:
    late = _way(late=1, calls=1, bytes=6 * MIB)
    rest = _way(calls=16, bytes=2 * MIB, first_ns=300 * NS, last_ns=301 * NS)
    (load,) = file_loads([late], Facts([], []), [], {}, {})
    assert (load["bytes"], load["bytes_per_s"]) == (6 * MIB, None)
    assert "under way when it was first followed" in str(load["parts"][0]["evidence"])
    (load,) = file_loads([late, rest], Facts([], []), [], {}, {})
    assert (load["bytes"], load["verdict"]) == (8 * MIB, "buffered into anonymous memory")
    assert load["bytes_per_s"] == 2 * MIB * 1_000_000_000 // NS


def test_advice_counts_for_its_own_mapping_and_before_it_is_used() -> None:
    fault = _way(way="fault", call="", target="mapping", bytes=8 * MIB)
    mapping = _call("mmap", address=1 << 40, length=8 * MIB, flags=2, prot=1)
    runs = [_run("mapped", 0, 8 * MIB)]

    def verdict(**advice: Any) -> str:
        said = _call("madvise", target="unknown", ino=0, dev=0, flags=3, **advice)
        (load,) = file_loads([fault], Facts([mapping, said], []), runs, {}, {})
        return str(load["verdict"])

    here = {"address": (1 << 40) + MIB, "length": MIB}
    assert verdict(**here) == "mmap+willneed"
    assert verdict(**here, t_ns=200 * NS) == "mmap"
    assert verdict(address=1 << 41, length=MIB) == "mmap"
    assert verdict(**here, tgid=10) == "mmap"


def _made(ino: int, memfd: int = 61, **more: Any) -> list[dict[str, Any]]:
    """A udmabuf over a memfd."""
    made = {"target": "dmabuf", "dev": 7, "ino": ino, "size": 8 * MIB, "exporter": "udmabuf"}
    return [_call("udmabuf", **made, other=memfd, other_dev=2, t_ns=80 * NS, **more)]


def _export(ino: int, exporter: str, heap: str = "", at: int = 70) -> dict[str, Any]:
    return {
        "t_ns": at * NS, "load_id": 1, "event": "export", "ino": ino, "size": 8 * MIB,
        "exporter": exporter, "tid": 9, "tgid": 9, "heap": heap,
    }  # fmt: skip


def _flows(
    ways: list[dict[str, Any]], calls: list[dict[str, Any]], buffers: list[dict[str, Any]],
    intervals: tuple[dict[str, Any], ...] = (),
) -> list[dict[str, Any]]:  # fmt: skip
    facts = Facts(calls, buffers, ways)
    return buffer_flows(ways, facts, buffers, intervals, file_loads(ways, facts, [], {}, {}))


def test_a_heap_buffer_that_is_read_into() -> None:
    into = {"target": "dmabuf", "to_dev": 7, "to_ino": 60}
    opened, closed = _call("open"), _call("close", t_ns=400 * NS)
    mapped = _call("mmap", target="dmabuf", dev=7, ino=60, t_ns=90 * NS)
    release = _export(60, "system", at=500) | {"event": "release"}
    alloc = {"load_id": 1, "tid": 9, "phase": "heap-alloc", "start_ns": 60 * NS, "end_ns": 75 * NS}
    elsewhere = [{**alloc, "tid": 8}, {**alloc, "phase": "shmem"}, {**alloc, "end_ns": 65 * NS}]
    (flow,) = _flows(
        [_way(**into)], [opened, closed, mapped], [_export(60, "system", "system"), release],
        (alloc, *elsewhere),
    )  # fmt: skip
    assert (flow["ino"], flow["heap"], flow["filled"]) == (60, "system", 8 * MIB)
    (fill,) = flow["fills"]
    assert (fill["path"], fill["method"], fill["through"]) == ("/data/model.gguf", "buffered", "")
    steps = [(step["step"], step["start_ns"] // NS, step["end_ns"] // NS) for step in flow["steps"]]
    assert steps == [
        ("open", 50, 50), ("alloc", 60, 75), ("export", 70, 70), ("map", 90, 90),
        ("read", 100, 300), ("close", 400, 400), ("release", 500, 500),
    ]  # fmt: skip


def test_a_device_is_named_where_it_attaches_and_detaches() -> None:
    about = {"target": "dmabuf", "dev": 7, "ino": 60, "exporter": "system", "fd": -1}
    npu = about | {"path": "0000:00:1f.7"}
    calls = [
        _call("attach", **npu, t_ns=310 * NS), _call("detach", **npu, t_ns=390 * NS),
        _call("attach", **about, t_ns=320 * NS), _call("attach", **npu, load_id=2),
    ]  # fmt: skip
    into = {"target": "dmabuf", "to_dev": 7, "to_ino": 60}
    (flow,) = _flows([_way(**into)], calls, [_export(60, "system", "system")])
    said = [(step["step"], step["start_ns"] // NS, step["what"]) for step in flow["steps"]]
    assert said[-3:] == [
        ("attach", 310, "0000:00:1f.7"), ("attach", 320, "a device"),
        ("detach", 390, "0000:00:1f.7"),
    ]  # fmt: skip
    assert flow["filled"] == 8 * MIB
    observed = {"loads": [{"load_id": 1, "strategy": "observed"}], "buffer_flows": [flow]}
    shown = "\n".join(flows(observed, Style()))
    assert shown.count("0000:00:1f.7") == 2


def test_what_a_process_had_before_it_was_followed() -> None:
    """A descriptor and a mapping from /proc: it held the file; when it opened it is not known."""
    into = {"target": "dmabuf", "to_dev": 7, "to_ino": 60}
    had = {"target": "dmabuf", "dev": 7, "ino": 60, "exporter": "system"}
    calls = [_call("held"), _call("held", **had), _call("mapped", **had | {"exporter": ""})]
    (flow,) = _flows([_way(**into)], calls, [])
    assert (flow["exporter"], flow["filled"], flow["size"]) == ("system", 8 * MIB, 8 * MIB)
    assert [step["step"] for step in flow["steps"]] == ["held", "read"]
    (load,) = file_loads([_way(**into)], Facts(calls, []), [], {}, {})
    assert load["verdict"] == "buffered into dma-heap buffer"


def test_a_udmabuf_is_filled_through_its_memfd() -> None:
    """By reads into a mapping of it, by sendfile, through a pipe, and by write."""
    into = {"target": "shmem", "to_dev": 2, "to_ino": 61}
    pipe = {"target": "pipe", "to_dev": 5, "to_ino": 70}
    ways = [
        _way(**into, bytes=2 * MIB),
        _way(**into, way="spliced", call="sendfile", bytes=3 * MIB),
        _way(**pipe, way="spliced", call="splice", bytes=4 * MIB),
        _way(**into, way="written", call="splice", dev=5, ino=70, bytes=4 * MIB),
        _way(**into, way="written", call="write", dev=0, ino=0, bytes=5 * MIB),
        _way(**into | {"to_ino": 99}, bytes=2 * MIB),
    ]
    (flow,) = _flows(ways, _made(60), [_export(60, "udmabuf")])
    assert flow["memfd"] == 61
    assert {(f["method"], f["through"], f["bytes"]) for f in flow["fills"]} == {
        ("buffered", "memfd", 2 * MIB), ("sendfile", "memfd", 3 * MIB),
        ("splice", "memfd", 4 * MIB), ("write", "memfd", 5 * MIB),
    }  # fmt: skip
    facts = Facts(_made(60), [], ways)
    (load,) = file_loads(ways, facts, [], {}, {})
    assert load["verdict"] == "mixed"
    assert {part["name"] for part in load["parts"]} == {
        "buffered into udmabuf", "sendfile into udmabuf", "splice into udmabuf",
        "buffered into memfd",
    }  # fmt: skip


def test_a_pipe_into_two_files_is_a_pipe() -> None:
    pipe = {"target": "pipe", "to_dev": 5, "to_ino": 70}
    out = {"way": "written", "call": "splice", "dev": 5, "ino": 70, "target": "shmem", "to_dev": 2}
    ways = [_way(**pipe, way="spliced", call="splice"), *(_way(**out, to_ino=n) for n in (61, 62))]
    (load,) = file_loads(ways, Facts([], [], ways), [], {}, {})
    assert load["verdict"] == "splice into pipe"


def test_two_udmabufs_of_one_memfd_are_said_to_share_it() -> None:
    into = {"target": "shmem", "to_dev": 2, "to_ino": 61}
    flows = _flows([_way(**into)], [*_made(60), *_made(63)], [])
    assert [(flow["ino"], flow["shared"], flow["filled"]) for flow in flows] == [
        (60, 2, 8 * MIB), (63, 2, 8 * MIB),
    ]  # fmt: skip


def _recorded(**tables: list[dict[str, Any]]) -> dict[str, Any]:
    """The document of one process of 1 s: 0.6 s copying, 0.3 s in faults, 0.1 s user."""
    second = 1_000_000_000
    key = (1, 9, 10, -1, "poll"), (1, 9, 10 + second, -1, "exit")
    cells = {"copy": (6, 0, 0, 1), "fault": (3, 0, 0, 1), "user": (1, 0, 0, 1)}
    spent = {p: (c[0] * second // 10, 0, 0, 1) for p, c in cells.items()}
    rows = synthetic.snapshot(key[0], {}, tgid=9) + synthetic.snapshot(key[1], spent, tgid=9)
    load = synthetic.load(
        1, "observed", file="", dev=0, ino=0, pid=9, comm="run", command="run -m model",
        bytes=8 * MIB, ended="exit code 0",
    )  # fmt: skip
    return document(synthetic.InMemory({"snapshots": rows, "loads": [load], **tables}))


def test_findings_rest_on_figures_and_are_ranked_by_time() -> None:
    pages = {
        "t_ns": 5, "load_id": 1, "dev": MODEL[0], "ino": MODEL[1], "added": 8 * MIB, "removed": 0,
        "removed_self": 0, "current": 8 * MIB, "peak": 8 * MIB, "based": True, "kind": "file",
    }  # fmt: skip
    found = _recorded(ways=[_way()], page_cache=[pages])
    (load,) = found["loads"]
    kinds = [finding["kind"] for finding in load["findings"]]
    assert kinds == ["phase copy", "phase fault", "small reads, one at a time", "in memory twice"]
    first = load["findings"][0]
    assert first["text"].startswith("60% of the threads' working time (600 ms of 1.00 s) is copy")
    assert "--file /data/model.gguf" in first["next"]
    assert (first["rank"], first["ns"], first["estimate"]) == (1, 600_000_000, False)
    said = text.render(found)
    assert "1. 60% of the threads' working time" in said
    assert "128 KiB at depth 1.0" in said
    assert "/data/model.gguf [GGUF] by run 9" in said
    assert all(len(line) < 80 for line in said.splitlines())


def test_the_page_has_the_same_loads_flows_and_findings() -> None:
    """Exact figures and all words of the document are in the HTML export's tables."""
    flow = [_call("mmap", target="dmabuf", dev=7, ino=60)]
    found = _recorded(ways=[_way()], calls=flow, buffers=[_export(60, "system", "system")])
    page = "".join(htmlloads.sections(found))
    (load,) = found["file_loads"]
    (flow_found,) = found["buffer_flows"]
    times = [load["end_ns"] - load["start_ns"], *(
        step["end_ns"] - step["start_ns"] for step in flow_found["steps"])]  # fmt: skip
    for value in (load["bytes"], load["size"], load["bytes_per_s"], flow_found["size"], *times):
        assert f'<data value="{value}">' in page
    words = [load["path"], load["format"], load["verdict"], "no read went into it"]
    words += [said for part in load["parts"] for said in part["evidence"]]
    words += [one[key] for one in found["loads"][0]["findings"] for key in ("text", "next")]
    for word in words:
        assert markup.text(word) in page, word
    assert "".join(htmlloads.sections(_recorded())) == ""


def test_no_finding_without_a_load() -> None:
    assert _recorded()["loads"][0]["findings"] == []
    assert _recorded()["file_loads"] == _recorded()["buffer_flows"] == []


def test_a_fallback_a_second_reading_and_a_buffer_that_nothing_filled() -> None:
    way = _way(o_direct=True, bytes=20 * MIB, largest=MIB, sizes="[]")
    mapped = _call("mmap", target="dmabuf", dev=7, ino=60)
    found = _recorded(ways=[way], calls=[mapped], buffers=[_export(60, "system", "system")])
    kinds = {finding["kind"] for finding in found["loads"][0]["findings"]}
    assert {"O_DIRECT fell back", "read more than once", "filled unseen"} <= kinds
    assert "no read went into it" in text.render(found)


def test_formats() -> None:
    header = (100).to_bytes(8, "little") + b'{"a'
    for path, head, named in (
        ("/a", b"GGUF\3\0\0\0", "GGUF"), ("/a.gguf", b"", "GGUF (by name)"),
        ("/a.bin", header, "safetensors"), ("/a.safetensors", b"\0" * 16, "safetensors (by name)"),
        ("/a", b"\x1c\0\0\0TFL3", "TFLite"), ("/a.ONNX", b"\x08\x09", "ONNX"),
        ("/a.mnn", b"\0", "MNN (by name)"), ("/a.param", b"7767517\n", "NCNN param"),
        ("/a.ncnn.bin", b"", "NCNN (by name)"), ("/a.bin", b"", ""),
        ("/a.gguf (deleted)", b"", "GGUF (by name)"),
    ):  # fmt: skip
        assert formats.recognised(path, head) == named
