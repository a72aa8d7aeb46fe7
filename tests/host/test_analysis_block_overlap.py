"""Request latencies against numpy; interval overlap against counting every nanosecond."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from dmatrace.analysis import document
from dmatrace.analysis.block import percentile
from dmatrace.analysis.overlap import length, overlap, union

INTERVALS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda i: (i[0], i[0] + i[1])),
    max_size=12,
)


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=400))
def test_percentiles_are_numpys(latencies: list[int]) -> None:
    for share in (0.5, 0.9, 0.99, 1.0):
        expected = np.percentile(latencies, round(share * 100), method="inverted_cdf")
        assert percentile(sorted(latencies), share) == expected


@pytest.mark.parametrize(("n", "p99"), [(99, 99), (100, 99), (101, 100), (1, 1)])
def test_p99_at_the_edge(n: int, p99: int) -> None:
    assert percentile(list(range(1, n + 1)), 0.99) == p99


def _request(op: str, size: int, issue: int, latency: int) -> dict[str, Any]:
    return {
        "load_id": 1, "tid": 1, "tgid": 1, "dev": 1, "sector": 0, "bytes": size, "op": op,
        "queue_ns": issue - 5, "issue_ns": issue, "complete_ns": issue + latency,
    }  # fmt: skip


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["read", "read", "write", "other"]),
            st.integers(0, 1 << 24),
            st.integers(10, 1 << 40),
            st.integers(0, 1 << 30),
        ),
        max_size=40,
    )
)
@settings(max_examples=60, deadline=None)
def test_block_counts_reads_only(requests: list[tuple[str, int, int, int]]) -> None:
    rows = [_request(*request) for request in requests]
    rows.append({**_request("read", 512, 100, 0), "complete_ns": 0})  # never completed
    rows.append({**_request("read", 512, 100, 9), "load_id": 2})  # another load's
    loads = [synthetic.load(1, "memfd-bio"), synthetic.load(2, "memfd-bio")]
    found = document(synthetic.InMemory({"requests": rows, "loads": loads}))["loads"][0]["block"]
    reads = [request for request in requests if request[0] == "read"]
    assert found["requests"] == len(reads) == sum(found["size_hist"].values())
    assert found["read_bytes"] == sum(size for _, size, _, _ in reads)
    assert found["latency_ns"]["max"] == max((latency for *_, latency in reads), default=0)
    for bucket, count in found["size_hist"].items():
        low = int(bucket)
        inside = [s for _, s, _, _ in reads if (low <= s < 2 * low) or (s == low == 0)]
        assert count == len(inside)
    assert list(found["size_hist"]) == sorted(found["size_hist"], key=int)


@given(INTERVALS, INTERVALS)
def test_overlap_is_what_counting_says(alloc: Any, io: Any) -> None:
    def ticks(intervals: Any) -> set[int]:
        return {t for start, end in intervals for t in range(start, end)}

    assert overlap(alloc, io) == {
        "alloc_ns": len(ticks(alloc)),
        "io_ns": len(ticks(io)),
        "both_ns": len(ticks(alloc) & ticks(io)),
    }
    merged = union(alloc)
    assert length(merged) == len(ticks(alloc))
    assert all(a[1] < b[0] for a, b in pairwise(merged))


def test_overlap_takes_allocation_phases_and_completed_reads() -> None:
    def interval(phase: str, start: int, end: int) -> dict[str, Any]:
        return {"load_id": 1, "tid": 1, "phase": phase, "start_ns": start, "end_ns": end}

    rows = [
        interval("heap-alloc", 0, 100),
        interval("udmabuf", 100, 150),
        interval("shmem", 140, 200),
        interval("copy", 200, 900),
    ]
    requests = [
        _request("read", 1, 180, 40),
        _request("write", 1, 10, 40),
        {**_request("read", 1, 20, 0), "complete_ns": 0},
    ]
    recording = synthetic.InMemory(
        {"intervals": rows, "requests": requests, "loads": [synthetic.load(1, "x")]}
    )
    (load,) = document(recording)["loads"]
    assert load["overlap"] == {"alloc_ns": 200, "io_ns": 40, "both_ns": 20}
