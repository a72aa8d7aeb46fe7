"""What a recording says of loads whose bytes are known, held against others who watched."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pytest

from dmatrace.analysis import law
from dmatrace.bpf.hooks_module import MODULE_HOOKS
from dmatrace_loaders.table import strategies
from tests.guest.lab import Lab, all_that_run
from tests.guest.watched import LIMIT_MB, MIB, SIZE, Watched, watch

AGAIN = 8  # rounds; all of them would have to be disturbed
AT_ONCE = ("udmabuf-overlap-", "dmabuf-allocread-", "dmabuf-gather-")
PREDICTED = {name: strategy.copies for name, strategy in strategies().items()}
LAWS = {
    "closure": law.closure,
    "page_cache": law.page_cache,
    "block_bytes": law.block_bytes,
    "copies": lambda document: law.copies(document, PREDICTED),
    "cachestat": law.cachestat,
}


def test_every_strategy_ran(watched: Watched) -> None:
    names = [load["strategy"] for load in watched.document["loads"]]
    assert names == all_that_run(watched.document, module=True)
    assert watched.document["lost_events"] == 0
    assert watched.document["complete"]
    for load in watched.document["loads"]:
        assert (load["failed"], load["partial"], load["bytes"]) == ("", False, SIZE)
        # Where one call allocates and reads, all of it is I/O.
        assert (load["create_ns"] == 0) is load["strategy"].startswith(AT_ONCE), load["strategy"]
        assert load["io_ns"] > 0
        assert load["stack"] == {"lost_exits": 0, "overflows": 0}
        if strategies()[load["strategy"]].refused:
            assert load["refused"].startswith("EFAULT")
            assert load["verified"] is None
        else:
            assert (load["refused"], load["verified"]) == ("", True)


@pytest.mark.parametrize("name", LAWS)
def test_law(watched: Watched, name: str) -> None:
    assert LAWS[name](watched.document) == []


def test_law_of_schedstat(lab: Lab, model: str, watched: Watched) -> None:
    """A strategy that breaks it is loaded again, without others beside: noise does not repeat."""
    suspects = {said.split(" round ")[0] for said in law.schedstat(watched.document)}
    mode = watched.recording.meta["hooks_mode"]
    for strategy in suspects:
        options = ("--strategy", strategy, "--file", model, "--load-module", "--hooks", mode)
        again = lab.record(f"again-{strategy}-{mode}", *options, "--rounds", str(AGAIN), "-q")
        said = law.schedstat(again)
        assert len({one.split(" thread ")[0] for one in said}) < AGAIN, said


def test_hooks_are_attached_as_asked(watched: Watched) -> None:
    mode = watched.recording.meta["hooks_mode"]
    attached = {hook["attached"] for hook in watched.document["hooks"]}
    assert attached <= {mode, "tracepoint", None}
    for hook in watched.document["hooks"]:
        assert bool(hook["hides"]) == (hook["attached"] is None)
    named = {hook["name"]: hook for hook in watched.document["hooks"]}
    for row in MODULE_HOOKS:
        assert named[row.name]["attached"] == mode, row.name


def test_the_two_of_the_demo(watched: Watched) -> None:
    loads = {load["strategy"]: load for load in watched.document["loads"]}
    usual, direct = loads["dmabuf-bio"], loads["udmabuf-dio"]
    assert usual["memory"]["page_cache_added"] == pytest.approx(SIZE, rel=0.02)
    assert usual["copies"]["per_byte"] == pytest.approx(1, abs=0.05)
    assert usual["direct"]["verdict"] == "buffered"
    assert direct["memory"]["page_cache_added"] < 0.01 * SIZE
    assert direct["copies"]["per_byte"] == 0
    assert direct["direct"]["verdict"] == "direct"
    assert usual["memory"]["dmabuf"] == direct["memory"]["dmabuf"] == SIZE
    assert direct["memory"]["shmem"] == SIZE
    # udmabuf pins its folios for as long as it lives, direct I/O a block at a time besides.
    assert SIZE <= direct["memory"]["pinned_peak"] <= SIZE + 4 * MIB
    assert usual["memory"]["pinned_peak"] == 0


def test_calls_as_bpftrace_counts_them(watched: Watched) -> None:
    """A probe of ours that misses calls, or counts those of others, differs here."""
    attached = {hook["name"]: hook for hook in watched.recording.meta["hooks"]}
    ours = watched.counters()
    compared = 0
    for key, theirs in watched.oracle["@calls"].items():
        load, function = key.split(",")
        hook = next(
            (h for h in attached.values() if h["function"] == function and h["attached"]), None
        )
        if hook is None:
            continue
        mine = ours[int(load)][f"hits:{hook['name']}"]
        assert abs(mine - theirs) <= 2 + 0.001 * theirs, (key, mine, theirs)
        compared += 1
    assert compared > 40


@pytest.mark.parametrize(
    ("oracle", "counter"),
    [
        ("@copied", "copy_read_bytes"),
        ("@direct", "dio_bytes"),
        ("@pinned", "pin_bytes"),
        ("@written", "copy_write_bytes"),
        ("@streamed", "copy_stream_bytes"),
        ("@spliced", "splice_cache_bytes"),
        ("@spliced_pages", "splice_pages_bytes"),
        ("@spliced_out", "splice_write_bytes"),
    ],
)
def test_bytes_as_bpftrace_adds_them(watched: Watched, oracle: str, counter: str) -> None:
    ours = watched.counters()
    theirs = watched.oracle[oracle]
    assert theirs
    for load, expected in theirs.items():
        mine = ours[int(load)][counter]
        if counter == "pin_bytes":
            mine -= watched.oracle["@pinned_memfd"].get(load, 0)
        assert mine == expected, load
    for number, counted in ours.items():
        assert bool(counted[counter]) <= (str(number) in theirs or counter == "pin_bytes"), number


def test_spliced_bytes_take_the_path_that_the_verdict_names(watched: Watched) -> None:
    """From the page cache by reference, or by direct reads into the pipe's own pages."""
    ours = watched.counters()
    checked = 0
    for load in watched.document["loads"]:
        _, _, path = load["strategy"].rpartition("-")
        if not any(f"-{how}-" in load["strategy"] for how in ("sendfile", "splice")):
            continue
        counted = ours[load["load_id"]]
        assert counted["splice_write_bytes"] == SIZE, load["strategy"]
        assert counted["splice_cache_bytes" if path == "bio" else "splice_pages_bytes"] == SIZE
        assert counted["splice_pages_bytes" if path == "bio" else "splice_cache_bytes"] == 0
        assert counted["copy_read_bytes"] == 0
        streamed = load["strategy"].startswith("dmabuf")
        assert counted["copy_stream_bytes" if streamed else "copy_write_bytes"] == SIZE
        spent = {phase["phase"] for thread in load["threads"] for phase in thread["phases"]}
        assert {"splice", "copy"} <= spent
        checked += 1
    assert checked == 12


