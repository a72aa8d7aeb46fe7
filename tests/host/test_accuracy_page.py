"""docs/ACCURACY.md: what is compared, what is not, and that no gap goes unsaid."""

from __future__ import annotations

from typing import Any

import pytest

from dmatrace.analysis.columns import TABLES
from tests.accuracy.kept import kept, restore
from tests.accuracy.oracle import fitting
from tests.accuracy.page import Table, rendered
from tests.accuracy.row import Lacks, Missed, Row, lost
from tests.guest.watched import ORACLE

KERNELS = {"1.0": "1.0-test", "2.0": "2.0-test"}


def _row(ours: float = 100, theirs: float = 100, **more: Any) -> Row:
    return Row("memory.shmem", "a load, cold", "st_blocks", "bytes", ours, theirs, **more)


def _table(*said: tuple[str, Row | Lacks]) -> Table:
    table = Table(["Loads"], releases=dict(KERNELS))
    part = table.part("Loads")
    for kernel, one in said:
        part.add(kernel, one)
    part.ended |= set(KERNELS)
    return table


@pytest.mark.parametrize(
    ("row", "good", "tolerance"),
    [
        (_row(), True, "equal"),
        (_row(99), False, "equal"),
        (_row(99, within=0.01), True, "1 %"),
        (_row(98, within=0.01), False, "1 %"),
        (_row(98, within=0.01, floor=2), True, "1 % or 2 bytes"),
        (_row(0, 0), True, "equal"),
        (_row(1, 0, within=0.01), False, "1 %"),
    ],
)
def test_a_row(row: Row, good: bool, tolerance: str) -> None:
    assert (row.good, row.tolerance) == (good, tolerance)


def test_rows_that_are_within_their_tolerance() -> None:
    table = _table(("1.0", _row()), ("2.0", _row(101, within=0.01)))
    assert table.bad() == []
    text = rendered(table)
    assert "2 of 2 are within their tolerance" in text
    assert "| `memory.shmem` | a load, cold | st_blocks | equal | equal | +1.000 % |" in text
    assert "1.0 is 1.0-test; 2.0 is 2.0-test" in text


def test_a_time_that_is_measured_again_is_said() -> None:
    """Its second value counts, good or bad; what is no time has one try."""

    def took(ours: float) -> Row:
        return Row("wall_ns", "a load", "the clock", "ns", ours, 100, within=0.02)

    table = _table(("1.0", took(110)), ("2.0", took(100)), ("1.0", _row(102)))
    part = table.part("Loads")
    late = part.late("1.0")
    assert late == {("wall_ns", "a load", "the clock")}
    assert part.late("2.0") == set()
    for row in (took(101), _row(100)):
        part.remeasured("1.0", row, late)
    assert part.late("1.0") == set()
    assert any("memory.shmem 102" in line for line in table.bad())
    text = rendered(table)
    assert "| +1.000 % | equal |" in text
    assert "- 1.0: `wall_ns` of a load: measured again, was +10.000 % by the clock" in text


def test_a_run_that_was_interrupted_goes_on() -> None:
    table = _table(("1.0", _row()), ("2.0", _row(102)), ("2.0", Missed("", "3 calls")))
    table.part("Loads").ended.discard("1.0")
    other = Table(["Loads"])
    restore(other, kept(table))
    assert other.releases == KERNELS
    part = other.part("Loads")
    assert part.ended == {"2.0"}
    assert other.bad() == ["2.0: a load, cold: memory.shmem 102, 100 by st_blocks"]
    assert part.lacks == {"2.0": [Missed("", "3 calls")]}
    part.forget("2.0")
    assert (part.rows, part.lacks) == ({}, {})
    nothing = Table(["Memory"])
    restore(nothing, kept(table))
    assert nothing.parts == {}


def test_a_row_outside_of_its_tolerance_is_said_and_fails() -> None:
    table = _table(("1.0", _row()), ("2.0", _row(102)))
    (bad,) = table.bad()
    assert bad == "2.0: a load, cold: memory.shmem 102, 100 by st_blocks"
    text = rendered(table)
    assert "1 of 2 are within" in text
    assert "| equal | +2.000 % **no** |" in text
    # The figure's own line shows the worst.
    assert "| `memory.shmem` | 2 | equal | +2.000 % **no** |" in text


def test_something_where_there_is_nothing_is_no_percentage() -> None:
    text = rendered(_table(("1.0", _row(5, 0)), ("2.0", _row(0, 0))))
    assert "| 5 bytes and not 0 **no** | equal |" in text
    assert "inf" not in text


