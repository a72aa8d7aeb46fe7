"""The memory ledger against cachestat, fincore, cgroup files, /proc and exact byte counts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from tests.guest import ledger_work as work
from tests.guest.lab import Lab, report
from tests.guest.ledger_work import LIMIT, MIB, PAGE, PAGES, SIZE


@dataclass(frozen=True)
class Seen:
    """What the recording says of the experiments, and what others say."""

    document: dict[str, Any]
    oracle: dict[str, Any]

    def memory(self, name: str) -> dict[str, Any]:
        """The ``memory`` object of an experiment; skips where the guest could not run it."""
        if name not in self.oracle:
            pytest.skip(f"kernel lacks: what {name} needs")
        (load,) = (load for load in self.document["loads"] if load["strategy"] == name)
        found: dict[str, Any] = load["memory"]
        return found

    def file(self, name: str, ino: int = 0) -> dict[str, Any]:
        """The loaded file's ledger, or another's by its inode."""
        files = self.memory(name)["files"]
        (found,) = (f for f in files if (f["ino"] == ino if ino else f["loaded"]))
        return dict(found)


@pytest.fixture(scope="session")
def seen(lab: Lab) -> Seen:
    """All experiments, once per guest."""
    return experiments(lab)


@pytest.fixture(scope="session")
def ahead(lab: Lab) -> int:
    """Of a file that is read from its begin: what readahead brings beyond what was asked for."""
    kib = lab.must("cat /sys/class/bdi/$(mountpoint -d /data)/read_ahead_kb")
    return max(MIB, 2 * 1024 * int(kib))


def experiments(lab: Lab) -> Seen:
    """Do and record them."""
    out, oracle = lab.fresh("ledger"), lab.shared / "ledger.json"
    lab.must(f"cd {work.__file__.rsplit('/tests/', 1)[0]} && "
             f"python3 -m tests.guest.ledger_work {out} {oracle} /data")  # fmt: skip
    return Seen(report(out), json.loads(oracle.read_text()))


def test_nothing_was_lost(seen: Seen) -> None:
    assert seen.document["lost_events"] == 0
    for load in seen.document["loads"]:
        assert load["stack"] == {"lost_exits": 0, "overflows": 0}


def test_what_is_cached_at_the_end_as_fincore_says(seen: Seen) -> None:
    for name, said in seen.oracle.items():
        if name in ("heap", "memfd", "huge"):
            continue  # of other files, below
        found = seen.file(name)
        assert found["cached_before"] == said["cached_before"], name
        if name != "unlink":
            assert found["end"] == said["cached_after"], name
        assert found["end"] == said["cached_before"] + found["added"] - found["removed"]


def test_half_a_file(seen: Seen, ahead: int) -> None:
    memory, found = seen.memory("half"), seen.file("half")
    assert SIZE // 2 <= found["added"] <= SIZE // 2 + ahead
    assert found["removed"] == 0
    assert found["path"].endswith("/one")
    assert memory["readahead"]["used"] == SIZE // 2
    assert memory["readahead"]["unread"] == found["added"] - SIZE // 2
    assert memory["readahead"]["mapped"] == 0
    (process,) = memory["processes"]
    assert process["page_cache_added"] == sum(
        f["added_self"] for f in memory["files"] if f["kind"] == "file"
    )


@pytest.mark.parametrize(
    ("name", "who", "how", "removed"),
    [
        ("forget", "process", "invalidate", SIZE),
        ("drop", "drop_caches", "drop_caches", SIZE),
        ("truncate", "truncate", "truncate", SIZE // 2),
        ("unlink", "unlink", "unlink", SIZE),
    ],
)
def test_who_removed_it(seen: Seen, name: str, who: str, how: str, removed: int) -> None:
    if name in ("forget", "drop"):
        # The kernel may leave a page that somebody holds, as a batch of the LRU may.
        left = seen.oracle[name]["cached_after"]
        assert left <= 16 * PAGE
        removed -= left
    memory = seen.memory(name)
    assert {k: v for k, v in memory["removed_by"].items() if v} == {who: removed}
    assert {k: v for k, v in memory["removed_how"].items() if v} == {how: removed}
    assert seen.file(name)["removed"] == removed
    assert seen.file(name)["peak"] == SIZE


def test_byte_seconds_of_a_file_that_was_held_for_a_second(seen: Seen) -> None:
    """Read, held for 1 s and a little, dropped: no less than that, and the bound is small."""
    found = seen.file("drop")
    assert seen.oracle["drop"]["held"] == SIZE
    assert found["byte_seconds"] + found["byte_seconds_error"] >= SIZE
    whole = seen.memory("drop")["timeline"]["t_ns"][-1] / 1e9
    assert found["byte_seconds"] <= SIZE * whole
    # A busy host samples seldom, so the time line may not have the peak; `peak` does.
    assert max(seen.memory("drop")["timeline"]["page_cache"]) > 0


def test_two_files_in_one_load(seen: Seen, ahead: int) -> None:
    said = seen.oracle["two"]
    other = seen.file("two", said["other_ino"])
    assert other["added"] == said["other"] == SIZE
    assert not other["loaded"]
    assert other["path"].endswith("/two") or not other["path"]
    assert SIZE // 2 <= seen.file("two")["added"] <= SIZE // 2 + ahead


def test_bytes_that_a_pipe_took_were_used(seen: Seen) -> None:
    memory = seen.memory("splice")
    assert memory["readahead"]["used"] == SIZE // 2
    assert memory["readahead"]["added"] == seen.file("splice")["added"]


def test_single_pages_of_a_mapping(seen: Seen) -> None:
    """Readahead around each page touched: that one is used, some are mapped, the rest is waste."""
    found, file = seen.memory("touch")["readahead"], seen.file("touch")
    assert found["used"] == len(PAGES) * PAGE
    assert found["added"] == file["added"]
    assert found["mapped"] > 0
    assert found["unread"] > len(PAGES) * PAGE
    assert found["used"] + found["mapped"] + found["unread"] == found["added"]


def test_a_written_file_is_not_readahead(seen: Seen) -> None:
    said = seen.oracle["written"]
    found = seen.file("written", said["target_ino"])
    assert (found["added"], found["readahead"]["added"]) == (SIZE, 0)
    assert said["target"] == SIZE
    assert found["removed_by"]["unlink"] + found["removed_by"]["process"] == found["removed"]


def test_a_buffer_held_for_a_second(seen: Seen) -> None:
    memory = seen.memory("heap")
    (found,) = memory["dmabufs"]
    began, _, _, ended = seen.oracle["heap"]["clock"]
    assert (found["heap"], found["count"], found["bytes"]) == ("system", 1, 8 * MIB)
    assert (found["peak"], found["released"]) == (8 * MIB, 8 * MIB)
    assert 8 * MIB <= found["byte_seconds"] <= 8 * MIB * (ended - began) / 1e9
    timeline = memory["timeline"]
    assert max(timeline["dmabuf"]) == 8 * MIB
    assert timeline["dmabuf"][0] == 0


@pytest.mark.parametrize(("name", "size"), [("memfd", 5 * MIB), ("huge", 6 * MIB)])
def test_shmem(seen: Seen, name: str, size: int) -> None:
    said = seen.oracle.get(name, {})
    if why := seen.memory(name)["unavailable"].get("shmem by file"):
        assert {file["kind"] for file in seen.memory(name)["files"]} <= {"file"}
        pytest.skip(f"kernel lacks: {why}")
    found = seen.file(name, said.get("ino", 0))
    assert found["kind"] == "shmem"
    assert found["added"] == found["end"] == found["peak"] == said.get("used", size)
    assert max(seen.memory(name)["timeline"]["shmem"]) == found["added"]


def test_large_folios(seen: Seen) -> None:
    found = seen.file("xfs")
    assert found["added"] == found["end"] == SIZE
    assert seen.memory("xfs")["readahead"]["used"] == found["readahead"]["added"]


def test_a_memory_cgroup_s_limit(seen: Seen) -> None:
    """Its pages go by direct reclaim of the process, and come back: as the cgroup counts them."""
    memory, said = seen.memory("cgroup"), seen.oracle["cgroup"]
    found, stat = seen.file("cgroup"), said["stat"]
    assert 2 * 48 * MIB - LIMIT <= found["added"] <= 2 * 48 * MIB
    taken = memory["removed_by"]["reclaim"]
    assert taken == pytest.approx(stat["pgsteal"] * PAGE, rel=0.02)
    assert taken == found["removed"]
    assert memory["removed_by"]["process"] == 0
    refaults = stat["workingset_refault_file"] * PAGE
    assert refaults > 0
    assert memory["refaults"]["bytes"] == pytest.approx(refaults, rel=0.02)
    assert found["peak"] <= LIMIT


def test_vmstat_and_psi_are_the_kernel_s(seen: Seen) -> None:
    """Ours bracket theirs by a sample at both ends."""
    for load in seen.document["loads"]:
        memory, said = load["memory"], seen.oracle[load["strategy"]]
        for name, value in memory["vmstat"].items():
            assert value >= said["vmstat"][name], (load["strategy"], name)
        before, after = said["psi_us"]
        assert memory["psi"]["memory"]["some_ns"] >= (after - before) * 1000
    stolen = seen.memory("cgroup")["vmstat"]["pgsteal_file"]
    assert stolen * PAGE >= 0.98 * seen.memory("cgroup")["removed_by"]["reclaim"]
