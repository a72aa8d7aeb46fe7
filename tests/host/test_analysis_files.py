"""Verdicts per file, copies by path, reads by kind: from rows whose sums are known."""

from __future__ import annotations

from typing import Any

import pytest
import synthetic

from dmatrace.analysis import document
from dmatrace.analysis.copies import copies
from dmatrace.analysis.files import lowest_bit

MIB = 1 << 20
OTHER = {"dev": synthetic.DEV, "ino": 99}


def _load(
    *reads: dict[str, Any], requests: list[dict[str, Any]] | None = None, **values: Any
) -> dict[str, Any]:
    zero = dict.fromkeys(
        ("direct", "direct_calls", "einval", "efault", "errors", "buffered", "fallback", "spliced",
         "offsets", "memory", "align_memory", "align_offset"), 0)  # fmt: skip
    rows = [{"load_id": 1, "dev": synthetic.DEV, "ino": 12, **zero, **read} for read in reads]
    meta = {"devices": [{"dev": synthetic.DEV, "name": "dm-0", "disk": "dm-0", "label": "x"}]}
    tables = {
        "loads": [synthetic.load(1, "memfd-dio", **values)],
        "file_reads": rows,
        "requests": requests or [],
    }
    (found,) = document(synthetic.InMemory(tables, meta))["loads"]
    return dict(found)


def _request(kind: str, size: int, at: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "load_id": 1, "tid": 1, "tgid": 1, "dev": synthetic.DEV, "bytes": size, "op": "read",
        "kind": kind, "queue_ns": 100 + at, "issue_ns": 130 + at, "complete_ns": 200 + at, **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("read", "verdict", "said"),
    [
        ({"direct": MIB, "direct_calls": 4}, "direct", "1 MiB by direct I/O in 4 calls"),
        ({"buffered": MIB}, "buffered", "1 MiB copied out of the page cache"),
        ({"spliced": MIB}, "buffered", "1 MiB taken by a pipe"),
        ({"direct": MIB, "buffered": MIB}, "mixed", "1 MiB copied"),
        ({"direct": 100 * MIB, "buffered": 4096}, "direct", "4 KiB copied"),
        ({"buffered": MIB, "fallback": MIB, "fs": "ext4 (rw,data=journal)"}, "buffered",
         "fell back: 1 MiB of that by a file open with O_DIRECT on ext4 (rw,data=journal)"),
        ({"direct_calls": 3, "einval": 3}, "none", "3 direct calls failed with EINVAL"),
        ({"direct_calls": 1, "efault": 1}, "none", "1 direct call failed with EFAULT"),
        ({}, "none", "no read of it was seen"),
    ],
)  # fmt: skip
def test_verdicts(read: dict[str, Any], verdict: str, said: str) -> None:
    (file,) = _load(read)["files"]
    assert (file["path"], file["ino"], file["verdict"]) == ("/data/model.bin", 12, verdict)
    assert said in file["why"]


def test_what_alignment_the_reads_had() -> None:
    asked = {"align_known": True, "align_memory": 512, "align_offset": 4096, "direct_calls": 2}
    (file,) = _load({**asked, "offsets": 0x5000, "memory": 0x7F0000001000, "direct": MIB})["files"]
    assert file["alignment"] == {
        "known": True, "memory": 512, "offset": 4096, "reads_memory": 4096, "reads_offset": 4096,
    }  # fmt: skip
    assert (
        "positions and lengths to 4 KiB, addresses to 4 KiB (needed: 4 KiB, 512 B)" in file["why"]
    )
    assert "not aligned as needed" not in file["why"]
    (file,) = _load({**asked, "offsets": 0x5001, "memory": 0x1000, "einval": 2})["files"]
    assert "positions and lengths to 1 B" in file["why"]
    assert "so some were not aligned as needed" in file["why"]
    (file,) = _load({**asked, "align_offset": 0, "offsets": 4096})["files"]
    assert "the file system has no direct I/O for it" in file["why"]
    (file,) = _load({"direct_calls": 1, "offsets": 4096})["files"]
    assert "what is needed is not known" in file["why"]
    assert [lowest_bit(n) for n in (0, 1, 0x5000, 3 << 40)] == [0, 1, 4096, 1 << 40]