def test_a_row_that_a_kernel_does_not_have_needs_a_reason() -> None:
    gap = _table(("1.0", _row()))
    assert gap.bad() == ["Loads: 2.0: no row for memory.shmem of a load, cold, and no reason"]
    told = _table(("1.0", _row()), ("2.0", Lacks("a load,", "no /dev/udmabuf")))
    assert told.bad() == []
    text = rendered(told)
    assert "| equal | - |" in text
    assert "- 2.0: a load: no /dev/udmabuf" in text


def test_a_reason_is_for_its_workload_and_figure_alone() -> None:
    for other in (Lacks("b", "why"), Lacks("a load", "why", "memory.page_cache")):
        assert len(_table(("1.0", _row()), ("2.0", other)).bad()) == 1
    assert _table(("1.0", _row()), ("2.0", Lacks("a load", "why", "memory"))).bad() == []


def test_missed_calls_are_told_and_excuse_nothing() -> None:
    said = list(lost("a load", {"lost_events": 0, "lost": {"missed": 7}}))
    table = _table(("1.0", _row()), *(("2.0", one) for one in said), ("1.0", said[0]))
    assert len(table.bad()) == 1
    assert "- 2.0: a load: probes missed 7 calls of all processes" in rendered(table)
    assert len(list(lost("a load", {"lost_events": 0, "lost": {"missed": None}}))) == 1


def test_two_kernels_that_lack_the_same_share_a_line() -> None:
    text = rendered(_table(("1.0", Lacks("x", "no xfs")), ("2.0", Lacks("x", "no xfs"))))
    assert "- 1.0, 2.0: x: no xfs" in text


def test_a_section_that_did_not_end_is_said_once() -> None:
    table = _table(("1.0", _row()))
    table.parts["Loads"].ended.remove("2.0")
    table.failed.append("2.0: Loads did not run to its end: boom")
    assert table.bad() == ["2.0: Loads did not run to its end: boom"]
    assert "- **2.0: Loads did not run to its end: boom**" in rendered(table)


def test_a_row_is_said_once() -> None:
    with pytest.raises(ValueError, match="two rows"):
        _table(("1.0", _row()), ("1.0", _row()))


def test_figures_without_a_row_are_named() -> None:
    """Every column of loads with a unit is in a row or in that list."""
    last = rendered(_table(("1.0", _row()), ("2.0", _row()))).splitlines()[-1]
    named = {name.strip("`") for name in last.split(", ")}
    counted = {column.name for column in TABLES["loads"].columns if column.unit and column.at}
    assert named == counted - {"shmem"}


def test_the_oracle_without_what_a_kernel_lacks() -> None:
    text = ORACLE.read_text()
    known = {
        word.removesuffix(",").partition(" ")[0].partition(":")[2]
        for line in text.splitlines()
        if line.startswith(("kprobe:", "kretprobe:", "tracepoint:"))
        for word in [line]
    } | {"rawtracepoint:iomap_dio_complete"}
    assert fitting(text, known, module=False) == text
    less = fitting(text, known - {"memfd_pin_folios", "copy_splice_read"}, module=False)
    assert "memfd_pin_folios" not in less
    assert "kprobe:filemap_splice_read,\nkprobe:iter_file_splice_write" in less
    assert "@pinned_memfd" not in less
    assert "@pinned[@load[tid]]" in less
    assert less.count("{") == less.count("}")
    # Where no tracepoint says it, the function does.
    old = fitting(text, known - {"rawtracepoint:iomap_dio_complete"}, module=False)
    assert "@direct[@load[tid]] = sum((int64)retval)" in old
    assert "rawtracepoint" not in old


def test_a_map_that_nobody_fills_is_not_cleared() -> None:
    """To bpftrace it is undefined."""
    text = ORACLE.read_text()
    assert "clear(@since);" in fitting(text, {"io_wq_submit_work"}, module=False)
    none = fitting(text, set(), module=False)
    assert "clear(@since);" not in none
    assert none.rstrip().endswith("}")


def test_a_read_into_a_pipe_is_no_copy_where_it_has_an_iterator_of_its_own() -> None:
    """Before v6.5, which has filemap_splice_read() instead; bpftrace takes one END."""
    text = ORACLE.read_text()
    assert "@pipe" not in fitting(text, {"filemap_read", "filemap_splice_read"}, module=False)
    old = fitting(text, {"filemap_read"}, module=False)
    assert "&& @pipe[tid] == 0/ {\n\t@copied[" in old
    assert "&& @pipe[tid]/ {\n\t@spliced[" in old
    assert "END {\n\tclear(@pipe);\n" in old
    assert old.count("END {") == 1


def test_the_module_s_functions_are_there_once_it_is_loaded() -> None:
    text = ORACLE.read_text()
    assert "dmatrace_loader_read" in fitting(text, set(), module=True)
    assert "dmatrace_loader_read" not in fitting(text, set(), module=False)
