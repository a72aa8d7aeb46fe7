"""The text report: below 80 columns whatever the names and figures, and it hides nothing."""

from __future__ import annotations

import copy
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import synthetic
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dmatrace.analysis import document
from dmatrace.analysis.block import KINDS
from dmatrace.analysis.critical import PARTS
from dmatrace.phases import PHASES
from dmatrace.recording import Recording
from dmatrace.report import text
from dmatrace.report.layout import Style

_ANSI = re.compile(r"\033\[[0-9;]*m")
BIG = st.integers(0, (1 << 63) - 1)
_MODULE = (
    "calls", "batches", "bytes", "buffer_length", "alloc_ns", "map_ns", "vmap_ns", "read_ns",
    "zero_ns", "overlap_ns", "wait_ns", "total_ns", "of_a_later_version",
)  # fmt: skip


@pytest.fixture
def found(tmp_path: Path) -> dict[str, Any]:
    return document(Recording.open(synthetic.write(tmp_path / "a.dmt")))


def _columns(line: str) -> int:
    """Terminal columns; control characters count as far too many."""
    total = 0
    for char in line:
        category = unicodedata.category(char)
        if category[0] == "C":
            return 1000
        if category not in ("Mn", "Me"):
            total += 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1
    return total


_PATHS = ("page cache -> user", "page cache -> module", "user -> page cache", "pipe -> dma-buf")
_LATENCY = st.fixed_dictionaries(dict.fromkeys(("p50", "p90", "p99", "max"), BIG))
_WORDS = st.text(st.characters(), max_size=60)


def _figures(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"requests": BIG, "read_bytes": BIG, "latency_ns": _LATENCY, "queue_ns": _LATENCY} | more
    )


def _block() -> st.SearchStrategy[dict[str, Any]]:
    depth = st.fixed_dictionaries({"mean": st.floats(0, 1e9), "max": BIG})
    line = st.fixed_dictionaries(
        {"interval_ns": BIG, "depth_mean": st.lists(st.floats(0, 1e9), max_size=61)}
    )
    device = _figures(name=_WORDS, dev=_WORDS, label=_WORDS, depth=depth)
    return _figures(
        size_hist=st.just({}),
        kinds=st.dictionaries(st.sampled_from(KINDS), _figures()),
        depth=depth, waiting=depth, timeline=line, unseen_bytes=BIG, queued_bytes=BIG,
        devices=st.lists(device, max_size=2),
    )  # fmt: skip


def _file() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"path": _WORDS, "ino": BIG, "dev": _WORDS, "verdict": st.just("mixed"), "why": _WORDS,
         "fallback_bytes": BIG, "errors": st.just({"EINVAL": 0})}
    )  # fmt: skip


@st.composite
def _load(draw: st.DrawFn, name: str) -> dict[str, Any]:
    words = st.text(st.characters(), max_size=60)
    phases = draw(st.lists(st.sampled_from(PHASES), unique=True, max_size=len(PHASES)))
    kinds = ("cpu_ns", "blocked_ns", "runnable_ns", "count")
    memory = dict.fromkeys(
        ("page_cache_added", "page_cache_removed", "page_cache_peak", "page_cache_end", "dmabuf",
         "shmem", "pinned_peak"), 0)  # fmt: skip
    return {
        "load_id": 1, "strategy": name, "round": draw(BIG), "file": draw(words),
        "bytes": draw(BIG), "cache_before": draw(st.sampled_from(["cold", "warm", ""])),
        "verified": draw(st.sampled_from([True, False, None])),
        "failed": draw(words), "refused": draw(words), "partial": draw(st.booleans()),
        **{key: draw(BIG) for key in ("create_ns", "io_ns", "close_ns", "wall_ns")},
        "threads": [{
            "tid": 1, "comm": draw(words), "wall_ns": draw(BIG), "clock": "loader",
            "sched_run_ns": None, "sched_wait_ns": None, "wake_ns": 0,
            "owner": draw(st.none() | st.integers(1, 1 << 22)),
            "phases": [{"phase": phase, **{kind: draw(BIG) for kind in kinds}}
                       for phase in phases],
        }],
        "memory": {key: draw(BIG) for key in memory}
        | {"cachestat_before": {}, "cachestat_after": {}},
        "copies": {"cpu_bytes": draw(BIG), "per_byte": draw(st.floats(0, 1e18)),
                   "paths": draw(st.dictionaries(st.sampled_from(_PATHS), BIG))},
        "block": draw(_block()),
        "critical": draw(st.none() | st.fixed_dictionaries(
            {f"{part}_ns": BIG for part in PARTS}
            | {"wall_ns": st.integers(1, 1 << 62), "unseen_ns": BIG})),
        "files": draw(st.lists(_file(), max_size=2)),
        "direct": {"verdict": "mixed", "direct_bytes": 1, "buffered_bytes": 1, "why": draw(words)},
        "overlap": {key: draw(BIG) for key in ("alloc_ns", "io_ns", "both_ns")},
        "module": draw(st.none() | st.dictionaries(st.sampled_from(_MODULE), BIG)),
        "steps": draw(st.dictionaries(st.sampled_from(_MODULE), BIG)),
        "stack": {"lost_exits": draw(BIG), "overflows": draw(BIG)},
    }  # fmt: skip


