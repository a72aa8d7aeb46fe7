"""Time adds up whatever threads do: random mixed workloads, generated from a seed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dmatrace.analysis import law
from dmatrace.recording import Recording
from tests.guest.lab import Lab, report

# Minutes of emulation each; `make test` has the rest.

SEED = 20251122
MOST = 32  # threads
SOURCES = Path(__file__).with_name("mixed")


@dataclass(frozen=True)
class Mixed:
    """A recording of mixed workloads, and what their threads say of themselves."""

    document: dict[str, Any]
    recording: Recording
    said: dict[int, dict[str, int]]


def run_mixed(lab: Lab, first: int, count: int) -> Mixed:
    """Record workloads ``first`` to ``first + count - 1``."""
    out, program = lab.fresh(f"mixed-{first}"), lab.program(*sorted(SOURCES.glob("*.c")))
    said = lab.must(
        "head -c 64M /dev/urandom >/data/mixed && sync"
        f" && PYTHONPATH=$PWD:$PWD/loaders python3 -P {SOURCES}/record.py {program} /data/mixed"
        f" {SEED} {first} {count} {MOST} {out}; code=$?; rm /data/mixed; exit $code"
    )
    found = {int(load): numbers for load, numbers in json.loads(said).items()}
    assert len(found) == count
    return Mixed(report(out), Recording.open(out), found)


@pytest.fixture(scope="module")
def mixed(lab: Lab) -> Mixed:
    """Forty of them."""
    return run_mixed(lab, 1, 40)


def check_time(found: Mixed) -> None:
    """Every thread's phases sum to its own clock, and nothing was lost on the way."""
    document = found.document
    assert [load["round"] for load in document["loads"]] == sorted(found.said)
    assert document["lost_events"] == 0
    broken = law.closure(document)
    assert broken == [], _windows(found, broken)
    for load in document["loads"]:
        assert not load["partial"]
        assert load["stack"]["overflows"] == 0
        assert 1 <= len(load["threads"]) <= MOST
        assert {thread["clock"] for thread in load["threads"]} == {"loader"}


def _windows(found: Mixed, broken: list[str]) -> list[dict[str, Any]]:
    """Of threads whose time does not add up, the tracer's marks and both clocks."""
    tids = {int(line.split(" thread ")[1].split(":")[0]) for line in broken}
    marks = found.recording.table("snapshots")
    marks = marks[marks["tid"].isin(tids) & marks["kind"].isin(("begin", "end"))]
    own = found.recording.table("threads")
    return [
        *marks.groupby(["tid", "kind"])["t_ns"].first().reset_index().to_dict("records"),
        *own[own["tid"].isin(tids)].to_dict("records"),
    ]


def missed(found: Mixed) -> int:
    """Calls that the kernel says its probes missed: 0 where it does not say (6.1)."""
    return found.document["lost"]["missed"] or 0


def check_exits(found: Mixed, out: Path) -> None:
    """Function exits that were not seen are said, and are calls that the kernel says it missed.

    An interrupt that comes while a program runs, and calls what that program is for, is one.
    """
    exits = sum(load["stack"]["lost_exits"] for load in found.document["loads"])
    text = subprocess.run(
        [sys.executable, "-m", "dmatrace", "report", str(out)],
        capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    assert f"function exits not seen: {exits};" in " ".join(text.split())
    print(f"exits not seen: {exits}, calls missed: {found.document['lost']['missed']}")
    assert exits <= missed(found)


def check_bytes(found: Mixed) -> None:
    """What calls returned to the threads is what the kernel's functions were seen to return.

    Where the report says that calls were missed, no more than those may be wanting.
    """
    total = {"read": 0, "direct": 0, "written": 0}
    wanting: dict[object, int] = {}
    for load in found.document["loads"]:
        said = found.said[load["load_id"]]
        direct = load["direct"]["direct_bytes"]
        # Of the file alone: what a thread reads of a memfd is from a file in memory.
        assert direct <= said["direct"], load["load_id"]
        if direct < said["direct"]:
            wanting[load["load_id"]] = said["direct"] - direct
        total = {name: total[name] + said[name] for name in total}
    counters = counted(found.recording)
    lost = found.document["lost"]
    print(f"direct reads not seen: {wanting}, lost: {lost}")
    for name, missing in (
        ("copy_read_bytes", total["read"] - counters["copy_read_bytes"]),
        ("copy_write_bytes", total["written"] - counters["copy_write_bytes"]),
    ):
        assert missing >= 0, name
        if missing:
            wanting[name] = missing
    assert len(wanting) <= missed(found), wanting
    assert all(total.values())


def counted(recording: Recording) -> dict[str, int]:
    """What was counted between marks, over all workloads."""
    rows = recording.table("counters")
    signed = rows["value"].where(rows["kind"] == "end", -rows["value"])
    marked = rows["kind"].isin(["begin", "end"])
    return {str(name): int(n) for name, n in signed[marked].groupby(rows["counter"]).sum().items()}


def test_time_adds_up(lab: Lab, mixed: Mixed) -> None:
    check_time(mixed)
    check_exits(mixed, lab.shared / "mixed-1.dmt")


def test_bytes_are_what_the_threads_were_given(mixed: Mixed) -> None:
    check_bytes(mixed)


def test_they_were_mixed(mixed: Mixed) -> None:
    """Threads were on a CPU, blocked and runnable, in most phases that need no module."""
    seen: dict[str, set[str]] = {}
    for load in mixed.document["loads"]:
        for thread in load["threads"]:
            for row in thread["phases"]:
                kinds = {kind for kind in ("cpu", "blocked", "runnable") if row[f"{kind}_ns"]}
                seen.setdefault(row["phase"], set()).update(kinds)
    assert set(seen) >= {
        "user", "syscall", "shmem", "fault", "gup", "page-cache", "readahead", "copy", "splice",
        "dio", "submit",
    }  # fmt: skip
    assert seen["syscall"] == {"cpu", "blocked", "runnable"}
    assert {len(load["threads"]) for load in mixed.document["loads"]} & set(range(17, MOST + 1))


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("first", range(1001, 2001, 250))
def test_a_thousand(lab: Lab, first: int) -> None:
    found = run_mixed(lab, first, 250)
    check_time(found)
    check_bytes(found)
    check_exits(found, lab.shared / f"mixed-{first}.dmt")
