"""The JSON document is the contract's, and the laws catch what breaks them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import synthetic

from dmatrace.analysis import document, law
from dmatrace.analysis.summary import summaries
from dmatrace.recording import Recording, Writer

PREDICTED = {"dmabuf-bio": 1.0, "udmabuf-dio": 0.0}

# The contract's example, its keys only: {} stands for any value.
CONTRACT: dict[str, Any] = {
    "schema": {}, "dmatrace": {}, "kernel": {}, "target": {"kind": {}}, "lost_events": {},
    "hooks": [{"name": {}, "phase": {}, "attached": {}, "hides": {}}],
    "loads": [{
        "strategy": {}, "round": {}, "file": {}, "bytes": {}, "cache_before": {}, "verified": {},
        "create_ns": {}, "io_ns": {}, "close_ns": {}, "wall_ns": {},
        "threads": [{
            "tid": {}, "comm": {}, "wall_ns": {},
            "phases": [{
                "phase": {}, "cpu_ns": {}, "blocked_ns": {}, "runnable_ns": {}, "count": {},
            }],
        }],
        "memory": {
            "page_cache_added": {}, "page_cache_removed": {}, "page_cache_peak": {},
            "page_cache_end": {}, "dmabuf": {}, "shmem": {}, "pinned_peak": {},
            "cachestat_before": {}, "cachestat_after": {},
        },
        "copies": {"cpu_bytes": {}, "per_byte": {}},
        "block": {
            "requests": {}, "read_bytes": {},
            "latency_ns": {"p50": {}, "p90": {}, "p99": {}, "max": {}}, "size_hist": {},
        },
        "direct": {"verdict": {}, "direct_bytes": {}, "buffered_bytes": {}, "why": {}},
        "overlap": {"alloc_ns": {}, "io_ns": {}, "both_ns": {}},
    }],
    "skipped": [{"strategy": {}, "why": {}, "do": {}}],
    "self": {"bpf_ns": {}, "recorder_cpu_ns": {}, "recorder_rss": {}, "ab": []},
}  # fmt: skip

# Keys added to the contract's.  A key in neither list is a mistake.
ADDED = {
    "": {"machine", "device", "started", "detail", "sample_hz", "page_size", "complete", "torn"}
    | {"lost", "tried", "file_loads", "buffer_flows"},
    "loads": {
        "load_id",
        "failed",
        "refused",
        "partial",
        "stack",
        "steps",
        "module",
        "hidden",
        "critical",
        "files",
        "inventory",
        "pid",
        "comm",
        "command",
        "ended",
        "samples",
        "findings",
    },
    "loads.memory": {
        "mapped",
        "files",
        "processes",
        "removed_by",
        "removed_how",
        "byte_seconds",
        "byte_seconds_error",
        "readahead",
        "refaults",
        "reclaim_elsewhere",
        "dmabufs",
        "pinned",
        "psi",
        "vmstat",
        "timeline",
        "unavailable",
    },
    "loads.copies": {"paths"},
    "loads.block": {
        "queue_ns",
        "kinds",
        "devices",
        "depth",
        "waiting",
        "timeline",
        "queued_bytes",
        "unseen_bytes",
    },
    "loads.threads": {
        "clock",
        "owner",
        "sched_run_ns",
        "sched_wait_ns",
        "mark_ns",
        "wake_ns",
        "delays",
    },
    "loads.stack": {"lost_exits", "overflows"},
    "target": {"strategies"},
    "self": {"bpf_runs", "programs"},
}


@pytest.fixture
def found(tmp_path: Path) -> dict[str, Any]:
    return document(Recording.open(synthetic.write(tmp_path / "a.dmt", rounds=2)))


def _compare(here: Any, contract: Any, where: str) -> None:
    if isinstance(contract, list) and contract:
        assert here, where
        for one in here:
            _compare(one, contract[0], where)
    elif isinstance(contract, dict) and contract:
        added = set(here) - set(contract)
        assert set(contract) <= set(here), where
        assert added <= ADDED.get(where, set()), where
        for key, value in contract.items():
            _compare(here[key], value, f"{where}.{key}".lstrip("."))


def test_keys_are_the_contracts(found: dict[str, Any]) -> None:
    _compare(found, CONTRACT, "")
    assert found["schema"] == 1
    assert set(found["loads"][0]["stack"]) == ADDED["loads.stack"]


def test_copies_are_not_known_without_their_hooks(tmp_path: Path) -> None:
    """Null, and the hook is named: what was not hooked may have copied everything."""
    hooks = [
        {"name": "filemap_read", "phase": "copy", "attached": None, "hides": "buffered reads"},
        {"name": "page-cache ledger", "phase": "", "attached": None, "hides": "page cache"},
        {"name": "shmem_file_read_iter", "phase": "copy", "attached": "kprobe", "hides": None},
    ]
    found = document(Recording.open(synthetic.write(tmp_path / "a.dmt", meta={"hooks": hooks})))
    for load in found["loads"]:
        assert load["hidden"] == {"copies": ["filemap_read"], "cached": ["page-cache ledger"]}
        assert (load["copies"]["cpu_bytes"], load["copies"]["per_byte"]) == (None, None)
        assert "the page cache gained" not in load["direct"]["why"]
    broken = law.copies(found, {load["strategy"]: 1.0 for load in found["loads"]})
    assert broken
    assert all("not known without filemap_read" in line for line in broken)


def test_times_and_sizes_are_integers(found: dict[str, Any]) -> None:
    def walk(value: Any, key: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, name)
        elif isinstance(value, list):
            for inner in value:
                walk(inner, key)
        elif key.endswith(("_ns", "bytes", "_added", "_end", "requests", "count", "round", "tid")):
            assert type(value) is int, key
        else:
            assert type(value) in (int, str, bool, float, type(None)), key

    walk(found, "")
    assert type(found["loads"][0]["copies"]["per_byte"]) is float
    assert type(found["loads"][0]["verified"]) is bool
    assert json.loads(json.dumps(found)) == found


def test_what_the_module_reported(tmp_path: Path) -> None:
    """null where it had no part, and where the column is damaged."""
    told = {"calls": 1, "alloc_ns": 5, "batches": 2, "read_ns": (1 << 62) + 1}
    with Writer.create(tmp_path / "a.dmt", synthetic.META) as writer:
        for load_id, module in enumerate((json.dumps(told), "", "[]", '{"calls": 1'), start=1):
            synthetic.write_load(writer, load_id, "dmabuf-gather-dio", load_id, module=module)
    loads = document(Recording.open(tmp_path / "a.dmt"))["loads"]
    assert [load["module"] for load in loads] == [told, None, None, None]
    (summary,) = summaries(loads)
    assert summary.module == told


def test_the_document_is_deterministic(tmp_path: Path) -> None:
    paths = [synthetic.write(tmp_path / name, rounds=2) for name in ("a.dmt", "b.dmt")]
    first, second = (json.dumps(document(Recording.open(path))) for path in paths)
    assert first == second


def test_figures_of_the_synthetic_recording(found: dict[str, Any]) -> None:
    bio, dio = found["loads"][:2]
    assert [load["strategy"] for load in found["loads"]] == ["dmabuf-bio", "udmabuf-dio"] * 2
    assert [load["round"] for load in found["loads"]] == [1, 1, 2, 2]
    assert (bio["direct"]["verdict"], dio["direct"]["verdict"]) == ("buffered", "direct")
    assert bio["copies"] == {
        "cpu_bytes": synthetic.SIZE, "per_byte": 1.0,
        "paths": {"page cache -> user": synthetic.SIZE},
    }  # fmt: skip
    assert dio["copies"] == {"cpu_bytes": 0, "per_byte": 0.0, "paths": {}}
    assert dio["block"]["latency_ns"] == {"p50": 100_000, "p90": 120_000, "p99": 120_000,
                                          "max": 120_000}  # fmt: skip
    assert dio["overlap"] == {"alloc_ns": 300_000, "io_ns": 270_000, "both_ns": 90_000}
    (thread,) = dio["threads"]
    assert thread["wall_ns"] == 1_000_000
    assert [row["phase"] for row in thread["phases"]] == ["user", "gup"]


def test_an_empty_recording_has_a_document(tmp_path: Path) -> None:
    found = document(Recording.open(synthetic.write(tmp_path / "a.dmt", strategies=())))
    assert found["loads"] == []
    assert document(synthetic.InMemory({}, dict.fromkeys(synthetic.META)))["hooks"] == []


def test_the_last_row_of_a_load_holds_and_verified_may_be_unknown() -> None:
    loads = [
        synthetic.load(1, "dmabuf-dio", verified=None, end_ns=0),
        synthetic.load(1, "dmabuf-dio", verified=None, refused="EFAULT (14): VM_PFNMAP"),
        synthetic.load(2, "dmabuf-dio", end_ns=0),
        synthetic.load(3, "dmabuf-dio", end_ns=0, failed="the loader died: signal 9"),
    ]
    first, second, third = document(synthetic.InMemory({"loads": loads}))["loads"]
    assert (first["verified"], first["partial"]) == (None, False)
    assert first["direct"]["verdict"] == "buffered" or "EFAULT" in first["direct"]["why"]
    assert (second["verified"], second["partial"]) == (True, True)
    assert (third["failed"], third["partial"]) == ("the loader died: signal 9", False)


@pytest.mark.parametrize(
    ("strategy", "seen", "added", "refused", "verdict", "says"),
    [
        ("udmabuf-dio", {"dio_bytes": 1000}, 0, "", "direct", "1000 B"),
        ("udmabuf-dio", {"dio_bytes": 1000, "copy_read_bytes": 10}, 0, "", "direct", "direct"),
        ("udmabuf-dio", {"dio_bytes": 1000, "copy_read_bytes": 100}, 9, "", "mixed", "100 B"),
        ("udmabuf-dio", {"copy_read_bytes": 1000}, 9, "", "buffered", "although O_DIRECT"),
        ("udmabuf-bio", {"copy_read_bytes": 1000}, 9, "", "buffered", "1000 B"),
        ("filemap-bio", {}, 4096, "", "buffered", "4 KiB"),
        ("udmabuf-dio", {}, 0, "", "none", "no read"),
        ("dmabuf-dio", {"dio_errors": 1}, 0, "EFAULT", "none", "EFAULT"),
        ("dmabuf-dio", {"dio_errors": 3, "dio_bytes": 8}, 0, "", "direct", "failed 3 times"),
        ("memfd-splice-bio", {"splice_cache_bytes": 1000}, 9, "", "buffered", "by reference"),
        ("memfd-splice-bio", {"splice_shmem_bytes": 1000}, 0, "", "buffered", "file in memory"),
        # What a pipe reads into pages of its own is as direct as that read was.
        ("memfd-splice-dio", {"splice_pages_bytes": 1000, "dio_bytes": 1000}, 0, "", "direct", "1"),
        (
            "memfd-splice-dio",
            {"splice_pages_bytes": 1000, "copy_read_bytes": 1000},
            9,
            "",
            "buffered",
            "although O_DIRECT",
        ),
        ("memfd-splice-dio", {"splice_cache_bytes": 500, "dio_bytes": 500}, 9, "", "mixed", "500"),
        (
            "filemap-bio",
            {"mapped": 1000, "hits:filemap_fault": 7},
            9,
            "",
            "buffered",
            "1000 B mapped by page faults; the page cache gained 9 B; 7 calls of filemap_fault",
        ),
        ("filemap-bio", {"mapped": 2 << 20}, 0, "", "buffered", "1 MiB mapped"),
        (
            "dmabuf-dontcache-bio",
            {"copy_read_bytes": 1000, "removed": 9},
            9,
            "",
            "buffered",
            "gained 9 B and lost 9 B",
        ),
    ],
)
def test_verdicts(
    strategy: str, seen: dict[str, int], added: int, refused: str, verdict: str, says: str
) -> None:
    begin, end = (1, 100, 10, 0, "begin"), (1, 100, 90, 0, "end")
    load = synthetic.load(
        1, strategy, page_cache_added=added, page_cache_removed=seen.get("removed", 0),
        refused=refused, mapped=seen.get("mapped", 0),
    )  # fmt: skip
    counted = {name: value for name, value in seen.items() if name not in ("mapped", "removed")}
    recording = synthetic.InMemory(
        {
            "snapshots": synthetic.snapshot(begin, {})
            + synthetic.snapshot(end, {"user": (80, 0, 0, 1)}),
            "counters": synthetic.counters(end, counted),
            "loads": [load],
        }
    )
    (load,) = document(recording)["loads"]
    assert load["direct"]["verdict"] == verdict
    assert says in load["direct"]["why"]
    assert "although" not in load["direct"]["why"] or strategy.endswith("-dio")
    assert load["direct"]["direct_bytes"] == seen.get("dio_bytes", 0)


def test_counters_are_differences_and_stack_guards_are_counted() -> None:
    begin, end = (1, 100, 10, 0, "begin"), (1, 100, 90, 0, "end")
    before = {"copy_read_bytes": 100, "lost_exits": 1, "copy_stream_bytes": 5}
    after = {
        "copy_read_bytes": 170,
        "lost_exits": 3,
        "copy_stream_bytes": 5,
        "copy_write_bytes": 30,
        "copy_shmem_read_bytes": 4,
        "overflows": 2,
        "hits:filemap_read": 9,
    }
    recording = synthetic.InMemory(
        {
            "snapshots": synthetic.snapshot(begin, {}) + synthetic.snapshot(end, {}),
            "counters": synthetic.counters(begin, before) + synthetic.counters(end, after),
            "loads": [synthetic.load(1, "memfd-rw-bio", bytes=52)],
        }
    )
    (load,) = document(recording)["loads"]
    paths = {"page cache -> user": 70, "shmem -> user": 4, "user -> page cache": 30}
    assert load["copies"] == {"cpu_bytes": 104, "per_byte": 2.0, "paths": paths}
    assert load["stack"] == {"lost_exits": 2, "overflows": 2}


def test_the_laws_hold(found: dict[str, Any]) -> None:
    assert law.all_laws(found, PREDICTED) == []


def _thread(load: dict[str, Any]) -> dict[str, Any]:
    thread: dict[str, Any] = load["threads"][0]
    return thread


def _by_recorder(load: dict[str, Any]) -> dict[str, Any]:
    """A thread that the recorder looked at, 3 us before it asked for schedstat."""
    _thread(load).update(clock="recorder", mark_ns=3000)
    return _thread(load)


# Each: a change to load 0 (dmabuf-bio) or 1 (udmabuf-dio), and whether the law may notice.
BREAKS: list[tuple[Callable[[Any], list[str]], int, Callable[[dict[str, Any]], object], int]] = [
    (law.closure, 0, lambda load: _thread(load).update(wall_ns=1_010_200), 1),
    (law.closure, 0, lambda load: _thread(load).update(wall_ns=1_009_900), 0),
    (law.closure, 0, lambda load: _thread(load).update(wall_ns=985_000), 1),
    (law.closure, 0, lambda load: _thread(load).update(wall_ns=1_010_200, mark_ns=300), 0),
    (law.closure, 0, lambda load: _thread(load).update(wall_ns=1_010_400, mark_ns=100), 1),
    (law.closure, 0, lambda load: _by_recorder(load).update(wall_ns=1_010_200), 1),
    (law.closure, 0, lambda load: _thread(load)["phases"].pop(), 1),
    (law.schedstat, 0, lambda load: _thread(load).update(sched_run_ns=1_601_000), 1),
    (law.schedstat, 0, lambda load: _thread(load).update(sched_run_ns=1_599_000), 0),
    (law.schedstat, 0, lambda load: _by_recorder(load).update(sched_run_ns=1_601_000), 0),
    (law.schedstat, 0, lambda load: _by_recorder(load).update(sched_run_ns=1_605_000), 1),
    (law.schedstat, 0, lambda load: _thread(load).update(sched_wait_ns=1_101_000), 1),
    (law.schedstat, 0, lambda load: _thread(load).update(sched_wait_ns=None), 0),
    (law.schedstat, 0, lambda load: _thread(load).update(sched_run_ns=1_601_000, wake_ns=2_000), 0),
    (law.schedstat, 0, lambda load: _thread(load).update(sched_run_ns=1_603_000, wake_ns=2_000), 1),
    (law.schedstat, 0,
     lambda load: _thread(load).update(sched_wait_ns=1_101_000, wake_ns=2_000), 1),
    (law.closure, 0, lambda load: load["threads"].clear(), 1),
    (law.page_cache, 0, lambda load: load["memory"].update(page_cache_added=1_000_000), 1),
    (law.page_cache, 0, lambda load: load["memory"].update(page_cache_added=1_069_000), 0),
    (law.page_cache, 0, lambda load: load.update(cache_before="warm", bytes=1), 0),
    (law.page_cache, 1, lambda load: load["memory"].update(page_cache_added=10_486), 1),
    (law.page_cache, 1, lambda load: load["memory"].update(page_cache_added=10_485), 0),
    (law.block_bytes, 0, lambda load: load["block"].update(read_bytes=1_027_000), 1),
    (law.block_bytes, 1, lambda load: load["block"].update(read_bytes=1_028_000), 0),
    (law.cachestat, 0, lambda load: load["memory"]["cachestat_after"].update(nr_cache=253), 1),
    (law.cachestat, 0, lambda load: load["memory"]["cachestat_after"].update(nr_cache=254), 0),
    (law.cachestat, 1, lambda load: load["memory"].update(page_cache_end=10_500), 1),
    (law.cachestat, 1, lambda load: load["memory"].update(cachestat_after={}), 0),
    (lambda d: law.copies(d, PREDICTED), 1, lambda load: load["copies"].update(per_byte=0.06), 1),
    (lambda d: law.copies(d, PREDICTED), 1, lambda load: load["copies"].update(per_byte=0.05), 0),
    (lambda d: law.copies(d, PREDICTED), 1, lambda load: load.update(strategy="new"), 1),
    (lambda d: law.copies(d, {**PREDICTED, "new": None}), 1,
     lambda load: load.update(strategy="new"), 0),
]  # fmt: skip


@pytest.mark.parametrize(("check", "index", "change", "count"), BREAKS)
def test_a_broken_law_is_noticed(
    found: dict[str, Any],
    check: Callable[[Any], list[str]],
    index: int,
    change: Callable[[dict[str, Any]], object],
    count: int,
) -> None:
    broken = copy.deepcopy(found)
    change(broken["loads"][index])
    assert len(check(broken)) == count
    assert check(found) == []
    broken["loads"][index]["partial"] = True
    assert check(broken) == [], "a partial load proves nothing"


def test_a_direct_load_may_fall_back_if_it_says_so(found: dict[str, Any]) -> None:
    found["loads"][1]["memory"]["page_cache_added"] = synthetic.SIZE
    assert len(law.page_cache(found)) == 1
    found["loads"][1]["direct"]["verdict"] = "mixed"
    assert law.page_cache(found) == []


def test_schedstat_is_held_to_a_share_of_wall_beyond_the_floor() -> None:
    """A thread of 1 s may be off by 20 ms, not by 21."""
    for off, count in ((20_000_000, 0), (21_000_000, 1)):
        clock = {
            "load_id": 1, "window": 0, "tid": 100, "comm": "x", "start_ns": 0,
            "end_ns": 10**9, "sched_run_ns": 10**9 - off, "sched_wait_ns": 0,
        }  # fmt: skip
        rows = synthetic.snapshot((1, 100, 0, 0, "begin"), {})
        rows += synthetic.snapshot((1, 100, 10**9, 0, "end"), {"copy": (10**9, 0, 0, 1)})
        recording = synthetic.InMemory(
            {"snapshots": rows, "threads": [clock], "loads": [synthetic.load(1, "x")]}
        )
        assert len(law.schedstat(document(recording))) == count


def test_summaries_are_medians_over_whole_rounds(found: dict[str, Any]) -> None:
    third = copy.deepcopy(found["loads"][0])
    third["round"], third["wall_ns"] = 3, 9_000_000
    third["threads"][0]["phases"][1]["cpu_ns"] = 9_000_000
    fourth = copy.deepcopy(third)
    fourth["failed"] = "no"
    first, second = summaries([*found["loads"], third, fourth])
    assert (first.label, second.label) == ("dmabuf-bio", "udmabuf-dio")
    assert [load["round"] for load in first.loads] == [1, 2, 3]
    assert len(first.failed) == 1
    assert first.times["wall_ns"] == 1_000_000
    assert first.phases["copy"] == (540_000, 300_000, 100_000)
    assert first.ranked() == ["copy", "user"]
    warm = copy.deepcopy(found["loads"][0])
    warm["cache_before"] = "warm"
    assert [one.label for one in summaries([*found["loads"], warm])] == [
        "dmabuf-bio cold",
        "udmabuf-dio cold",
        "dmabuf-bio warm",
    ]
