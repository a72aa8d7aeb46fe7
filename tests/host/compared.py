"""Recordings with rounds that are known to differ, for tests of what compares them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import synthetic

from dmatrace.recording import Writer

Change = Callable[[str, int], Mapping[str, Any]]


def write(
    path: Path,
    change: Change,
    strategies: Sequence[str] = ("dmabuf-bio",),
    rounds: int = 5,
    meta: Mapping[str, Any] | None = None,
) -> Path:
    """A recording whose loads have the columns that ``change(strategy, round)`` says."""
    with Writer.create(path, {**synthetic.META, **(meta or {})}) as writer:
        load_id = 0
        for round_ in range(1, rounds + 1):
            for strategy in strategies:
                load_id += 1
                synthetic.write_load(writer, load_id, strategy, round_, **change(strategy, round_))
    return path


def walls(*values: int) -> Change:
    """Wall times by round; the other times of the loader's clock make them up."""
    return lambda _strategy, round_: {
        "wall_ns": values[round_ - 1],
        "io_ns": values[round_ - 1] - 400_000,
    }


def as_json(text: str) -> dict[str, Any]:
    """A JSON document that was printed."""
    found: dict[str, Any] = json.loads(text)
    return found
