"""Counts of files' page cache: the sums of those that came back, and a map of this kernel's."""

from __future__ import annotations

import ctypes

import pytest

from dmatrace.bpf import layout
from dmatrace.bpf.compiler import MapDefinition
from dmatrace.bpf.maps import Map
from dmatrace.errors import CannotHere
from dmatrace.session import pagecounts
from dmatrace.session.pagecounts import PageCounts, gone
from tests.host.page_table import PageTable

KEY = (3, 12)
HASH = 1
UNLINK = layout.REMOVALS.index("unlink")


def _by(**amounts: int) -> tuple[int, ...]:
    return (*(amounts.get(how, 0) for how in layout.REMOVALS), 0)


def _values(pages: layout.FilePages | None) -> dict[str, object]:
    assert pages is not None
    names = [name for name, *_ in pages._fields_]
    found = {name: getattr(pages, name) for name in names}
    return {name: list(v) if isinstance(v, ctypes.Array) else v for name, v in found.items()}


def test_a_kernel_s_map() -> None:
    sizes = ctypes.sizeof(layout.FileKey), ctypes.sizeof(layout.FilePages)
    try:
        table = Map(MapDefinition("files", HASH, *sizes, 16, 0))
    except (OSError, CannotHere) as error:
        pytest.skip(f"kernel lacks: {error}")
    counts = PageCounts(table)
    counts.reset(*KEY)
    assert counts.live().keys() == counts.every().keys() == {KEY}
    key = table.Key.from_buffer_copy(layout.FileKey(ino=KEY[1], dev=KEY[0]))
    table[key] = layout.FilePages(added=5, removed=5, by=_by(unlink=5))
    assert counts.retire(*KEY)
    assert list(table.keys()) == []
    assert (counts.live(), counts.every().keys()) == ({}, {KEY})
    found = counts.file(*KEY)
    assert found is not None
    assert (found.added, found.by[UNLINK]) == (5, 5)
    assert counts.retire(*KEY)  # nothing more is there
    assert _values(counts.file(*KEY)) == _values(found)
    table.close()


def test_every_member_is_summed() -> None:
    """What came after adds to what was; the peak is over all of it."""
    table = PageTable()
    counts = PageCounts(table)
    first = {name: 10 * n for n, (name, *_) in enumerate(layout.FilePages._fields_, 1)}
    first |= {"by": tuple(range(8)), "self_by": tuple(range(8, 16)), "added": 50, "removed": 30}
    first |= {"peak": 40, "shmem": 1}
    table.counts[KEY] = layout.FilePages(**first)
    assert counts.retire(*KEY)
    second = {name: 1000 * n for n, (name, *_) in enumerate(layout.FilePages._fields_, 1)}
    second |= {"by": (100,) * 8, "self_by": (200,) * 8, "peak": 25, "shmem": 0}
    table.counts[KEY] = layout.FilePages(**second)
    summed = {name: first[name] + second[name] for name in first if name not in ("by", "self_by")}
    summed |= {"by": [100 + n for n in range(8)], "self_by": [208 + n for n in range(8)]}
    summed |= {"peak": 50 - 30 + 25, "shmem": 1}
    assert _values(counts.file(*KEY)) == _values(counts.live()[KEY]) == summed
    counts.reset(*KEY)
    assert not any(bytes(counts.live()[KEY]))
    counts.forget_retired()
    assert counts.every().keys() == {KEY}


def test_no_room_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagecounts, "RETIRED_MAX", 2)
    table = PageTable()
    counts = PageCounts(table)
    for ino in range(3):
        table.counts[1, ino] = layout.FilePages(added=1)
    assert [counts.retire(1, ino) for ino in range(3)] == [True, True, False]
    assert set(table.counts) == {(1, 2)}
    assert counts.every().keys() == {(1, 0), (1, 1), (1, 2)}


def test_nothing_is_traced() -> None:
    counts = PageCounts(None)
    counts.reset(*KEY)
    assert (counts.traced, counts.live(), counts.every(), counts.file(*KEY)) == (
        False,
        {},
        {},
        None,
    )
    assert not counts.retire(*KEY)


@pytest.mark.parametrize(
    ("pages", "base", "expected"),
    [
        ({"added": 5, "removed": 5, "by": _by(unlink=5)}, 0, True),
        ({"added": 5, "removed": 5, "by": _by(unlink=5)}, 1, False),
        ({"added": 5, "removed": 6, "by": _by(unlink=6)}, 1, True),
        ({"added": 5, "removed": 5, "by": _by(truncate=5)}, 0, False),
        ({"added": 5, "removed": 4, "by": _by(unlink=4)}, 0, False),
        ({}, 0, False),
    ],
)
def test_gone(pages: dict[str, int], base: int, expected: bool) -> None:
    assert gone(layout.FilePages(**pages), base) is expected
