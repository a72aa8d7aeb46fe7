"""The strategies there are: our own rows, then those that others bring."""

from __future__ import annotations

import difflib
import re
from functools import lru_cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from dmatrace_loaders.errors import LoadError
from dmatrace_loaders.load import Load
from dmatrace_loaders.rows import OWN
from dmatrace_loaders.strategy import Strategy

__all__ = ["Strategy", "select", "strategies"]

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*-(bio|dio)")


@lru_cache(maxsize=1)
def strategies() -> dict[str, Strategy]:
    """All strategies by name: ours, then those of the entry-point group ``dmatrace.strategies``.

    An entry point names a Strategy or a sequence of them; one that takes a
    name that exists is ignored.  An entry point that does not load stands in
    the table under its own name, as a strategy that this machine cannot run.
    """
    found = {strategy.name: strategy for strategy in OWN}
    for entry in entry_points(group="dmatrace.strategies"):
        for strategy in _vendor(entry):
            found.setdefault(strategy.name, strategy)
    return found


def _vendor(entry: EntryPoint) -> tuple[Strategy, ...]:
    try:
        loaded = entry.load()
        given = (loaded,) if isinstance(loaded, Strategy) else tuple(loaded)
        for strategy in given:
            if not isinstance(strategy, Strategy):
                raise TypeError(f"{strategy!r} is not a Strategy")
            if not _NAME.fullmatch(strategy.name):
                raise ValueError(f"{strategy.name!r} is not TARGET[-PATH]-bio or -dio")
    # Others' code runs here: whatever it raises must not end our own strategies.
    except (Exception, SystemExit) as error:
        why = f"{entry.value} does not load: {type(error).__name__}: {error}".split("\n")[0]
        # Its load is never made: check() refuses before.
        no_load: Any = Load
        return (Strategy(entry.name, "[does not load]", 0, no_load, (), (partial(_broken, why),)),)
    return given


def _broken(why: str, _size: int) -> None:
    raise LoadError(why, do="repair or uninstall the package that brings it", code=3)


def select(names: str) -> tuple[Strategy, ...]:
    """The strategies of a comma-separated list, or all of them for "all".

    Raises LoadError (code 2) naming the nearest and listing all.
    """
    known = strategies()
    if names.strip() == "all":
        return tuple(known.values())
    chosen: dict[str, Strategy] = {}
    for name in (part.strip() for part in names.split(",")):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}? " if near else ""
            raise LoadError(
                f"no strategy is called {name!r}",
                do=f"{hint}strategies: {', '.join(known)}",
                code=2,
            )
        chosen[name] = known[name]
    return tuple(chosen.values())
