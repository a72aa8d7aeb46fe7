"""A recording with sampled stacks, from its rows to its document and its text."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import pytest
import synthetic

from dmatrace.analysis import law
from dmatrace.analysis.document import document
from dmatrace.errors import DmatraceError
from dmatrace.export import htmltables
from dmatrace.recording import Recording, Writer
from dmatrace.report import json as as_json
from dmatrace.report import text

PROGRAMS = [
    {"name": "handle_mm_fault entry", "run_time_ns": 3_000_000, "run_cnt": 700, "missed": 0},
    {"name": "sys_enter", "run_time_ns": 1_200_000, "run_cnt": 300, "missed": 3},
]
OWNED = {"user": ("fault", "handle_mm_fault;clear_page_erms"), "copy": ("copy", "x;rep_movs")}


def recorded(path: Path, level: str, hz: int) -> dict[str, Any]:
    """dmabuf-bio of synthetic.py: 60 us of user and 540 us of copy on a CPU, 100 samples each."""
    cost = {**synthetic.META["self"], "programs": PROGRAMS}
    meta = {**synthetic.META, "detail": level, "sample_hz": hz, "self": cost}
    with Writer.create(path, meta) as writer:
        synthetic.write_load(writer, 1, "dmabuf-bio")
        rows = []
        for cell, (phase, functions) in OWNED.items():
            for number in range(100):
                hit = number < 40
                rows.append(
                    {
                        "t_ns": 1_000_000 + 8_000 * number,
                        "load_id": 1,
                        "tid": 100,
                        "cell": cell,
                        "phase": phase if hit else cell,
                        "functions": functions if hit else "",
                        "count": 1,
                    }
                )
        writer.append("samples", rows if hz else [])
    return document(Recording.open(path))


def phases(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    (load,) = found["loads"]
    (thread,) = load["threads"]
    return {row["phase"]: row for row in thread["phases"]}


def test_time_is_divided_and_adds_up(tmp_path: Path) -> None:
    found = recorded(tmp_path / "a.dmt", "sampled", 199)
    spent = phases(found)
    assert {name: row["cpu_ns"] for name, row in spent.items()} == {
        "user": 36_000, "fault": 24_000, "copy": 540_000,
    }  # fmt: skip
    for row in spent.values():
        assert row["count"] is None
        assert row["ci_ns"] > 0
    assert law.all_laws(found, {"dmabuf-bio": 1.0}) == []
    assert found["loads"][0]["samples"]["count"] == 200
    assert found["sample_hz"] == 199
    assert found["self"]["programs"] == PROGRAMS
    assert '"ci_ns"' in as_json.render(found)


def test_exact_time_is_left_alone_by_stacks(tmp_path: Path) -> None:
    with_stacks = recorded(tmp_path / "a.dmt", "exact", 199)
    assert phases(with_stacks) == phases(recorded(tmp_path / "b.dmt", "exact", 0))
    assert all("ci_ns" not in row for row in phases(with_stacks).values())
    assert with_stacks["loads"][0]["samples"]["count"] == 200


def test_without_stacks_nothing_is_said_of_them(tmp_path: Path) -> None:
    found = recorded(tmp_path / "a.dmt", "exact", 0)
    assert "samples" not in found["loads"][0]
    assert "sampled stacks" not in text.render(found)


@pytest.mark.parametrize("ascii_only", [False, True])
def test_the_text_shows_the_interval_the_functions_and_the_programs(
    tmp_path: Path, ascii_only: bool
) -> None:
    shown = text.render(recorded(tmp_path / "a.dmt", "sampled", 199), ascii_only=ascii_only)
    assert max(map(len, shown.splitlines())) < 80
    sign = "+-" if ascii_only else "±"
    (head,) = (line for line in shown.splitlines() if line.startswith("phase "))
    assert head.split() == ["phase", "time", "%", "cpu", sign, "blocked", "runnable"]
    shown = " ".join(shown.split())
    assert "200 samples: [user space] 60%, clear_page_erms 20%, rep_movs 20%" in shown
    assert "95 % interval" in shown
    assert "handle_mm_fault entry 3.00 ms in 700" in shown


def test_side_by_side_too(tmp_path: Path) -> None:
    found = recorded(tmp_path / "a.dmt", "sampled", 199)
    found["loads"].append({**found["loads"][0], "strategy": "anon-bio", "load_id": 2})
    shown = text.render(found)
    assert max(map(len, shown.splitlines())) < 80
    assert "90%±" not in shown  # copy: 540 us of 900
    assert "%±" in shown


def test_programs_that_missed_calls_are_named_the_worst_first(tmp_path: Path) -> None:
    programs = [{**PROGRAMS[0], "missed": n, "name": f"program {n}"} for n in (0, 3, 7)]
    meta = {
        **synthetic.META,
        "lost": {"ring": 0, "threads": 0, "missed": 10},
        "self": {**synthetic.META["self"], "programs": programs},
    }
    with Writer.create(tmp_path / "a.dmt", meta) as writer:
        synthetic.write_load(writer, 1, "dmabuf-bio")
    found = document(Recording.open(tmp_path / "a.dmt"))
    said = " ".join(text.render(found).split())
    assert "any task of the machine: 10 (program 7 7, program 3 3);" in said
    page = html.unescape("".join(htmltables.hidden(found)))
    assert "any task of the machine: 10 (program 7 7, program 3 3);" in page
    assert "Most of BPF: program 0 3.00 ms in 700," in page


@pytest.mark.parametrize("missed", ["x", None, [1], 1.5])
def test_what_no_recorder_says_of_a_program_is_damage(tmp_path: Path, missed: Any) -> None:
    cost = {**synthetic.META["self"], "programs": [{**PROGRAMS[0], "missed": missed}]}
    with Writer.create(tmp_path / "a.dmt", {**synthetic.META, "self": cost}) as writer:
        synthetic.write_load(writer, 1, "dmabuf-bio")
    with pytest.raises(DmatraceError, match="self is not the recorder's own cost"):
        Recording.open(tmp_path / "a.dmt")
