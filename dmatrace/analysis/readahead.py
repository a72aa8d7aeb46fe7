"""Readahead that was used, and readahead for nothing, page by page.

The tracer reports runs of bytes that a thread added by readahead, that it read
(``filemap_read``, splicing, the page a fault was for) and that a fault mapped
around the one it was for.  Laid over the file in the order of time they say of
every page that readahead brought whether it was

- **used**: read, or the page of a fault, after it was added;
- **mapped**: no more than mapped around a fault.  Whether the processor then
  touched it no probe sees, so it is neither used nor wasted;
- **unread**: neither, until it was added again or the load ended.

Limits: what processes read that are not traced does not count as use.  A run
spans at most 0.1 s (RUN_NS in runs.c); where a page was read, dropped and
brought again within that, the two are taken in the usual order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

PAGE = 4096
_ABSENT, _UNREAD, _MAPPED, _USED = range(4)
_STATES = {"used": _USED, "mapped": _MAPPED, "unread": _UNREAD}


def readahead(runs: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Bytes of one file: {added, used, mapped, unread}; the last three sum to the first.

    ``runs`` have kind, start, end (bytes), since_ns and until_ns.
    """
    import numpy as np

    ordered = sorted(runs, key=_when)
    added = [run for run in ordered if run["kind"] == "readahead"]
    if not added:
        return dict.fromkeys(("added", *_STATES), 0)
    # Of what was never brought by readahead nothing need be known.
    first = min(int(run["start"]) for run in added) // PAGE
    last = max(-(-int(run["end"]) // PAGE) for run in added)
    pages = np.zeros(last - first, dtype=np.uint8)
    totals = np.zeros(4, dtype=np.int64)
    for run in ordered:
        start = max(int(run["start"]) // PAGE - first, 0)
        part = pages[start : max(-(-int(run["end"]) // PAGE) - first, 0)]
        if run["kind"] == "readahead":
            totals += np.bincount(part, minlength=4)  # what became of those it replaces
            part[:] = _UNREAD
        elif run["kind"] == "read":
            part[part != _ABSENT] = _USED
        else:
            part[part == _UNREAD] = _MAPPED
    totals += np.bincount(pages, minlength=4)
    found = {name: int(totals[state]) * PAGE for name, state in _STATES.items()}
    return {"added": sum(found.values()), **found}


def _when(run: Mapping[str, Any]) -> tuple[int, bool]:
    """Readahead comes before the read it is for: its first moment, the other's last."""
    added = run["kind"] == "readahead"
    return int(run["since_ns"] if added else run["until_ns"]), not added
