"""Readahead page by page, against a model that moves one page at a time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmatrace.analysis.readahead import PAGE, readahead


def run(kind: str, start: int, end: int, since: int, until: int | None = None) -> dict[str, Any]:
    """A run of pages [start, end)."""
    return {
        "kind": kind, "start": start * PAGE, "end": end * PAGE, "since_ns": since,
        "until_ns": since if until is None else until,
    }  # fmt: skip


def test_half_a_file_read() -> None:
    found = readahead([run("readahead", 0, 64, 1), run("read", 0, 32, 2)])
    assert found == {
        "added": 64 * PAGE, "used": 32 * PAGE, "mapped": 0, "unread": 32 * PAGE,
    }  # fmt: skip


def test_a_part_of_a_page_uses_it() -> None:
    short = {**run("read", 0, 0, 2), "start": PAGE - 1, "end": PAGE + 1}
    assert readahead([run("readahead", 0, 4, 1), short])["used"] == 2 * PAGE


def test_what_was_brought_twice_and_read_once_was_wasted_once() -> None:
    runs = [run("readahead", 0, 8, 1), run("readahead", 0, 8, 5), run("read", 0, 8, 6)]
    assert readahead(runs) == {
        "added": 16 * PAGE, "used": 8 * PAGE, "mapped": 0, "unread": 8 * PAGE,
    }  # fmt: skip


def test_a_long_read_uses_what_came_during_it() -> None:
    """Its run begins before the readahead's, and ends after it."""
    runs = [run("read", 0, 100, 1, 50), run("readahead", 50, 60, 20, 21)]
    assert readahead(runs)["used"] == 10 * PAGE


def test_mapped_around_a_fault_is_neither() -> None:
    runs = [run("readahead", 0, 32, 1), run("mapped", 0, 16, 3), run("read", 5, 6, 3)]
    assert readahead(runs) == {
        "added": 32 * PAGE, "used": PAGE, "mapped": 15 * PAGE, "unread": 16 * PAGE,
    }  # fmt: skip


@pytest.mark.parametrize("runs", [[], [run("read", 0, 8, 1)], [run("mapped", 0, 8, 1)]])
def test_no_readahead(runs: list[dict[str, Any]]) -> None:
    assert set(readahead(runs).values()) == {0}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["readahead", "read", "mapped"]), st.integers(0, 40), st.integers(1, 20)
        ),
        max_size=30,
    )
)
@settings(deadline=None)
def test_as_page_by_page(steps: list[tuple[str, int, int]]) -> None:
    runs = [run(kind, at, at + size, t) for t, (kind, at, size) in enumerate(steps)]
    state: dict[int, str] = {}
    done: list[str] = []
    for kind, at, size in steps:
        for page in range(at, at + size):
            if kind == "readahead":
                if page in state:
                    done.append(state[page])
                state[page] = "unread"
            elif page in state and kind == "read":
                state[page] = "used"
            elif state.get(page) == "unread":
                state[page] = "mapped"
    done += state.values()
    expected = {name: done.count(name) * PAGE for name in ("used", "mapped", "unread")}
    assert readahead(runs) == {"added": len(done) * PAGE, **expected}
