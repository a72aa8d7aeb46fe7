"""Reads whose bytes, devices and alignment are known: what a recording says of each."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.guest.known_reads import SMALL
from tests.guest.lab import Lab, report

MIB = 1 << 20
STEPS = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def known(lab: Lab) -> tuple[STEPS, STEPS]:
    """({step: its load}, {step: what the reader and /sys/block said})."""
    return read_known(lab)


def read_known(lab: Lab, name: str = "known") -> tuple[STEPS, STEPS]:
    """Do and record the steps."""
    out = lab.fresh(name)
    script = __file__.replace("test_known_reads", "known_reads")
    said = json.loads(lab.must(f"python3 {script} {out}").splitlines()[-1])
    document = report(out)
    assert document["lost_events"] == 0
    return {load["strategy"]: load for load in document["loads"]}, said


def _own(load: dict[str, Any]) -> dict[str, Any]:
    """The file that a step read."""
    found: dict[str, Any] = load["files"][0]
    assert found["path"] == load["file"]
    return found


def _kinds(load: dict[str, Any]) -> dict[str, int]:
    return {kind: row["read_bytes"] for kind, row in load["block"]["kinds"].items()}


def test_buffered(known: tuple[STEPS, STEPS]) -> None:
    load = known[0]["buffered"]
    file = _own(load)
    assert (file["verdict"], file["copied_bytes"], file["direct_bytes"]) == ("buffered", 8 * MIB, 0)
    assert file["fallback_bytes"] == file["direct_calls"] == 0
    assert file["disk"]["read_bytes"] == 8 * MIB
    assert set(file["disk"]["kinds"]) <= {"readahead", "page-cache"}
    assert load["copies"]["paths"]["page cache -> user"] >= 8 * MIB


def test_direct(known: tuple[STEPS, STEPS]) -> None:
    load = known[0]["direct"]
    file = _own(load)
    assert (file["verdict"], file["direct_bytes"], file["buffered_bytes"]) == ("direct", 8 * MIB, 0)
    assert file["direct_calls"] == 9  # the last one finds the end
    assert file["disk"] == {"read_bytes": 8 * MIB, "kinds": {"direct": 8 * MIB}}
    align = file["alignment"]
    assert align["reads_offset"] == MIB
    assert align["reads_memory"] >= 4096
    if align["known"]:  # statx(STATX_DIOALIGN), since Linux 6.1
        assert 0 < align["memory"] <= 4096
        assert 0 < align["offset"] <= 4096
    assert not any(file["errors"].values())


def test_refused(known: tuple[STEPS, STEPS]) -> None:
    loads, said = known
    assert said["refused"]["told"] == {"EINVAL": 3, "EFAULT": 2}
    file = _own(loads["refused"])
    assert file["errors"] == {"EINVAL": 3, "EFAULT": 2, "other": 0}
    assert (file["direct_bytes"], file["copied_bytes"]) == (0, 4096)
    assert file["alignment"]["reads_offset"] == 1
    assert "3 direct calls failed with EINVAL" in file["why"]
    if file["alignment"]["known"]:
        assert "not aligned as needed" in file["why"]


def test_what_is_written_is_not_read(known: tuple[STEPS, STEPS]) -> None:
    file = _own(known[0]["written"])
    assert known[1]["written"]["told"] == 2 * MIB
    assert (file["direct_bytes"], file["direct_calls"]) == (MIB, 1)
    assert file["disk"]["read_bytes"] == MIB


@pytest.mark.parametrize("step", ["dm", "dm buffered"])
def test_a_stack_of_devices_counts_once(known: tuple[STEPS, STEPS], step: str) -> None:
    """ext4 on device mapper on loop: both have read every byte, we say it of the loop device."""
    loads, said = known
    load = loads[step]
    (device,) = load["block"]["devices"]
    assert device["name"] == said[step]["name"]
    assert device["label"].endswith("linear.img")
    assert device["read_bytes"] == 512 * said[step]["dm"][1] == 512 * said[step]["loop"][1]
    assert device["requests"] == said[step]["loop"][0]
    assert load["block"]["read_bytes"] == 8 * MIB
    assert load["block"]["unseen_bytes"] == 0
    assert load["block"]["queued_bytes"] == device["read_bytes"]


def test_latencies_as_the_device_adds_them(known: tuple[STEPS, STEPS], lab: Lab) -> None:
    """What the kernel accounts of requests begins when one is made, right after queueing.

    Steps that are apart are done again: a CPU that is taken away between the two looks at a
    clock, once for all requests of a plug, does not come back there.
    """
    apart = _latencies_apart(known, lab, "known")
    for again in range(3):
        if not apart:
            break
        name = f"known-{again}"
        found = _latencies_apart(read_known(lab, name), lab, name)
        apart = {step: found[step] for step in apart if step in found}
    assert not apart


def _latencies_apart(known: tuple[STEPS, STEPS], lab: Lab, name: str) -> dict[str, str]:
    """{step: how the two differ}."""
    from dmatrace.recording import Recording

    table = Recording.open(lab.shared / f"{name}.dmt").table("requests")
    loads, said = known
    apart = {}
    for step in ("dm", "dm buffered", "small"):
        mine = table[(table["load_id"] == loads[step]["load_id"]) & (table["op"] == "read")]
        ours = (mine["complete_ns"] - mine["queue_ns"]).sum() / 1e6
        least = (mine["complete_ns"] - mine["issue_ns"]).sum() / 1e6
        theirs = said[step]["loop"][2]
        # A plug remembers the time of its first request: theirs may begin a little earlier.
        if not 0.9 * least - 2 <= theirs <= 1.3 * ours + 2 * len(mine):
            apart[step] = f"{theirs} ms, not {least:.1f} to {ours:.1f}, of {len(mine)} requests"
    return apart


def test_metadata_is_apart(known: tuple[STEPS, STEPS]) -> None:
    loads, said = known
    load = loads["small"]
    kinds = _kinds(load)
    assert kinds["metadata"] > 0
    # Whoever hears of a new mount may look at the disk as well.
    assert 0 <= 512 * said["small"]["dm"][1] - sum(kinds.values()) <= 64 << 10
    assert load["block"]["read_bytes"] == sum(kinds.values()) - kinds["metadata"] == SMALL * 4096
    assert len([file for file in load["files"] if file["disk"]["read_bytes"]]) == SMALL


def test_what_a_driver_hands_to_a_thread_of_its_own_is_said(known: tuple[STEPS, STEPS]) -> None:
    load = known[0]["slow"]
    assert _own(load)["direct_bytes"] == 4 * MIB
    assert load["block"]["read_bytes"] == 0
    assert load["block"]["queued_bytes"] == load["block"]["unseen_bytes"] >= 4 * MIB


def test_a_journal_of_data_makes_direct_reads_buffered(known: tuple[STEPS, STEPS]) -> None:
    file = _own(known[0]["journal"])
    assert (file["verdict"], file["fallback_bytes"]) == ("buffered", 4 * MIB)
    assert "data=journal" in file["fs"]
    assert "fell back: 4 MiB" in file["why"]


def test_a_file_in_memory_is_never_direct(known: tuple[STEPS, STEPS]) -> None:
    loads, said = known
    if said["tmpfs"]["told"] is None:
        pytest.skip("kernel lacks: O_DIRECT on tmpfs")
    file = _own(loads["tmpfs"])
    assert (file["verdict"], file["fallback_bytes"]) == ("buffered", 2 * MIB)
    assert file["fs"].startswith("tmpfs")


def test_a_disk_that_is_read_as_a_file_is_no_metadata(known: tuple[STEPS, STEPS]) -> None:
    loads, said = known
    load = loads["disk"]
    (file,) = (file for file in load["files"] if file["copied_bytes"] == 48 * MIB)
    assert file["ino"] == 0
    assert said["disk"]["told"] == 48 * MIB
    assert set(_kinds(load)) <= {"readahead", "page-cache"}
    assert load["block"]["read_bytes"] == 512 * said["disk"]["dm"][1]


def test_half_on_the_cpu_half_asleep(known: tuple[STEPS, STEPS]) -> None:
    found = known[0]["busy"]["critical"]
    assert found["wait_ns"] >= 490_000_000
    assert found["cpu_ns"] + found["cpu_io_ns"] + found["runnable_ns"] >= 490_000_000
    assert found["parallel"] == 1
    assert found["io_ns"] + found["queue_ns"] + found["alloc_ns"] < 0.2 * found["wall_ns"]


def test_depth_of_reads_one_after_the_other(known: tuple[STEPS, STEPS]) -> None:
    """A synchronous reader has as many requests at once as one read is cut into."""
    load = known[0]["dm"]
    most = max(int(size) for size in load["block"]["size_hist"])
    assert 1 <= load["block"]["depth"]["max"] <= max(1, MIB // most)
    hist = load["block"]["depth"]["hist_ns"]
    assert (
        sum(ns for depth, ns in hist.items() if depth != "0") == (load["block"]["depth"]["busy_ns"])
    )