def test_verdicts(watched: Watched) -> None:
    """Every load of an ext4 file does what its name says; the bytes prove it."""
    for load in watched.document["loads"]:
        found = load["direct"]
        if load["refused"]:
            assert found["verdict"] == "none"
        elif load["strategy"].endswith("-dio"):
            assert (found["verdict"], found["direct_bytes"]) == ("direct", SIZE), load["strategy"]
        else:
            assert (found["verdict"], found["buffered_bytes"]) == ("buffered", SIZE), found["why"]


def test_a_mapped_file_is_buffered_by_faults(watched: Watched) -> None:
    load = watched.load("filemap-bio")
    assert load["memory"]["mapped"] == SIZE
    assert "calls of filemap_map_pages" in load["direct"]["why"]
    assert "calls of filemap_fault" in load["direct"]["why"]
    assert load["copies"]["cpu_bytes"] == 0
    (thread,) = load["threads"]
    spent = {phase["phase"] for phase in thread["phases"]}
    assert {"fault", "page-cache", "readahead"} <= spent


def test_the_page_cache_as_bpftrace_adds_it(watched: Watched) -> None:
    for load in watched.document["loads"]:
        key = f"{load['load_id']},{watched.ino}"
        # Readahead beyond the file's end never happens; a folio is never counted twice.
        assert load["memory"]["page_cache_added"] == watched.oracle["@cached"].get(key, 0)