def test_the_loaded_file_is_first_and_a_mapped_one_buffered() -> None:
    found = _load({**OTHER, "buffered": 8 * MIB, "path": "/lib/x"}, mapped=MIB)["files"]
    assert [(file["path"], file["verdict"]) for file in found] == [
        ("/data/model.bin", "buffered"), ("/lib/x", "buffered"),
    ]  # fmt: skip
    assert found[0]["mapped_bytes"] == found[0]["buffered_bytes"] == MIB


def test_requests_are_their_files() -> None:
    mine = {"file_dev": synthetic.DEV, "ino": 12}
    requests = [
        _request("direct", MIB, **mine),
        _request("readahead", MIB, **{**mine, "ino": 99}),
        _request("metadata", 4096, file_dev=synthetic.DEV),  # the device's own pages
        _request("unknown", 8192),
    ]
    load = _load({"direct": MIB, "direct_calls": 1}, requests=requests)
    first, second = load["files"]
    assert first["disk"] == {"read_bytes": MIB, "kinds": {"direct": MIB}}
    assert "from the disk: 1 MiB direct" in first["why"]
    assert (second["ino"], second["path"], second["verdict"]) == (99, "", "none")
    assert second["disk"]["read_bytes"] == MIB
    block = load["block"]
    # The file system's own reads are not the file's.
    assert block["read_bytes"] == 2 * MIB + 8192
    assert block["requests"] == 3
    assert {kind: row["read_bytes"] for kind, row in block["kinds"].items()} == {
        "direct": MIB, "readahead": MIB, "metadata": 4096, "unknown": 8192,
    }  # fmt: skip
    assert block["kinds"]["metadata"]["queue_ns"]["max"] == 30
    assert block["kinds"]["metadata"]["latency_ns"]["max"] == 70
    (device,) = block["devices"]
    assert (device["dev"], device["name"], device["label"]) == ("254:0", "dm-0", "x")
    assert device["read_bytes"] == 2 * MIB + 8192 + 4096
    assert block["depth"]["max"] == 4


def test_requests_of_recordings_that_did_not_tell() -> None:
    (load,) = document(
        synthetic.InMemory(
            {"loads": [synthetic.load(1, "x")], "requests": [_request("", 4096)]}
        )
    )["loads"]  # fmt: skip
    assert list(load["block"]["kinds"]) == ["unknown"]
    assert load["block"]["read_bytes"] == 4096


def test_what_was_asked_and_has_no_request() -> None:
    key = (1, 100, 1_000_000, 0, "begin")
    end = (1, 100, 2_000_000, 0, "end")
    tables = {
        "loads": [synthetic.load(1, "x")],
        "snapshots": synthetic.snapshot(key, {}) + synthetic.snapshot(end, {}),
        "counters": synthetic.counters(end, {"bio_read_bytes": 3 * MIB}),
        "requests": [_request("direct", MIB)],
    }
    (load,) = document(synthetic.InMemory(tables))["loads"]
    assert (load["block"]["queued_bytes"], load["block"]["unseen_bytes"]) == (3 * MIB, 2 * MIB)


def test_copies_by_path() -> None:
    counters = {
        "copy_read_bytes": 100, "copy_read_module_bytes": 30, "copy_write_bytes": 1000,
        "copy_write_shmem_bytes": 700, "copy_write_pipe_bytes": 400, "copy_pipe_shmem_bytes": 350,
        "copy_shmem_read_bytes": 7, "copy_stream_bytes": 9,
    }  # fmt: skip
    found = copies(counters, 0)
    assert found["paths"] == {
        "page cache -> user": 70, "page cache -> module": 30, "shmem -> user": 7,
        "user -> shmem": 350, "user -> page cache": 250, "pipe -> shmem": 350,
        "pipe -> page cache": 50, "pipe -> dma-buf": 9,
    }  # fmt: skip
    assert sum(found["paths"].values()) == found["cpu_bytes"] == 1116