@st.composite
def _document(draw: st.DrawFn) -> dict[str, Any]:
    words = st.text(st.characters(), max_size=120)
    names = draw(st.lists(st.text(st.characters(), max_size=40), max_size=6))
    ratio = {key: draw(st.floats(0, 1e6)) for key in ("median", "min", "max")}
    return {
        "dmatrace": draw(words), "kernel": draw(words), "machine": draw(words), "detail": "exact",
        "started": draw(words), "complete": draw(st.booleans()), "torn": ["requests"],
        "lost_events": draw(BIG), "loads": [draw(_load(name)) for name in names],
        "hooks": [{"name": draw(words), "phase": draw(words), "attached": None,
                   "hides": draw(words)}],
        "skipped": [{"strategy": draw(words), "why": draw(words), "do": draw(words)}],
        "self": {"bpf_ns": draw(BIG), "bpf_runs": draw(BIG), "recorder_cpu_ns": draw(BIG),
                 "recorder_rss": draw(BIG),
                 "ab": [{"strategy": draw(words), "pairs": 7, "ratio": ratio}]},
    }  # fmt: skip


@given(_document(), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_no_line_reaches_80_columns(found: dict[str, Any], color: bool, ascii_only: bool) -> None:
    report = text.render(found, color=color, ascii_only=ascii_only)
    assert report.endswith("\n")
    assert not report.endswith("\n\n")
    if not color:
        assert "\033" not in report
    plain = _ANSI.sub("", report)
    assert ascii_only <= plain.isascii()
    # Not splitlines(): \n alone ends a line, any other line break is a control character.
    for line in plain[:-1].split("\n"):
        assert _columns(line) < 80, line
    assert text.render(found, ascii_only=ascii_only) == plain, "colour changes no character"


@given(st.text(st.characters(), max_size=60), st.integers(1, 40))
@example("e\u0301" * 20, 20)
@example("e\u0301" * 21, 20)
@example("\u6a21\u578b" * 10, 7)
def test_columns_are_as_wide_as_asked(name: str, width: int) -> None:
    for style in (Style(), Style(ascii=True)):
        for column in (style.left(name, width), style.right(name, width)):
            assert _columns(column) == width


@given(st.lists(st.integers(0, 1 << 62), min_size=3, max_size=3), BIG, st.integers(0, 40))
def test_a_bar_is_as_long_as_its_amount(parts: list[int], more: int, width: int) -> None:
    full = sum(parts) + more
    kinds = list(zip(("cpu", "blocked", "runnable"), parts, strict=True))
    bar = Style(ascii=True).bar(kinds, full, width)
    exact = sum(parts) * width / full if full else 0
    assert abs(len(bar) - exact) <= 0.51
    assert bar == "".join(sorted(bar, key="#-.".index))
    for char, part in zip("#-.", parts, strict=True):
        assert abs(bar.count(char) - (part * width / full if full else 0)) <= 1.01


def test_one_load_in_full(found: dict[str, Any]) -> None:
    found["loads"] = found["loads"][:1]
    report = text.render(found, ascii_only=True)
    assert "dmabuf-bio: 1 MiB, cold" in report
    assert "create 300 us, io 600 us, close 100 us, wall 1.00 ms" in report
    line = next(line for line in report.splitlines() if line.startswith("copy "))
    assert line.split()[:9] == ["copy", "940", "us", "94%", "540", "us", "300", "us", "100"]
    assert re.fullmatch(r"#{13,14}-{7,8}\.{2,3}", line.split()[-1])
    assert report.index("copy  ") < report.index("user  "), "the longest phase first"
    assert "bars: # cpu  - blocked  . runnable" in report
    assert re.search(r"^all +1\.00 ms 100% +600 us +300 us +100 us 1 thread$", report, re.M)


def test_two_strategies_stand_side_by_side(found: dict[str, Any]) -> None:
    report = text.render(found)
    head = next(line for line in report.splitlines() if "udmabuf-dio" in line)
    assert head.split() == ["dmabuf-bio", "udmabuf-dio"]
    gup = next(line for line in report.splitlines() if line.startswith("gup"))
    assert gup.split()[1:5] == ["-", "940", "us", "94%"]
    assert gup.index("940 us") > head.index("udmabuf-dio") - 4
    for line in ("all cpu", "all blocked", "all runnable", "wall", "create"):
        assert f"\n{line} " in report


def test_many_strategies_get_a_line_each(tmp_path: Path) -> None:
    names = ("dmabuf-bio", "udmabuf-dio", "dmabuf-insertpage-bio", "udmabuf-memfd-cfr-dio")
    found = document(Recording.open(synthetic.write(tmp_path / "a.dmt", names, rounds=3)))
    lines = text.render(found).splitlines()
    for name, phase in zip(names, ("copy", "gup", "copy", "gup"), strict=True):
        (row,) = (line for line in lines if line.startswith(name) and "%" in line)
        assert row.split() == [name, "1.00", "ms", "1000M", phase, "94%,", "user", "6%"]
    assert "Every figure is the median of 3 rounds by itself." in lines


def test_the_memory_bill_and_the_block_line(found: dict[str, Any]) -> None:
    found["loads"][0]["memory"].update(
        page_cache_added=1 << 20, page_cache_removed=2 << 20, page_cache_peak=3 << 20,
        page_cache_end=4 << 20, dmabuf=5 << 20, shmem=6 << 20, pinned_peak=7 << 20,
    )  # fmt: skip
    found["loads"][0]["block"]["latency_ns"] = {"p50": 1, "p90": 2, "p99": 3, "max": 4}
    found["loads"][1]["block"]["requests"] = 0
    lines = [line.split() for line in text.render(found).splitlines()]
    row = ["dmabuf-bio", "1M", "2M", "3M", "4M", "5M", "6M", "7M", "1.00/B"]
    head = ["memory", "cache+", "cache-", "peak", "end", "dmabuf", "shmem", "pinned", "copies"]
    assert lines[lines.index(head) + 1] == row
    assert ["dmabuf-bio", "4", "1M", "1", "ns", "2", "ns", "3", "ns", "4", "ns"] in lines
    assert ["udmabuf-dio", "0", "nothing", "was", "read", "from", "a", "disk"] in lines


def test_what_is_not_seen_is_said(found: dict[str, Any]) -> None:
    whole = " ".join(text.render(found).split())
    assert "dma_heap_buffer_alloc (heap-alloc) the heap's own share of dma_heap_ioctl" in whole
    assert "dmabuf-rwfile-dio the dmatrace_loader module is not loaded; build it" in whole
    assert "filemap_read" not in whole
    assert "Lost events: 0; function exits not seen: 0; calls nested too deep: 0." in whole
    assert "INCOMPLETE" not in whole
    assert "BPF 4.20 ms in 12345 runs, recorder 31.0 ms CPU, 90 MiB RSS" in whole
    assert whole.count("equal to the file") == 2

    found["lost_events"], found["complete"], found["torn"] = 17, False, ["requests"]
    found["loads"][0]["stack"] = {"lost_exits": 5, "overflows": 6}
    found["loads"][0]["verified"] = False
    found["loads"][1].update(partial=True, verified=None)
    found["self"]["ab"] = [
        {"strategy": "dmabuf-bio", "pairs": 7, "ratio": {"median": 1.03, "min": 1.0, "max": 1.1}}
    ]
    whole = " ".join(text.render(found).split())
    assert "Lost events: 17 (figures from events are too low)" in whole
    assert "exits not seen: 5; calls nested too deep: 6" in whole
    assert "INCOMPLETE" in whole
    assert "tables is lost: requests." in whole
    assert "DIFFER from the file in round 1" in whole
    assert "round 1 is partial" in whole
    assert "median 1.030, 1.000 to 1.100, 7 pairs" in whole


def test_a_refusal_and_a_failure_are_told(found: dict[str, Any]) -> None:
    found["loads"][0].update(refused="EFAULT: VM_PFNMAP", verified=None)
    second = copy.deepcopy(found["loads"][1])
    second.update(round=2, failed="the loader died", verified=None)
    found["loads"].append(second)
    whole = " ".join(text.render(found).split())
    assert "dmabuf-bio round 1 refused: EFAULT: VM_PFNMAP" in whole
    assert "udmabuf-dio round 2 failed: the loader died" in whole


def test_overlap_is_told_where_there_is_some(found: dict[str, Any]) -> None:
    assert text.render(found).count("both at once 90.0 us") == 2
    for load in found["loads"]:
        load["overlap"]["both_ns"] = 0
    assert "both at once" not in text.render(found)


def test_what_the_module_reported(found: dict[str, Any]) -> None:
    assert "loader module " not in text.render(found).replace("loader module is not loaded", "")
    found["loads"][0]["module"] = {
        "calls": 1, "batches": 3, "buffer_length": 4096, "alloc_ns": 188_802_693,
        "vmap_ns": 42_491_385, "read_ns": 4_180_876_702, "zero_ns": 0, "overlap_ns": 1_000_000,
        "wait_ns": 2_000_000, "total_ns": 5_000_000_000,
    }  # fmt: skip
    lines = [line.split() for line in text.render(found).splitlines()]
    head = ["loader", "module", "alloc", "map", "vmap", "read", "overlap", "wait", "batches"]
    row = lines[lines.index(head) + 1]
    assert " ".join(row) == "dmabuf-bio 189 ms - 42.5 ms 4.18 s 1.00 ms 2.00 ms 3"
    # Of several rounds, each figure's median.
    second = copy.deepcopy(found["loads"][0])
    second["module"] = {"calls": 4, "map_ns": 3_000_000, "alloc_ns": 100_000_000}
    found["loads"].append(second)
    lines = [line.split() for line in text.render(found).splitlines()]
    assert lines[lines.index(head) + 1][:3] == ["dmabuf-bio", "144", "ms"]


def test_the_steps_of_the_module_as_traced(found: dict[str, Any]) -> None:
    """Under what the module says of them; alone where it said nothing."""
    first, second = found["loads"]
    first["module"] = {"alloc_ns": 188_802_693, "read_ns": 4_180_876_702, "batches": 1}
    for load in (first, second):
        load["steps"] = {"alloc_ns": 188_000_000, "vmap_ns": 42_491_385, "read_ns": 4_170_000_000}
    lines = text.render(found).splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("loader module "))
    assert [" ".join(line.split()) for line in lines[at + 1 : at + 4]] == [
        "dmabuf-bio 189 ms - - 4.18 s - - 1",
        "traced 188 ms - 42.5 ms 4.17 s - - -",
        "udmabuf-dio 188 ms - 42.5 ms 4.17 s - - -",
    ]