def test_requests_as_bios_and_the_task_s_accounting_add_them(watched: Watched) -> None:
    threads = watched.recording.table("threads")
    for load in watched.document["loads"]:
        # The file system's own reads are bios as well.
        read = sum(kind["read_bytes"] for kind in load["block"]["kinds"].values())
        bios = watched.oracle["@bio_bytes"].get(str(load["load_id"]), 0)
        assert read == pytest.approx(bios, abs=MIB // 4), load["strategy"]
        accounted = threads[threads["load_id"] == load["load_id"]]["read_bytes"].sum()
        if any(thread["owner"] for thread in load["threads"]):
            assert accounted <= read  # what a worker reads is not the caller's
            continue
        assert read == pytest.approx(accounted, abs=MIB // 4), load["strategy"]


def test_requests_as_diskstats_adds_them(watched: Watched) -> None:
    """Every read of the disk in those seconds was a load's or its verification's."""
    requests = watched.recording.table("requests")
    ours = requests[requests["op"] == "read"]["bytes"].sum()
    assert ours == pytest.approx(watched.disk_bytes, rel=0.02)


def test_faults_as_getrusage_counts_them(watched: Watched) -> None:
    ours = watched.counters()
    threads = watched.recording.table("threads")
    retried = watched.oracle["@retried"]
    assert retried  # of filemap-bio, at every readahead
    for load in watched.document["loads"]:
        theirs = int(threads[threads["load_id"] == load["load_id"]]["faults"].sum())
        mine = ours[load["load_id"]]["hits:handle_mm_fault"]
        mine -= retried.get(str(load["load_id"]), 0)
        # getrusage brackets the marks.
        assert mine == pytest.approx(theirs, abs=60, rel=0.01), load["strategy"]


@pytest.mark.timeout(1800)  # bpftrace starts once more
def test_time_off_cpu_as_bpftrace_adds_it(lab: Lab, model: str, watched: Watched) -> None:
    """Both read the clock at the same sched_switch, one after the other.

    A processor that the host takes away in between sets a load apart by as much as it stays
    away. So a strategy that is apart is loaded again: noise does not repeat.
    """
    suspects = _apart_off_cpu(watched)
    if suspects:
        mode = watched.recording.meta["hooks_mode"]
        again = _apart_off_cpu(watch(lab, model, mode, ",".join(suspects), AGAIN))
        assert max(again.values(), default=0) < AGAIN, again


def _apart_off_cpu(watched: Watched) -> Counter[str]:
    """{strategy: how many of its loads are further from bpftrace's than 2 % and 1 ms}."""
    apart: Counter[str] = Counter()
    for load in watched.document["loads"]:
        ours = sum(
            phase["blocked_ns"] + phase["runnable_ns"]
            for thread in load["threads"]
            for phase in thread["phases"]
        )
        theirs = watched.oracle["@off_cpu"].get(str(load["load_id"]), 0)
        wall = sum(thread["wall_ns"] for thread in load["threads"])
        apart[load["strategy"]] += abs(ours - theirs) > 0.02 * wall + 1_000_000
    return +apart


def test_the_limit_is_back(watched: Watched) -> None:
    assert int(watched.limit) == LIMIT_MB


@pytest.mark.long
def test_fincore_agrees(lab: Lab, model: str) -> None:
    """The last buffered load's file is still cached when the recorder has gone."""
    document = lab.record("fincore", "--strategy", "anon-bio", "--file", model, "-q")
    (load,) = document["loads"]
    resident = int(lab.must(f"fincore -bnro RES {model}"))
    assert load["memory"]["page_cache_end"] == pytest.approx(resident, rel=0.01)


@pytest.mark.long
def test_fentry_and_kprobe_agree(fentry: Watched, kprobe: Watched) -> None:
    """Both see the same entries into each phase; times are compared in benchmarks/backends.py."""
    for one, other in zip(fentry.document["loads"], kprobe.document["loads"], strict=True):
        mine, theirs = _entries(one), _entries(other)
        for phase in mine | theirs:
            few, many = sorted((mine.get(phase, 0), theirs.get(phase, 0)))
            # Of threads that allocate at once, who comes first decides how scattered the
            # pages are, and so how many bios a read takes: that differs from load to load.
            alone = len(one["threads"]) == 1
            most = 1.1 * few + 64 if alone else 10 * few + 64
            assert many <= most, (one["strategy"], phase, mine, theirs)


def _entries(load: dict[str, Any]) -> dict[str, int]:
    """{phase: how often its threads entered it}."""
    found: dict[str, int] = defaultdict(int)
    for thread in load["threads"]:
        for phase in thread["phases"]:
            found[phase["phase"]] += phase["count"]
    return found
