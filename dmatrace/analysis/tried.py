"""What ``--try`` measured: a target's own load of a file beside strategies that loaded it after.

A target does other things between its reads, and reads a file's head long before the rest, so
its time is that in which all but the first hundredth of its bytes came: from the beginning
of the first access beyond that to the end of the last.  A strategy's is that of create and io.
Where the target was attached in mid-load only the rates compare, and no ratio is given: what
was not seen is not guessed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dmatrace.analysis.block import READS

if TYPE_CHECKING:
    import pandas as pd

    from dmatrace.recording.reader import Recording

HEAD = 0.01  # of the bytes, which are read to see what the rest is
WHOLE = 0.95  # of the file, for a load that was seen from its beginning
_REQUESTS = ("file_dev", "ino", "kind", "sector", "bytes", "queue_ns", "complete_ns")
_DATED = 0.5  # of the bytes, for the others to be dated by their neighbours
_MANY = 20  # runs of reads, of which the first call's time is a small part
_SECTOR = 512  # bytes, whatever the disk's are
#: A target's way, in words.
WAYS = {"mapped": "mapped", "buffered": "read", "direct": "direct I/O"}

#: One access: (begin, end in ns, first byte and the one behind the last, of the file or, of
#: direct I/O, the disk).
Access = tuple[int, int, int, int]


def tried(recording: Recording, loads: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The document's ``tried``: None where --try was not given.

    ``why`` says why nothing was tried, and what follows is then empty.  ``target`` has the
    bytes that were seen of the file, the ns they took (None: not known) and whether that is the
    ``whole`` file; ``loads`` the strategies, with ``gain``: how many times as fast as the
    target (None where that was not measured).
    """
    said = recording.meta.get("tried")
    if not said:
        return None
    found: dict[str, Any] = {
        "file": str(said.get("file", "")),
        "bytes": int(said.get("bytes") or 0),
        "cache": str(said.get("cache", "")),
        "why": str(said.get("why", "")),
        "do": str(said.get("do", "")),
        "target": None,
        "loads": [],
    }
    if found["why"]:
        return found
    file = int(said.get("dev") or 0), int(said.get("ino") or 0)
    observed = [load for load in loads if load.get("pid")]
    read: list[Access] = []
    around: list[Access] = []  # read ahead, or mapped around a fault
    direct: list[Access] = []
    for load in observed:
        runs = recording.part("runs", load["load_id"])
        read += _runs(runs[runs["kind"] == "read"], file)
        around += _runs(runs[runs["kind"] != "read"], file)
        requests = recording.part(
            "requests", load["load_id"], _REQUESTS, where=READS, categories=True
        )
        direct += _direct(requests, file)
    seen = max(covered([*read, *around]), covered(direct))
    ns = took(direct) if covered(direct) == seen else cached_took(read, around)
    whole = seen >= WHOLE * found["bytes"]
    found["target"] = {
        "load_ids": [load["load_id"] for load in observed],
        "way": str(said.get("way", "")),
        "bytes": min(seen, found["bytes"]),
        "ns": ns,
        "whole": whole,
        "page_cache_added": sum(_added(load, file) for load in observed),
    }
    for load in loads:
        if load.get("pid"):
            continue
        mine = None if load["failed"] or load["refused"] else load["create_ns"] + load["io_ns"]
        found["loads"].append(
            {
                "load_id": load["load_id"],
                "strategy": load["strategy"],
                "ns": mine,
                "page_cache_added": load["memory"]["page_cache_added"],
                "gain": ns / mine if whole and ns and mine else None,
            }
        )
    return found


def _runs(runs: pd.DataFrame, file: tuple[int, int]) -> Iterable[Access]:
    """Accesses through the page cache: what was read, mapped or read ahead."""
    mine = runs[(runs["dev"] == file[0]) & (runs["ino"] == file[1])]
    columns = (mine[name].tolist() for name in ("since_ns", "until_ns", "start", "end"))
    return zip(*columns, strict=True)


def _direct(requests: pd.DataFrame, file: tuple[int, int]) -> Iterable[Access]:
    mine = requests[
        (requests["file_dev"] == file[0])
        & (requests["ino"] == file[1])
        & (requests["kind"] == "direct")
    ]
    columns = (mine[name].tolist() for name in ("queue_ns", "complete_ns", "sector", "bytes"))
    return (
        (begin, end, sector * _SECTOR, sector * _SECTOR + size)
        for begin, end, sector, size in zip(*columns, strict=True)
    )


def _added(load: Mapping[str, Any], file: tuple[int, int]) -> int:
    rows = load["memory"].get("files") or ()
    return sum(row["added"] for row in rows if (row["dev"], row["ino"]) == file)


def covered(accesses: Iterable[Access]) -> int:
    """Bytes that any of them has, each counted once."""
    return sum(new for _, new in _in_order(accesses))


def took(accesses: Iterable[Access]) -> int | None:
    """ns from where more than HEAD of the bytes had come to where the last came; None of none.

    What is read again counts for nothing.
    """
    ordered = [(access, new) for access, new in _in_order(accesses) if new]
    least = HEAD * sum(new for _, new in ordered)
    so_far = 0
    for (begin, *_), new in ordered:
        so_far += new
        if so_far > least:
            return max(access[1] for access, _ in ordered) - begin
    return None


def cached_took(read: Sequence[Access], around: Sequence[Access]) -> int | None:
    """The same of a load through the page cache.

    A run of reads is dated from the end of its first call, which may be the only one: what
    the call reads ahead, or faults map, says when it came.  Of a file that was cached before
    there is no such thing, and only many runs say how long it took.
    """
    every = [*read, *around]
    total = covered(every)
    if covered(around) < _DATED * total and len(read) < _MANY:
        return None
    ns = took(every)
    last = max((access[1] for access, new in _in_order(read) if new), default=0)
    end = max((access[1] for access, new in _in_order(every) if new), default=0)
    # Pages that were read ahead come to the target when it reads them.
    return None if ns is None else ns + max(0, last - end)


def _in_order(accesses: Iterable[Access]) -> Iterator[tuple[Access, int]]:
    """Each access by its beginning, with the bytes that none before it had."""
    starts: list[int] = []  # of spans that do not touch, ascending
    ends: list[int] = []
    for access in sorted(accesses):
        start, end = access[2:]
        low, high = bisect_left(ends, start), bisect_right(starts, end)
        spans = zip(starts[low:high], ends[low:high], strict=True)
        had = sum(min(last, end) - max(first, start) for first, last in spans)
        yield access, end - start - had
        if low < high:
            start, end = min(start, starts[low]), max(end, ends[high - 1])
        starts[low:high], ends[low:high] = [start], [end]
