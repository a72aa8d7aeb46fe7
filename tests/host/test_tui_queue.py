"""A load's block requests as the view keeps them, beside what plain loops say of the same rows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmatrace.analysis import overlap
from dmatrace.analysis.block import percentiles
from dmatrace.tui.queue import SLICES, Requests, columns

_TIMES = st.integers(1, 10**6)
_READS = st.lists(
    st.tuples(_TIMES, st.integers(0, 10**5), st.sampled_from((0, 512, 4096, 131072, 131073))),
    min_size=1,
    max_size=60,
)


def _row(start: int, took: int, size: int, **more: Any) -> dict[str, Any]:
    return {"op": "read", "issue_ns": start, "complete_ns": start + took, "bytes": size} | more


def _kept(rows: list[tuple[int, int, int]]) -> Requests:
    found = Requests()
    found.add(columns(_row(*row) for row in rows))
    return found


@given(_READS)
def test_the_figures_are_those_of_plain_loops(rows: list[tuple[int, int, int]]) -> None:
    requests = _kept(rows)
    found = requests.io()
    spans = [(start, start + took) for start, took, _ in rows]
    assert found.requests == len(requests) == len(rows)
    assert found.read_bytes == sum(size for *_, size in rows)
    of = percentiles(took for _, took, _ in rows)
    assert (found.p50, found.p90, found.p99, found.max) == tuple(of.values())
    assert sum(count for _, count in found.latency_hist) == len(rows)
    for floor, count in found.latency_hist:
        assert count == sum(floor <= max(took, 1) < 2 * floor for _, took, _ in rows)
    for floor, count in found.size_hist:
        assert count == sum(floor <= size < 2 * floor or size == floor == 0 for *_, size in rows)
    assert sum(count for _, count in found.size_hist) == len(rows)
    assert requests.busy() == overlap.union(spans)
    busy = overlap.length(requests.busy())
    taken = sum(took for _, took, _ in rows)
    assert found.depth_mean == pytest.approx(taken / busy if busy else 0)
    assert found.depth_max == max(
        sum(start <= moment < end for start, end in spans) for moment, _ in spans
    )
    begin, end = found.span
    assert (begin, end) == (min(s for s, _ in spans), max(e for _, e in spans))
    width = (end - begin) / SLICES
    assert len(found.depth_series) == (SLICES if end > begin else 0)
    for place, depth in enumerate(found.depth_series):
        low, high = begin + place * width, begin + (place + 1) * width
        inside = sum(max(0.0, min(high, e) - max(low, s)) for s, e in spans)
        assert depth == pytest.approx(inside / width, rel=1e-6, abs=1e-6)


def test_only_completed_reads_count() -> None:
    requests = Requests()
    requests.add(columns([_row(10, 5, 512) | {"op": "write"}]))
    requests.add(columns([_row(10, 5, 512) | {"complete_ns": 0}]))
    assert len(requests) == 0
    empty = requests.io()
    assert (empty.requests, empty.p99, empty.depth_max, empty.depth_series, empty.span) == (
        0, 0, 0, (), (0, 0),
    )  # fmt: skip
    assert requests.busy() == []


def test_more_may_come_after_a_look() -> None:
    requests = _kept([(10, 5, 512)])
    assert requests.io().span == (10, 15)
    assert requests.busy() == [(10, 15)]
    requests.add(columns([_row(12, 8, 4096, file_dev=7, ino=9)]))
    requests.add(columns([_row(30, 1, 4096, file_dev=7, ino=9)]))
    assert requests.io().span == (10, 31)
    assert requests.busy() == [(10, 20), (30, 31)]
    assert requests.by_file == {(0, 0): 512, (7, 9): 8192}
