"""Names of kernel addresses, from /proc/kallsyms.

bcc has the same, but a start from the cache does without bcc, whose import takes longer
than the rest of it.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache

_TEXT = frozenset("tTwW")


@lru_cache(maxsize=1)
def _functions() -> tuple[list[int], list[str]]:
    """Addresses in ascending order, and the functions that begin there."""
    found = []
    with open("/proc/kallsyms") as lines:
        for line in lines:
            address, kind, name = line.split(None, 3)[:3]
            if kind in _TEXT:
                found.append((int(address, 16), name))
    found.sort()
    return [address for address, _ in found], [name for _, name in found]


def symbol(address: int) -> str:
    """The kernel function that ``address`` is in; "" below the first, or where all are hidden.

    Addresses read as 0 where kernel.kptr_restrict hides them.
    """
    starts, names = _functions()
    place = bisect_right(starts, address) - 1
    return names[place] if place >= 0 and starts[place] else ""


def functions() -> list[str]:
    """The names of all functions, in the order of their addresses."""
    return _functions()[1]


def forget() -> None:
    """Read it anew: modules may have come since."""
    _functions.cache_clear()
