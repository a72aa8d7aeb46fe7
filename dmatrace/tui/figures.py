"""A load's figures as the view has them: what the report computes, less what is hidden."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dmatrace.tui.model import Memory, Thread, Times


class Known(NamedTuple):
    """What a load's figures depend on besides its rows."""

    hidden: frozenset[str]
    uncounted: frozenset[str]
    paths: Mapping[tuple[int, int], str]  # of files, by (dev, inode)
    divided: bool  # by samples
    over: bool  # nothing more will come
    sampled: bool = True  # the page cache is, while a load runs


def thread(row: Mapping[str, object]) -> Thread:
    """A thread of the document as the view has it."""
    phases: Any = row["phases"]
    wall: Any = row["wall_ns"]
    tid: Any = row["tid"]
    owner: Any = row["owner"]
    return Thread(
        tid=int(tid),
        comm=str(row["comm"]),
        owner=owner,
        wall=int(wall),
        phases=tuple(
            Times(p["phase"], p["cpu_ns"], p["blocked_ns"], p["runnable_ns"], p["count"])
            for p in phases
        ),
    )


#: What tells by which path bytes came.
PATHS = frozenset(("direct", "copies"))


def doubted(judged: Mapping[str, Any], hidden: frozenset[str]) -> dict[str, str]:
    """The verdict and its evidence where a path is not hooked: what was not seen may have been."""
    unseen = [
        f"{path} reads are hidden"
        for path, what in (("direct", "direct"), ("buffered", "copies"))
        if what in hidden
    ]
    if not unseen:
        return {}
    said = " and ".join(unseen)
    if not judged["direct_bytes"] + judged["buffered_bytes"]:
        return {"verdict": "hidden", "why": said}
    return {"why": f"{judged['why']}; {said}"}


def per_byte(
    copied: Mapping[str, int | float], done: int | None, size: int, state: str
) -> float | None:
    """Copies of each byte: of the whole file's, while it runs of those that are loaded."""
    if state == "done" or not done:  # of a process that is followed, what it read
        return float(copied["per_byte"]) if size and state == "done" else None
    return round(copied["cpu_bytes"] / done, 6)


def held(bill: Mapping[str, Any], known: Known, *, begun: bool, ended: bool) -> Memory:
    """The memory bill, with None for what is hidden or not known before the end."""

    def figure(name: str, by: str) -> int | None:
        unknown = by in known.hidden or (by in known.uncounted and not ended)
        return int(bill[name]) if begun and not unknown and bill[name] is not None else None

    return Memory(
        cached=figure("page_cache_end", "cached"),
        cached_peak=figure("page_cache_peak", "cached"),
        added=figure("page_cache_added", "cached"),
        removed=figure("page_cache_removed", "cached"),
        dmabuf=figure("dmabuf", "dmabuf"),
        shmem=figure("shmem", "shmem"),
        # Known when the load has ended: the recorder reads it then.
        pinned_peak=figure("pinned_peak", "pinned") if ended else None,
        mapped=int(bill["mapped"]),
    )
