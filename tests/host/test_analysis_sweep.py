"""Columns of requests, in blocks, against plain Python; large tables against small ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import plain_depth
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmatrace.analysis import depth, document, overlap, sweep
from dmatrace.recording import Recording, reader

_EXTREME = st.sampled_from([-(1 << 63), -1, 0, 1, 1 << 62, (1 << 63) - 1])
_TIME = st.one_of(st.integers(0, 90), st.integers(0, 1 << 40), _EXTREME)
_PAIRS = st.lists(st.tuples(_TIME, _TIME), max_size=12)
_ROWS = st.lists(st.tuples(_TIME, _TIME, st.integers(0, 1 << 30)), max_size=12)
_BLOCKS = st.sampled_from([1, 2, 5, 1 << 18])


@pytest.fixture(autouse=True)
def _blocks_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test may set them; hypothesis calls it many times for one of these."""
    for module in (sweep, depth):
        monkeypatch.setattr(module, "BLOCK", sweep.BLOCK)


def _blocks(size: int) -> None:
    sweep.BLOCK = depth.BLOCK = size


@given(_PAIRS, _BLOCKS)
@settings(deadline=None)
def test_depth_is_the_plain_one(pairs: list[tuple[int, int]], size: int) -> None:
    _blocks(size)
    assert depth.depth(sweep.of(pairs)) == plain_depth.depth(pairs)


@given(_ROWS, _BLOCKS)
@settings(deadline=None)
def test_the_time_line_is_the_plain_one(rows: list[tuple[int, int, int]], size: int) -> None:
    _blocks(size)
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    found = depth.timeline(sweep.of(row[:2] for row in rows), *columns)
    assert found == plain_depth.timeline(rows)


@given(_PAIRS, _PAIRS, _BLOCKS)
@settings(deadline=None)
def test_overlap_is_the_plain_one(alloc: Any, io: Any, size: int) -> None:
    _blocks(size)
    found = overlap.overlapping(sweep.of(alloc), sweep.of(io))
    assert found == overlap.overlap(alloc, io)


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=9), _BLOCKS)
@settings(deadline=None)
def test_a_total_is_exact(values: list[int], size: int) -> None:
    _blocks(size)
    assert sweep.total(np.array(values, dtype=np.uint64)) == sum(values)


@pytest.mark.parametrize("name", ["six.dmt", "race.dmt"])
def test_a_table_read_by_parts_gives_the_same_document(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As tables of millions of rows are read; real recordings, of which each has its row groups."""
    path = Path(__file__).parents[1] / "data" / name
    expected = document(Recording.open(path))
    assert any(load["block"]["requests"] for load in expected["loads"])
    monkeypatch.setattr(reader, "_WHOLE", 0)
    assert document(Recording.open(path)) == expected


def test_parts_are_filtered_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(__file__).parents[1] / "data/six.dmt"
    all_of_it = Recording.open(path).part("requests", 2)
    middle = int(all_of_it["complete_ns"].median())
    where = (("op", "==", "read"), ("complete_ns", ">", middle))
    small = Recording.open(path).part("requests", 2, ("bytes", "kind"), where=where)
    assert 0 < len(small) < len(all_of_it)
    assert len(Recording.open(path).part("requests", 2, where=(("op", "==", "write"),))) == 0
    monkeypatch.setattr(reader, "_WHOLE", 0)
    for categories in (False, True):
        large = Recording.open(path).part(
            "requests", 2, ("bytes", "kind"), where=where, categories=categories
        )
        assert large.astype({"kind": object}).to_dict("list") == small.to_dict("list")
        assert (large["kind"].dtype.name == "category") == categories
