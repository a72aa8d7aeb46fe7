"""Cpu time divided by samples: sums stay, and intervals hold what they say."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmatrace.analysis import samples
from dmatrace.analysis.time import Key, Span
from dmatrace.phases import PHASES


def row(
    phase: str, cpu: int, blocked: int = 0, runnable: int = 0, count: int = 1
) -> dict[str, Any]:
    return {
        "phase": phase,
        "cpu_ns": cpu,
        "blocked_ns": blocked,
        "runnable_ns": runnable,
        "count": count,
    }


def test_a_cell_is_divided_as_its_samples_are() -> None:
    rows = [row("gup", 1000, 7, 5, count=3), row("submit", 400, count=9)]
    found = samples.divide(rows, {"gup": Counter(shmem=60, fault=30, gup=10)})
    by_name = {each["phase"]: each for each in found}
    assert {name: each["cpu_ns"] for name, each in by_name.items()} == {
        "shmem": 600, "fault": 300, "gup": 100, "submit": 400,
    }  # fmt: skip
    assert (by_name["gup"]["blocked_ns"], by_name["gup"]["runnable_ns"]) == (7, 5)
    assert by_name["submit"] == row("submit", 400, count=9)
    for name, k in (("shmem", 60), ("fault", 30), ("gup", 10)):
        assert by_name[name]["count"] is None
        assert by_name[name]["ci_ns"] == pytest.approx(1000 * samples.reach(k, 100), abs=1)


def test_a_cell_without_samples_is_its_own_and_nothing_is_known_of_it() -> None:
    (found,) = samples.divide([row("user", 500)], {})
    assert found == {**row("user", 500), "count": None, "ci_ns": 500}


def test_a_phase_with_no_hook_left_out_inside_is_exact_unless_a_sample_says_otherwise() -> None:
    own = {"heap-alloc": Counter({"heap-alloc": 50})}
    assert samples.divide([row("heap-alloc", 500)], own) == [row("heap-alloc", 500)]
    other = {"heap-alloc": Counter({"heap-alloc": 49, "fault": 1})}
    assert [each["count"] for each in samples.divide([row("heap-alloc", 500)], other)] == [None] * 2


def test_parts_of_a_phase_from_two_cells_err_independently() -> None:
    rows = [row("gup", 1000), row("copy", 1000)]
    tally = {"gup": Counter(fault=50, gup=50), "copy": Counter(fault=50, copy=50)}
    fault = next(each for each in samples.divide(rows, tally) if each["phase"] == "fault")
    assert fault["cpu_ns"] == 1000
    assert fault["ci_ns"] == pytest.approx(1000 * samples.reach(50, 100) * 2**0.5, abs=1)


PHASE = st.sampled_from(PHASES)


@given(
    st.dictionaries(PHASE, st.tuples(*[st.integers(0, 10**12)] * 4), max_size=6),
    st.dictionaries(PHASE, st.dictionaries(PHASE, st.integers(1, 10**4), max_size=5), max_size=6),
)
def test_sums_stay(cells: dict[str, tuple[int, ...]], tally: dict[str, dict[str, int]]) -> None:
    rows = [row(phase, *values) for phase, values in cells.items()]
    counted = {cell: Counter(phases) for cell, phases in tally.items()}
    found = samples.divide(rows, counted)
    for kind in ("cpu_ns", "blocked_ns", "runnable_ns"):
        assert sum(each[kind] for each in found) == sum(each[kind] for each in rows)
        assert all(each[kind] >= 0 for each in found)
    for each in found:
        assert (each["count"] is None) is ("ci_ns" in each)
    assert len({each["phase"] for each in found}) == len(found)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("n", [20, 150, 1000])
def test_the_interval_holds_the_truth_as_often_as_it_says(share: float, n: int) -> None:
    """By simulation of the binomial itself; 4 standard errors of 2,000 tries below 95 %."""
    chance = random.Random(20)
    held = 0
    for _ in range(2000):
        k = (
            chance.binomialvariate(n, share)
            if hasattr(chance, "binomialvariate")
            else sum(chance.random() < share for _ in range(n))
        )
        held += abs(k / n - share) <= samples.reach(k, n)
    assert held / 2000 >= 0.95 - 4 * (0.95 * 0.05 / 2000) ** 0.5


def span(tid: int, first: int, last: int) -> Span:
    return Span(Key(1, tid, first, 0, "begin"), Key(1, tid, last, 0, "end"), 1, "x", True, True)


FRAME = pd.DataFrame(
    [
        (10, 1, 7, "gup", "shmem", "do_syscall_64;gup;clear_page_erms", 1),
        (20, 1, 7, "gup", "gup", "do_syscall_64;gup", 1),
        (31, 1, 7, "user", "user", "", 1),
        (15, 1, 8, "user", "user", "", 1),
    ],
    columns=["t_ns", "load_id", "tid", "cell", "phase", "functions", "count"],
)


def test_samples_belong_to_the_span_of_their_thread_and_time() -> None:
    mine, later = span(7, 10, 20), span(7, 30, 40)
    found = samples.tallies([mine, later, span(9, 0, 99)], FRAME)
    assert found[mine] == {"gup": {"shmem": 1, "gup": 1}}
    assert found[later] == {"user": {"user": 1}}
    assert samples.together(found.values()) == {"gup": {"shmem": 1, "gup": 1}, "user": {"user": 1}}


def test_the_innermost_functions_are_counted() -> None:
    found = samples.functions([span(7, 10, 40)], FRAME)
    assert found["count"] == 3
    assert {"function": "clear_page_erms", "phase": "shmem", "count": 1} in found["functions"]
    assert {"function": "", "phase": "user", "count": 1} in found["functions"]