def test_workers_are_told_apart(found: dict[str, Any]) -> None:
    assert "workers" not in text.render(found)
    phases = [{"phase": "dio", "cpu_ns": 0, "blocked_ns": 750_000, "runnable_ns": 0, "count": 1},
              {"phase": "module", "cpu_ns": 250_000, "blocked_ns": 0, "runnable_ns": 0,
               "count": 1}]  # fmt: skip
    for number in (1, 2):
        found["loads"][1]["threads"].append({
            "tid": number, "comm": f"kworker/u8:{number}", "wall_ns": 1_000_000, "owner": 100,
            "clock": "tracer", "sched_run_ns": None, "sched_wait_ns": None, "phases": phases,
        })  # fmt: skip
    report = " ".join(text.render(found).split())
    assert "udmabuf-dio 2 worked 2.00 ms for it (kworker): dio 75%, module 25%" in report


def test_a_hook_without_a_phase_is_named_without(found: dict[str, Any]) -> None:
    found["hooks"] = [{"name": "x", "phase": None, "attached": None, "hides": "what it counts"}]
    assert "None" not in text.render(found)
    assert "what it counts" in text.render(found)


def test_an_empty_recording_is_a_sentence(tmp_path: Path) -> None:
    found = document(Recording.open(synthetic.write(tmp_path / "a.dmt", strategies=())))
    assert "No loads in this recording." in text.render(found)


def test_names_cannot_drive_the_terminal(found: dict[str, Any]) -> None:
    found["loads"][0]["strategy"] = "\033[2Jx\r\ny\u202e"
    report = text.render(found)
    assert "?[2Jx??y?" in report
