"""How a tracer reads a target that writes faster than rows are made."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from dmatrace.session import tracer
from dmatrace.session.tracer import Tracer


class _Ring:
    """Records by number; two more come at each look."""

    def __init__(self, waiting: int) -> None:
        self.waiting, self.written = waiting, 0

    def consume(self) -> list[bytes]:
        found = [bytes(4)] * self.waiting
        self.written += self.waiting
        self.waiting = 2
        return found


def _reading(ring: _Ring) -> tuple[Tracer, list[bytes]]:
    """A tracer with nothing but a ring, and what it made rows of."""
    made: list[bytes] = []
    found: Any = Tracer.__new__(Tracer)
    found.program = type("Program", (), {"events": ring})
    found._pending, found._fetched = deque(), 0
    found._record = made.append
    return found, made


def test_a_look_without_end_reads_what_was_there() -> None:
    reading, made = _reading(_Ring(1000))
    mark = reading.mark()
    assert (mark, reading.past(mark)) == (1000, False)
    reading.drain()
    assert reading.past(mark)
    assert len(made) >= 1000


def test_a_short_look_leaves_the_rest() -> None:
    reading, made = _reading(_Ring(1000))
    mark = reading.mark()
    reading.drain(0)
    assert 0 < len(made) < 1000
    assert not reading.past(mark)
    reading.drain()
    assert reading.past(mark)


def test_as_much_waits_as_may_and_the_last_look_reads_it_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What stays in the ring when it is closed would be lost, and not counted."""
    monkeypatch.setattr(tracer, "_BACKLOG", 100)
    ring = _Ring(100)
    reading, made = _reading(ring)
    assert reading.mark() == 100
    assert reading.mark() == 100  # the ring keeps the two that came
    reading.drain()
    assert ring.written > 100
    assert len(made) >= 102
