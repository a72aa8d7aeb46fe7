"""What can be known to be wrong before anything is changed, made or compiled."""

from __future__ import annotations

import os
from collections.abc import Collection

from dmatrace.errors import CannotHere, DmatraceError, UsageError
from dmatrace_loaders import table
from dmatrace_loaders.errors import LoadError

#: Strategy -> what the recording's ``skipped`` list says of it.
Skipped = dict[str, dict[str, str]]


def select(names: str) -> tuple[str, ...]:
    """The strategies' names, checked.  Raises UsageError with the list and the nearest."""
    try:
        return tuple(strategy.name for strategy in table.select(names))
    except LoadError as error:
        raise UsageError(error.message, do=error.do) from None


def names() -> tuple[str, ...]:
    """Every strategy's name, in the table's order."""
    return tuple(table.strategies())


def why_not(name: str, size: int, path: str | None, block: int = 1 << 20) -> LoadError | None:
    """Why this machine cannot load ``size`` bytes (of ``path``, if it is there); None if it can."""
    strategy = table.strategies()[name]
    try:
        strategy.check(size)
        if path is not None:
            strategy.open(path, block).close()
    except LoadError as error:
        return error
    return None


def check_root() -> None:
    """Raise CannotHere unless BPF programs may be loaded."""
    if os.geteuid() != 0:
        raise CannotHere("tracing needs root", do="run it with sudo")


def check_strategies(names: Collection[str], size: int, path: str | None, block: int) -> Skipped:
    """The strategies that cannot load ``size`` bytes (of ``path``, if it is there) and why.

    Raises CannotHere (or the first refusal's own kind) if none can.
    """
    skipped: Skipped = {}
    first: DmatraceError | None = None
    for name in names:
        error = why_not(name, size, path, block)
        if error is not None:
            skipped[name] = {"strategy": name, "why": error.message, "do": error.do}
            kind = CannotHere if error.code == 3 else DmatraceError
            first = first or kind(f"{name}: {error.message}", do=error.do)
    if first is not None and len(skipped) == len(names):
        raise first
    return skipped
