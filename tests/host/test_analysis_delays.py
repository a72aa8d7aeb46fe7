"""The kernel's delay accounts: per thread, summed, and without what cannot be."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dmatrace.analysis import delays
from dmatrace.recording.schema import TABLES


def _table(*rows: dict[str, Any]) -> pd.DataFrame:
    columns = {column.name: column.default for column in TABLES["delays"]}
    return pd.DataFrame([columns | row for row in rows], columns=list(columns))


def _row(tid: int, full: int, cpu: int, blkio: int) -> dict[str, Any]:
    return {
        "load_id": 1, "tid": tid, "tgid": 10, "full": full, "cpu_count": 1, "cpu_ns": cpu,
        "blkio_count": 2, "blkio_ns": blkio,
    }  # fmt: skip


def test_by_thread() -> None:
    table = _table(_row(10, 1, 5, 50), _row(11, 0, 7, 0), _row(10, 1, 1, 4))
    found = delays.by_thread(table, ["cpu", "blkio"])
    assert found == {
        (1, 10): {"full": True, "cpu": {"count": 2, "ns": 6}, "blkio": {"count": 4, "ns": 54}},
        # What is not known is not 0.
        (1, 11): {"full": False, "cpu": {"count": 1, "ns": 7}},
    }
    summed = delays.total([{"delays": one} for one in found.values()] + [{"delays": None}])
    assert summed == {"full": False, "cpu": {"count": 3, "ns": 13}}
    assert delays.total([{"delays": None}]) is None
    assert delays.by_thread(_table(), ["cpu"]) == {}


def test_a_delay_longer_than_the_thread_lived_is_none() -> None:
    table = _table(_row(10, 1, 5, 81_376_851_737))
    (found,) = delays.by_thread(table, ["cpu", "blkio"]).values()
    assert delays.possible(found, 100_000_000_000) == found
    possible = delays.possible(found, 246_056_069)
    assert possible == {"full": True, "cpu": {"count": 1, "ns": 5}, "impossible": ["blkio"]}
    assert delays.total([{"delays": possible}]) == possible
    assert delays.possible(None, 1) is None
