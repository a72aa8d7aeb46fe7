"""Loads by processes that are not ours: each way that is known, and the verdict on it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.guest.lab import Lab, report
from tests.guest.loading import SIZE, WAYS

LOADING = Path(__file__).with_name("loading.py")
MIB = 1 << 20

VERDICTS = {
    "buffered": "buffered into anonymous memory",
    "small": "buffered into anonymous memory",
    "direct": "direct into anonymous memory",
    "memfd": "direct into memfd",
    "udmabuf": "direct into udmabuf",
    "udmabuf-map": "buffered into udmabuf",
    "heap": "buffered into dma-heap buffer",
    "mmap": "mmap",
    "populate": "mmap+populate",
    "willneed": "mmap+willneed",
    "mlock": "mmap+lock",
    "sendfile": "sendfile into udmabuf",
    "splice": "splice into memfd",
    "copy": "copy_file_range into file",
    "bounce": "buffered into anonymous memory",
    "dontcache": "dontcache into anonymous memory",
    "mixed": "mixed",
    "ring": "io_uring into anonymous memory",
    "ring-direct": "io_uring+direct into anonymous memory",
    "ring-fixed": "io_uring+direct+fixed into memfd",
}
BLOCKS = {"buffered": MIB, "small": 4096} | dict.fromkeys(
    ("direct", "memfd", "udmabuf", "udmabuf-map", "heap", "ring-direct", "ring-fixed"), 64 << 10
)


@dataclass(frozen=True)
class Seen:
    """What the processes said, and what was recorded of them."""

    said: dict[str, dict[str, Any]]
    document: dict[str, Any]
    inodes: dict[str, int]

    def load(self, name: str) -> dict[str, Any]:
        """The load of way ``name``'s own file."""
        if self.said[name]["skipped"]:
            pytest.skip(f"kernel lacks: {self.said[name]['skipped']}")
        assert self.said[name]["code"] == 0
        (found,) = (
            load for load in self.document["file_loads"] if load["ino"] == self.inodes[name]
        )
        return dict(found)


@pytest.fixture(scope="module")
def seen(lab: Lab) -> Iterator[Seen]:
    """One recording of all ways."""
    yield record_ways(lab)
    lab.must("rm -r /data/ways")


def record_ways(lab: Lab) -> Seen:
    """Do and record them, with files in /data/ways."""
    where, out = "/data/ways", lab.fresh("ways")
    names = " ".join(WAYS)
    lab.must(
        f"rm -rf {where} && mkdir {where} && cd {where} && for n in {names}; do"
        f" head -c {SIZE} /dev/urandom >way.$n; done; printf GGUF |"
        " dd of=way.mmap conv=notrunc status=none; sync"
    )
    listed = lab.must(f"cd {where} && stat -c '%n %i' way.*").split("\n")
    inodes = {line.split()[0].removeprefix("way."): int(line.split()[1]) for line in listed if line}
    done = lab.shell(f"dmatrace record -o {out} -- python3 {LOADING} {where}")
    assert done.code == 0, done.err
    return Seen(json.loads(done.out), report(out), inodes)


def test_nothing_is_lost_and_nothing_else_is_a_load(seen: Seen) -> None:
    assert seen.document["lost_events"] == 0, seen.document["lost"]
    ours = set(seen.inodes.values())
    others = [load for load in seen.document["file_loads"] if load["ino"] not in ours]
    assert others == []


@pytest.mark.parametrize("name", WAYS)
def test_the_verdict_is_what_was_done(seen: Seen, name: str) -> None:
    load = seen.load(name)
    assert load["verdict"] == VERDICTS[name], load["parts"]
    assert (load["pid"], load["size"]) == (seen.said[name]["pid"], SIZE)
    assert load["path"] == f"/data/ways/way.{name}"
    assert load["format"] == ("GGUF" if name == "mmap" else "")
    assert (load["bytes"], load["progress"]) == (SIZE, 1.0)
    assert 0 < load["start_ns"] < load["end_ns"]
    (process,) = (each for each in seen.document["loads"] if each["pid"] == load["pid"])
    assert load["load_id"] == process["load_id"]


