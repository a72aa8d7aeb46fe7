"""Reads by kind, copies by path, verdicts per file and what bounded each load of a recording."""

from __future__ import annotations

import pytest

from dmatrace.analysis.critical import PARTS
from tests.guest.lab import Lab
from tests.guest.watched import SIZE, Watched

BLOCK = 1 << 20  # --block's default


def test_what_bounded_a_load_adds_up_to_its_wall_time(watched: Watched) -> None:
    for load in watched.document["loads"]:
        found = load["critical"]
        assert sum(found[f"{part}_ns"] for part in PARTS) == load["wall_ns"], load["strategy"]
        assert found["wall_ns"] == load["wall_ns"]
        off = sum(
            phase["blocked_ns"] + phase["runnable_ns"]
            for thread in load["threads"]
            for phase in thread["phases"]
        )
        # Waits under 10 us are few, and short.
        assert found["unseen_ns"] <= 0.05 * off + 2_000_000, load["strategy"]


def test_waits_as_bpftrace_adds_time_off_cpu(watched: Watched) -> None:
    """Over all loads; one at a time test_record.py compares the cells."""
    waits = watched.recording.table("waits")
    loads = {load["load_id"]: load for load in watched.document["loads"]}
    ours = theirs = 0
    for number, load in loads.items():
        if any(thread["owner"] for thread in load["threads"]):
            continue  # oracle and waits cut a worker's wait at different ends
        theirs += watched.oracle["@off_cpu"].get(str(number), 0)
        found = load["critical"]
        off = sum(
            phase["blocked_ns"] + phase["runnable_ns"]
            for thread in load["threads"]
            for phase in thread["phases"]
        )
        ours += off - found["unseen_ns"]
        assert len(waits[waits["load_id"] == number]) > 0
    assert abs(ours - theirs) <= 0.1 * theirs


def test_reads_are_of_the_kind_that_the_strategy_makes(watched: Watched) -> None:
    for load in watched.document["loads"]:
        kinds = {kind: row["read_bytes"] for kind, row in load["block"]["kinds"].items()}
        data = {kind: n for kind, n in kinds.items() if kind != "metadata"}
        own = load["files"][0]
        assert own["path"] == load["file"]
        if load["refused"]:
            continue
        if load["strategy"].endswith("-dio"):
            assert data.get("direct") == SIZE, (load["strategy"], kinds)
            assert own["disk"]["kinds"] == {"direct": SIZE}
        else:
            cached = data.get("readahead", 0) + data.get("page-cache", 0)
            assert abs(cached - SIZE) <= 0.02 * SIZE, (load["strategy"], kinds)
            assert own["disk"]["read_bytes"] == SIZE
        assert "unknown" not in data
        assert load["block"]["read_bytes"] == sum(data.values())


def test_verdicts_per_file(watched: Watched) -> None:
    for load in watched.document["loads"]:
        file, whole = load["files"][0], load["direct"]
        assert (file["direct_bytes"], file["buffered_bytes"]) == (
            whole["direct_bytes"], whole["buffered_bytes"],
        ), load["strategy"]  # fmt: skip
        assert file["verdict"] == whole["verdict"]
        assert file["fallback_bytes"] == 0
        if load["refused"]:
            assert file["errors"]["EFAULT"] > 0
        else:
            assert not any(file["errors"].values()), load["strategy"]
        if load["strategy"].endswith("-dio") and not load["refused"]:
            assert file["alignment"]["reads_offset"] >= 512


def test_copies_by_path_add_up(watched: Watched) -> None:
    for load in watched.document["loads"]:
        paths = load["copies"]["paths"]
        assert sum(paths.values()) == load["copies"]["cpu_bytes"], load["strategy"]
    into_memfd = watched.load("memfd-sendfile-bio")["copies"]["paths"]
    assert into_memfd == {"pipe -> shmem": SIZE}
    assert watched.load("dmabuf-bio")["copies"]["paths"] == {"page cache -> user": SIZE}
    assert watched.load("dmabuf-rwfile-bio")["copies"]["paths"] == {"page cache -> module": SIZE}
    assert watched.load("dmabuf-sendfile-bio")["copies"]["paths"] == {"pipe -> dma-buf": SIZE}


def test_queue_depth_of_a_known_depth(watched: Watched, lab: Lab, model: str) -> None:
    """The recording was made with --depth 4; a read may be cut into several requests.

    How deep it is on average depends on what else the machine does: the mean is held to the
    requests themselves (Little's law) and not to another load's.  Where the disk was done with
    each read before the next was asked for, a load with more of them tells whether it can be
    seen at all.
    """
    requests = watched.recording.table("requests")
    deep, shallow = watched.load("udmabuf-uring-dio"), watched.load("udmabuf-dio")
    for load, most in ((deep, 4), (shallow, 1)):
        cut = -(-load["block"]["requests"] // (SIZE // BLOCK))
        assert load["block"]["depth"]["max"] <= most * cut
    deepest = deep["block"]["depth"]["max"]
    for again in range(3):
        if deepest > 1:
            break
        options = ("--strategy", "udmabuf-uring-dio", "--file", model)
        document = lab.record(f"deep-{again}", *options, "--depth", "32", "--block", "64K")
        (load,) = document["loads"]
        deepest = load["block"]["depth"]["max"]
    assert deepest > 1
    for load in (deep, shallow):
        reads = requests[(requests["load_id"] == load["load_id"]) & (requests["op"] == "read")]
        done = reads[reads["complete_ns"] > 0]
        under_way = int((done["complete_ns"] - done["issue_ns"]).sum())
        held = load["block"]["depth"]["hist_ns"]
        assert sum(int(depth) * ns for depth, ns in held.items()) == under_way
        span = int(done["complete_ns"].max() - done["issue_ns"].min())
        assert load["block"]["depth"]["mean"] == pytest.approx(under_way / span, abs=0.001)
        line = load["block"]["timeline"]
        every = sum(kind["read_bytes"] for kind in load["block"]["kinds"].values())
        assert sum(line["read_bytes"]) == every
        assert max(line["depth_max"]) == load["block"]["depth"]["max"]
