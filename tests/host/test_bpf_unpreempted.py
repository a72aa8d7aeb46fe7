"""Whose policy the thread has while a map is read, and afterwards."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from typing import Any

import pytest

from dmatrace.bpf import libbpf
from dmatrace.bpf.compiler import MapDefinition
from dmatrace.bpf.maps import Map
from dmatrace.bpf.unpreempted import Unpreempted
from dmatrace.errors import CannotHere


@pytest.fixture(autouse=True)
def policy() -> Iterator[None]:
    """This thread's is put back, whatever a test does."""
    before, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError as error:
        pytest.skip(f"needs root: {error}")
    os.sched_setscheduler(0, before, parameter)
    yield
    os.sched_setscheduler(0, before, parameter)


@pytest.mark.parametrize("usual", [os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE])
def test_first_in_and_its_own_again(usual: int) -> None:
    os.sched_setscheduler(0, usual, os.sched_param(0))
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    alone = Unpreempted(True)
    for _ in range(2):
        with alone:
            assert os.sched_getscheduler(0) == os.SCHED_FIFO
            assert os.sched_getparam(0).sched_priority == 1
        assert os.sched_getscheduler(0) == usual
        assert os.getpriority(os.PRIO_PROCESS, 0) == nice
    with pytest.raises(KeyError), alone:
        raise KeyError
    assert os.sched_getscheduler(0) == usual


def test_nothing_where_the_kernel_does_not_preempt() -> None:
    with Unpreempted(False):
        assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_who_is_in_real_time_stays() -> None:
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(7))
    with Unpreempted(True):
        assert os.sched_getscheduler(0) == os.SCHED_RR
    assert (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority) == (os.SCHED_RR, 7)


def test_where_it_is_refused_the_call_is_made_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def refuse(*arguments: Any) -> None:
        tried.append(arguments)
        raise PermissionError(1, "no")

    alone = Unpreempted(True)
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    for _ in range(2):
        with alone:
            pass
    monkeypatch.undo()
    assert len(tried) == 1


def test_every_call_on_a_map(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        table = Map(MapDefinition("test", 1, 4, 8, 16, 0))
    except (OSError, CannotHere) as error:
        pytest.skip(f"kernel lacks: {error}")
    table._alone = Unpreempted(True)
    real, policies = libbpf.library(), []

    class Library:
        def __getattr__(self, name: str) -> Any:
            def call(*arguments: Any) -> Any:
                policies.append((name, os.sched_getscheduler(0)))
                return getattr(real, name)(*arguments)

            return call

    monkeypatch.setattr(libbpf, "library", Library)
    table[1] = ctypes.c_uint64(2)
    assert table[1].value == 2
    assert [(key.value, leaf.value) for key, leaf in table.items()] == [(1, 2)]
    table.pop(1)
    table[1] = ctypes.c_uint64(2)
    del table[1]
    asked = {name for name, policy in policies if policy == os.SCHED_FIFO}
    assert asked == {name for name, _ in policies}
    assert asked == {
        f"bpf_map_{name}"
        for name in (
            "update_elem", "lookup_elem", "lookup_batch", "lookup_and_delete_elem", "delete_elem"
        )
    }  # fmt: skip
    table.close()