@pytest.mark.parametrize("name", BLOCKS)
def test_sizes_and_depth(seen: Seen, name: str) -> None:
    parts = seen.load(name)["parts"]
    assert {part["block"] for part in parts} == {BLOCKS[name]}
    assert sum(part["calls"] for part in parts) == math.ceil(SIZE / BLOCKS[name])
    if name.startswith("ring"):
        # All of a batch are submitted before any is waited for; some may end at once.
        assert 1 < parts[0]["depth_max"] <= 8
    else:
        assert (parts[0]["depth_mean"], parts[0]["depth_max"]) == (1.0, 1)


def test_mixed_says_of_what(seen: Seen) -> None:
    parts = seen.load("mixed")["parts"]
    assert {part["name"]: part["bytes"] for part in parts} == {
        "direct into anonymous memory": SIZE // 2, "buffered into anonymous memory": SIZE // 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "method", "exporter", "through"),
    [
        ("udmabuf", "direct", "udmabuf", "memfd"),
        ("udmabuf-map", "buffered", "udmabuf", ""),
        ("heap", "buffered", "system", ""),
        ("sendfile", "sendfile", "udmabuf", "memfd"),
        ("bounce", "write", "udmabuf", "memfd"),
    ],
)
def test_what_filled_a_buffer(
    seen: Seen, name: str, method: str, exporter: str, through: str
) -> None:
    load = seen.load(name)
    (flow,) = (each for each in seen.document["buffer_flows"] if each["pid"] == load["pid"])
    assert (flow["exporter"], flow["size"], flow["filled"]) == (exporter, SIZE, SIZE)
    (fill,) = flow["fills"]
    assert (fill["method"], fill["through"], fill["bytes"]) == (method, through, SIZE)
    steps = [step["step"] for step in flow["steps"]]
    assert ("alloc" if exporter == "system" else "alloc+pin") in steps
    assert "export" in steps
    if method != "write":
        assert fill["path"] == load["path"]
        assert "open" in steps
        spans = {step["step"]: step for step in flow["steps"]}
        assert spans["open"]["start_ns"] <= spans["read"]["start_ns"] < spans["read"]["end_ns"]
    if name == "udmabuf":
        assert steps.index("export") < steps.index("read") < steps.index("close")


def test_findings_name_what_was_done(seen: Seen) -> None:
    def kinds(name: str) -> set[str]:
        load = seen.load(name)
        (process,) = (each for each in seen.document["loads"] if each["pid"] == load["pid"])
        return {finding["kind"] for finding in process["findings"]}

    assert "small reads, one at a time" in kinds("small")
    assert "small reads, one at a time" not in kinds("buffered")
    assert "in memory twice" in kinds("heap")
    assert "in memory twice" not in kinds("udmabuf")
    assert "copied twice" in kinds("bounce")
    assert "faulted page by page" in kinds("mmap")


#: Our own loaders, whose ways are known: what the classifier calls them.
STRATEGIES = {
    "anon-bio": "buffered into anonymous memory",
    "anon-dio": "direct into anonymous memory",
    "dmabuf-bio": "buffered into dma-heap buffer",
    "dmabuf-dontcache-bio": "dontcache into dma-heap buffer",
    "filemap-bio": "mmap",
    "memfd-bio": "buffered into memfd",
    "memfd-dio": "direct into memfd",
    "memfd-rw-bio": "buffered into anonymous memory",
    "memfd-sendfile-bio": "sendfile into memfd",
    "memfd-sendfile-dio": "sendfile into memfd",
    "memfd-splice-dio": "splice into memfd",
    "udmabuf-bio": "buffered into udmabuf",
    "udmabuf-mmap-bio": "buffered into udmabuf",
    "udmabuf-overlap-dio": "direct into udmabuf",
    "udmabuf-splice-bio": "splice into udmabuf",
    "udmabuf-uring-dio": "io_uring+direct into udmabuf",
}


