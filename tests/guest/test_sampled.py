"""The two levels of detail, held against each other, the laws, and the bytes that are known."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any

import pytest

from dmatrace.analysis import law, samples
from dmatrace.analysis.time import spans
from dmatrace.bpf import stacks
from dmatrace.detail import Detail
from dmatrace.recording import Recording
from dmatrace_loaders.table import strategies
from tests.guest.lab import Lab
from tests.guest.watched import SIZE

# Minutes of emulation each; `make test` has the rest.

# Of different families: heap, anonymous memory, memfd by reads, by writes and by direct I/O,
# udmabuf, a mapped file, a pipe.
STRATEGIES = (
    "dmabuf-bio",
    "anon-bio",
    "memfd-bio",
    "memfd-rw-bio",
    "memfd-dio",
    "udmabuf-dio",
    "filemap-bio",
    "udmabuf-sendfile-bio",
)
ROUNDS = 3
HZ = 997  # loads of SIZE bytes take tenths of a second
PREDICTED = {name: strategy.copies for name, strategy in strategies().items()}
LEFT_OUT = stacks.left_out(Detail("sampled", HZ))
T_999 = 8.610  # two-sided 99.9 % of Student's t with 2 * (ROUNDS - 1) = 4 degrees of freedom


@dataclass(frozen=True)
class Both:
    """The same loads in both levels; the exact recording has stacks as well."""

    exact: dict[str, Any]
    sampled: dict[str, Any]
    stacks: Recording


@pytest.fixture(scope="module")
def both(lab: Lab, model: str) -> Both:
    options = ("--strategy", ",".join(STRATEGIES), "--file", model, "--rounds", str(ROUNDS))
    options += ("--raise-limits", "--sample", str(HZ), "-q")
    exact = lab.record("detail-exact", *options, "--detail", "exact")
    sampled = lab.record("detail-sampled", *options, "--detail", "sampled")
    return Both(exact, sampled, Recording.open(lab.shared / "detail-exact.dmt"))


@pytest.fixture(params=["exact", "sampled"])
def document(both: Both, request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = getattr(both, request.param)
    return found


def test_the_laws_hold_in_both(document: dict[str, Any]) -> None:
    """Sampling divides exact time, so the sums close; bytes are counted by calls in both."""
    assert [load["strategy"] for load in document["loads"]] == [*STRATEGIES] * ROUNDS
    assert all(load["verified"] for load in document["loads"])
    assert document["lost_events"] == 0
    for broken in (
        law.closure(document),
        law.page_cache(document),
        law.block_bytes(document),
        law.copies(document, PREDICTED),
        law.cachestat(document),
    ):
        assert broken == []


def test_shmem_bytes_are_those_of_the_files(document: dict[str, Any]) -> None:
    """Counted folio by folio, or taken from the memfd's own blocks."""
    for load in document["loads"]:
        held = load["strategy"].startswith(("memfd", "udmabuf"))
        assert load["memory"]["shmem"] == pytest.approx(SIZE if held else 0, abs=1 << 20)


def test_what_was_divided_says_so(both: Both) -> None:
    for load in both.exact["loads"]:
        for thread in load["threads"]:
            assert all("ci_ns" not in row for row in thread["phases"])
    for load in both.sampled["loads"]:
        rows = [row for thread in load["threads"] for row in thread["phases"]]
        assert any("ci_ns" in row for row in rows)
        for row in rows:
            assert (row["count"] is None) is ("ci_ns" in row)
            assert row["phase"] not in ("page-cache", "readahead") or row["count"], row


def test_left_out_hooks_are_said_to_be_seen_by_samples(both: Both) -> None:
    said = {hook["name"]: hook for hook in both.sampled["hooks"]}
    for name in LEFT_OUT:
        assert (said[name]["attached"], said[name]["hides"]) == ("samples", None)
    assert all(hook["attached"] != "samples" for hook in both.exact["hooks"])
    programs = {program["name"] for program in both.sampled["self"]["programs"]}
    assert "handle_mm_fault entry" not in programs
    assert "cpu-clock samples" in programs


