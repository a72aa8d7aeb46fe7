"""What a recording says of loads whose bytes are known, held against others who watched."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dmatrace.analysis import law
from dmatrace.recording import Recording
from dmatrace_loaders.table import strategies
from tests.guest.conftest import SIZE_LIMIT, Lab

MIB = 1 << 20
SIZE = 96 * MIB  # above udmabuf's limit of 64 MiB, which --raise-limits has to raise
PREDICTED = {name: strategy.copies for name, strategy in strategies().items()}
LAWS = {
    "closure": law.closure,
    "page_cache": law.page_cache,
    "block_bytes": law.block_bytes,
    "copies": lambda document: law.copies(document, PREDICTED),
    "cachestat": law.cachestat,
}


@dataclass(frozen=True)
class Watched:
    """A recording of every strategy, and what others saw of it."""

    document: dict[str, Any]
    recording: Recording
    oracle: dict[str, dict[str, int]]
    disk_bytes: int
    ino: int

    def counters(self) -> dict[int, dict[str, int]]:
        """{load: {counter: what its threads counted between their marks}}."""
        found: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for row in self.recording.table("counters").to_dict("records"):
            sign = {"begin": -1, "end": 1}.get(row["kind"], 0)
            found[row["load_id"]][row["counter"]] += sign * row["value"]
        return found


@pytest.fixture(scope="module")
def model(lab: Lab) -> Iterator[str]:
    lab.must(f"head -c {SIZE} /dev/urandom >/data/model && sync")
    yield "/data/model"
    lab.must("rm /data/model")


@pytest.fixture(scope="module")
def fentry(lab: Lab, model: str) -> Watched:
    return _watch(lab, model, "fentry")


@pytest.fixture(scope="module")
def kprobe(lab: Lab, model: str) -> Watched:
    return _watch(lab, model, "kprobe")


@pytest.fixture(params=["fentry", "kprobe"])
def watched(lab: Lab, request: pytest.FixtureRequest) -> Watched:
    found: Watched = request.getfixturevalue(request.param)
    return found


def _watch(lab: Lab, model: str, mode: str) -> Watched:
    """All strategies with bpftrace and /proc/diskstats beside us."""
    script = Path(__file__).with_name("oracle.bt")
    ino = int(lab.must(f"stat -c %i {model}"))
    lab.must(
        f"setsid bpftrace -f json {script} >/tmp/oracle.json 2>/tmp/oracle.err </dev/null &"
        " for n in $(seq 240); do sleep 0.5;"
        " grep -q iomap_dio_complete /sys/kernel/debug/kprobes/list && exit 0; done;"
        " cat /tmp/oracle.err; exit 1"
    )
    before = _sectors(lab)
    options = ("--strategy", "all", "--file", model, "--raise-limits", "--hooks", mode)
    document = lab.record(mode, *options)
    after = _sectors(lab)
    lab.must("pkill -INT bpftrace; while pgrep bpftrace >/dev/null; do sleep 0.2; done")
    oracle: dict[str, dict[str, int]] = {}
    for line in lab.must("grep . /tmp/oracle.json").splitlines():
        said = json.loads(line)
        if said["type"] == "map":
            for name, values in said["data"].items():
                oracle[name] = values
    recording = Recording.open(lab.shared / f"{mode}.dmt")
    return Watched(document, recording, oracle, (after - before) * 512, ino)


def _sectors(lab: Lab) -> int:
    """Sectors read from the data disk so far; Documentation/admin-guide/iostats.rst, field 3."""
    device = lab.must("findmnt -no SOURCE /data").strip().removeprefix("/dev/")
    return int(lab.must(f"awk '$3 == \"{device}\" {{ print $6 }}' /proc/diskstats"))


def test_every_strategy_ran(watched: Watched) -> None:
    assert [load["strategy"] for load in watched.document["loads"]] == list(strategies())
    assert watched.document["skipped"] == []
    assert watched.document["lost_events"] == 0
    assert watched.document["complete"]
    for load in watched.document["loads"]:
        assert (load["failed"], load["partial"]) == ("", False)
        assert load["stack"] == {"lost_exits": 0, "overflows": 0}
        if load["strategy"] == "dmabuf-dio":
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
        options = ("--strategy", strategy, "--file", model, "--raise-limits", "--hooks", mode)
        again = lab.record(f"again-{strategy}-{mode}", *options, "--rounds", "3", "-q")
        broken = {said.split(" thread ")[0] for said in law.schedstat(again)}
        assert len(broken) < 3, broken


def test_hooks_are_attached_as_asked(watched: Watched) -> None:
    mode = watched.recording.meta["hooks_mode"]
    attached = {hook["attached"] for hook in watched.document["hooks"]}
    assert attached <= {mode, "tracepoint", None}
    for hook in watched.document["hooks"]:
        assert bool(hook["hides"]) == (hook["attached"] is None)


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
    ],
)
def test_bytes_as_bpftrace_adds_them(watched: Watched, oracle: str, counter: str) -> None:
    ours = watched.counters()
    theirs = watched.oracle[oracle]
    assert theirs
    for load, expected in theirs.items():
        mine = ours[int(load)][counter]
        if counter == "pin_bytes":  # memfd_pin_folios() pins the udmabuf's folios besides
            calls = watched.oracle["@calls"].get(f"{load},memfd_pin_folios", 0)
            mine -= SIZE if calls else 0
        assert mine == expected, load


def test_the_page_cache_as_bpftrace_adds_it(watched: Watched) -> None:
    for load in watched.document["loads"]:
        key = f"{load['load_id']},{watched.ino}"
        # Readahead beyond the file's end never happens; a folio is never counted twice.
        assert load["memory"]["page_cache_added"] == watched.oracle["@cached"].get(key, 0)


def test_requests_as_bios_and_the_task_s_accounting_add_them(watched: Watched) -> None:
    threads = watched.recording.table("threads")
    for load in watched.document["loads"]:
        read = load["block"]["read_bytes"]
        bios = watched.oracle["@bio_bytes"].get(str(load["load_id"]), 0)
        assert read == pytest.approx(bios, abs=MIB // 4), load["strategy"]
        accounted = threads[threads["load_id"] == load["load_id"]]["read_bytes"].sum()
        assert read == pytest.approx(accounted, abs=MIB // 4), load["strategy"]


def test_requests_as_diskstats_adds_them(watched: Watched) -> None:
    """Every read of the disk in those seconds was a load's or its verification's."""
    requests = watched.recording.table("requests")
    ours = requests[requests["op"] == "read"]["bytes"].sum()
    assert ours == pytest.approx(watched.disk_bytes, rel=0.02)


def test_faults_as_getrusage_counts_them(watched: Watched) -> None:
    ours = watched.counters()
    threads = watched.recording.table("threads")
    for load in watched.document["loads"]:
        theirs = int(threads[threads["load_id"] == load["load_id"]]["faults"].sum())
        mine = ours[load["load_id"]]["hits:handle_mm_fault"]
        # getrusage brackets the marks, and a fault that is retried is counted once by it.
        assert mine == pytest.approx(theirs, abs=60, rel=0.01), load["strategy"]


def test_time_off_cpu_as_bpftrace_adds_it(watched: Watched) -> None:
    for load in watched.document["loads"]:
        ours = sum(
            phase["blocked_ns"] + phase["runnable_ns"]
            for thread in load["threads"]
            for phase in thread["phases"]
        )
        theirs = watched.oracle["@off_cpu"].get(str(load["load_id"]), 0)
        wall = sum(thread["wall_ns"] for thread in load["threads"])
        assert abs(ours - theirs) <= 0.02 * wall + 1_000_000, load["strategy"]


@pytest.mark.usefixtures("watched")
def test_the_limit_is_back(lab: Lab) -> None:
    assert lab.must(f"cat {SIZE_LIMIT}") == "64\n"


def test_fincore_agrees(lab: Lab, model: str) -> None:
    """The last buffered load's file is still cached when the recorder has gone."""
    document = lab.record("fincore", "--strategy", "anon-bio", "--file", model, "-q")
    (load,) = document["loads"]
    resident = int(lab.must(f"fincore -bnro RES {model}"))
    assert load["memory"]["page_cache_end"] == pytest.approx(resident, rel=0.01)


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