@pytest.mark.long
def test_our_own_strategies_are_recognised(lab: Lab) -> None:
    chosen = ",".join(STRATEGIES)
    document = lab.record("ours", "--strategy", chosen, "--size", "8M", "--depth", "4")
    skipped = {skip["strategy"] for skip in document["skipped"]}
    assert skipped <= {"dmabuf-dontcache-bio"}
    names = {load["load_id"]: load["strategy"] for load in document["loads"]}
    found = {names[load["load_id"]]: load for load in document["file_loads"]}
    assert {name: load["verdict"] for name, load in found.items()} == {
        name: verdict for name, verdict in STRATEGIES.items() if name not in skipped
    }
    for name, load in found.items():
        assert (load["bytes"], load["size"]) == (8 * MIB, 8 * MIB), name
    buffers = {names[flow["load_id"]]: flow for flow in document["buffer_flows"]}
    wanted = {name for name in found if name.startswith(("dmabuf", "udmabuf"))}
    assert {name for name, flow in buffers.items() if flow["filled"] == 8 * MIB} == wanted


_BUSY = """
import mmap, os, sys, time
sys.path.insert(0, sys.argv[1])
import loading
address = loading.mapping(loading.heap())
fd = os.open(sys.argv[2], os.O_RDONLY)
print("reads", flush=True)
while True:
    for offset in range(0, loading.SIZE, 1 << 16):
        loading.checked(loading._libc.pread(fd, address + offset, 1 << 16, offset))
        time.sleep(0.002)
"""


@pytest.mark.long
def test_attached_in_the_middle_of_a_load(lab: Lab, seen: Seen) -> None:
    """The file is open and the buffer mapped before anybody looks: /proc says what they are."""
    if seen.said["heap"]["skipped"]:
        pytest.skip("kernel lacks: dma-heap")
    out = lab.fresh("middle")
    lab.must(f"cat >/tmp/busy.py <<'END'\n{_BUSY}\nEND")
    done = lab.shell(
        f"python3 /tmp/busy.py {LOADING.parent} /data/ways/way.small >/tmp/says & pid=$!;"
        " until grep -q reads /tmp/says; do sleep 0.2; done;"
        f" dmatrace attach $pid -d 3 -o {out}; code=$?; kill $pid; exit $code"
    )
    assert done.code == 0, done.err
    document = report(out)
    (load,) = document["file_loads"]
    assert load["verdict"] == "buffered into dma-heap buffer"
    assert load["path"] == "/data/ways/way.small"
    assert load["bytes"] % (64 << 10) == 0
    # All that the process read since, but for a read that was under way.
    (process,) = document["loads"]
    assert 0 <= process["bytes"] - load["bytes"] <= 64 << 10
    (flow,) = document["buffer_flows"]
    assert (flow["exporter"], flow["size"], flow["filled"]) == ("system", SIZE, load["bytes"])
    assert [step["step"] for step in flow["steps"]] == ["held", "read"]


_IN_MEMORY = f"""
import os
for size in (5, 9):
    fd = os.memfd_create("buffer")
    for _ in range(size):
        os.write(fd, bytes({MIB}))
    os.close(fd)
"""


def test_files_in_memory_are_no_page_cache(lab: Lab) -> None:
    """Two memfds, filled and closed: shmem, and not a byte that was cached or removed."""
    out = lab.fresh("in-memory")
    (lab.shared / "in_memory.py").write_text(_IN_MEMORY)
    command = f"python3 -I -S {lab.shared}/in_memory.py"
    lab.must(f"{command}; dmatrace record -o {out} -- {command}")
    (load,) = report(out)["loads"]
    memory = load["memory"]
    assert memory["shmem"] == 14 * MIB
    if "shmem by file" not in memory["unavailable"]:
        _two_in_memory(memory["files"])
    cached = [file for file in memory["files"] if file["kind"] == "file"]
    assert memory["page_cache_added"] == sum(file["added_self"] for file in cached)
    for name in ("page_cache_removed", "page_cache_peak", "page_cache_end"):
        assert memory[name] < MIB, (name, memory)


def _two_in_memory(files: list[dict[str, Any]]) -> None:
    kinds = {(file["kind"], file["added"], file["removed"]) for file in files}
    assert {("shmem", 5 * MIB, 5 * MIB), ("shmem", 9 * MIB, 9 * MIB)} <= kinds