def test_stacks_say_what_the_phase_stack_says(both: Both) -> None:
    """Sample by sample, in one recording: no load differs from another here.

    Apart are moments in the hooks' own programs and trampolines, which are outside
    the exact boundaries and inside the function, or the other way round.
    """
    table = both.stacks.table("samples")
    found = spans(both.stacks.table("snapshots"))
    tallied = samples.together(
        samples.tallies([span for span in found if span.first.load_id > 0], table).values()
    )
    total = sum(each.total() for each in tallied.values())
    agree = sum(each[cell] for cell, each in tallied.items())
    assert total > 1000
    assert agree / total > 0.85, tallied
    for phase in ("shmem", "release", "readahead", "submit", "map"):
        seen = tallied[phase]
        assert seen[phase] > 0.9 * seen.total(), (phase, seen)
    # What the hooks of single pages cost before they charge is their parent's time.
    for phase in ("fault", "copy", "user"):
        seen = tallied[phase]
        assert seen[phase] > 0.7 * seen.total(), (phase, seen)


def test_what_no_probe_reaches_is_seen(both: Both) -> None:
    """Copying in lib/ and the zeroing of pages, by the architecture's names for them."""
    inner: Counter[str] = Counter()
    for load in both.sampled["loads"]:
        for row in load["samples"]["functions"]:
            inner[row["function"]] += row["count"]
    assert any(name.startswith("clear_page") for name in inner), inner
    assert any(name.startswith(("rep_movs", "copy_", "_copy_", "memcpy")) for name in inner), inner


def test_as_many_samples_as_the_clock_ticked(both: Both) -> None:
    """Fewer where the host takes the CPU away: the guest's clock goes on, ticks are left out."""
    for load in both.sampled["loads"]:
        cpu = sum(row["cpu_ns"] for thread in load["threads"] for row in thread["phases"])
        expected = cpu * HZ / 1e9
        assert 0.1 * expected - 12 < load["samples"]["count"] < 1.15 * expected + 12, load


Shares = dict[tuple[str, str], list[tuple[float, float]]]


def _shares(document: dict[str, Any]) -> Shares:
    """{(strategy, phase): [(share of the time on a CPU, its standard error) a round]}."""
    found: Shares = defaultdict(list)
    phases = sorted({row["phase"] for row in _rows(document["loads"])})
    for load in document["loads"]:
        spent: Counter[str] = Counter()
        squares: Counter[str] = Counter()
        for row in _rows([load]):
            spent[row["phase"]] += row["cpu_ns"]
            squares[row["phase"]] += row.get("ci_ns", 0) ** 2
        for phase in phases:
            error = math.sqrt(squares[phase]) / samples.Z
            found[load["strategy"], phase].append(
                (spent[phase] / spent.total(), error / spent.total())
            )
    return found


def _rows(loads: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for load in loads for thread in load["threads"] for row in thread["phases"]]


@pytest.mark.long
def test_both_levels_agree_within_the_interval(both: Both) -> None:
    """The mean share of each divided phase, over rounds; 3 of all may be outside 99.9 %.

    The standard error of the difference has what the samples state, and how much shares
    differ from round to round in either recording, which a busy host makes wide.  With
    some 30 pairs, 0.03 are expected outside; more than 3 by chance once in ten million.
    """
    exact, sampled = _shares(both.exact), _shares(both.sampled)
    apart, compared = [], 0
    for key, ours in sampled.items():
        theirs = exact.get(key, [(0.0, 0.0)] * ROUNDS)
        mine, mean = fmean(share for share, _ in ours), fmean(share for share, _ in theirs)
        if max(mine, mean) < 0.02 or not any(error for _, error in ours):
            continue
        stated = sum(error**2 for _, error in ours) / ROUNDS**2
        between = sum(variance([share for share, _ in each]) for each in (ours, theirs)) / ROUNDS
        allowed = T_999 * math.sqrt(stated + between)
        compared += 1
        if abs(mine - mean) > allowed:
            apart.append((*key, round(mine, 3), round(mean, 3), round(allowed, 3)))
    assert compared > 15
    assert len(apart) <= 3, apart
