"""How often Python looks for cycles of garbage: seldom, while others' loads are timed.

A row of a recording is an object that may be part of a cycle to Python, and 700 of
them make it look; each time through what was imported as well, every now and then.
A fifth of a recorder's CPU time went into that (1 GiB loads without emulation).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

#: Objects more than before; as many looks at the young ones before one at the older ones.
_THRESHOLDS = (20_000, 10, 10)


@contextmanager
def seldom() -> Iterator[None]:
    """Leave what is there alone, and look at the rest thirty times less often."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
