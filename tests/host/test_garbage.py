"""Cycles are found less often, and as before afterwards."""

from __future__ import annotations

import gc
import weakref

import pytest

from dmatrace.garbage import seldom


class Loop:
    def __init__(self) -> None:
        self.own = self


def test_seldom_and_as_before_afterwards() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with seldom():
        assert gc.get_freeze_count() > frozen
        assert all(now >= then for now, then in zip(gc.get_threshold(), before, strict=True))
        assert gc.get_threshold()[0] > before[0]
    assert gc.get_threshold() == before
    with pytest.raises(KeyError), seldom():
        raise KeyError
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_cycles_do_not_pile_up() -> None:
    """Of many that nobody has any more, most are gone by themselves."""
    with seldom():
        left = [weakref.ref(Loop()) for _ in range(200_000)]
        there = sum(one() is not None for one in left)
    assert there < 100_000
