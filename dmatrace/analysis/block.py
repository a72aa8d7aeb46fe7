"""The block layer's side of a load: its read requests, by kind and by device.

A request is a file's data or the file system's own: ``metadata`` is counted
by itself, so that the bytes read are the file's.  It is counted on the device
that it was issued to; device mapper and md issue none of their own, so what
passes a stack of devices is counted once, at its lowest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dmatrace.analysis import arrays
from dmatrace.analysis.depth import depth, timeline
from dmatrace.analysis.sweep import Intervals, intervals

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import pandas as pd

    from dmatrace.analysis.arrays import Column

    Mask = np.ndarray[Any, np.dtype[np.bool_]]

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
METADATA = "metadata"
#: In the order in which they are shown; "" is unknown, of recordings that did not tell.
KINDS = ("direct", "readahead", "page-cache", METADATA, "swap", "unknown")
_DELAYS = ("latency_ns", "queue_ns")
#: What makes a row of requests a completed read, for Recording.part.
READS = (("op", "==", "read"), ("complete_ns", ">", 0))
#: The columns of requests that this module needs.
COLUMNS = ("dev", "bytes", "queue_ns", "issue_ns", "complete_ns", "kind")


def reads(requests: pd.DataFrame) -> pd.DataFrame:
    """The completed read requests."""
    return requests[(requests["op"] == "read") & (requests["complete_ns"] > 0)]


class Reads(NamedTuple):
    """Completed reads as columns, a row each; times in ns."""

    queue: Column
    issue: Column
    complete: Column
    bytes: Column
    dev: Column
    kind: np.ndarray[Any, np.dtype[np.int8]]  # index into KINDS

    def latencies(self, mask: Mask | None) -> Column:
        """Issue to completion."""
        found = self.complete - self.issue
        return found if mask is None else found[mask]

    def waits(self, mask: Mask | None) -> Column:
        """Queueing to issue."""
        found = self.issue - self.queue
        return found if mask is None else found[mask]

    def sizes(self, mask: Mask | None) -> Column:
        """Their bytes."""
        return self.bytes if mask is None else self.bytes[mask]


class Times(NamedTuple):
    """When reads were on the device (issue to completion), and when queued (until issue)."""

    reading: Intervals
    queued: Intervals


def columns(done: pd.DataFrame) -> Reads:
    """COLUMNS of completed reads; strings may be categories."""
    import numpy as np

    codes, names = coded(done["kind"])
    unknown = KINDS.index("unknown")
    known = [KINDS.index(name) if name in KINDS else unknown for name in names]
    kinds = np.array(known, dtype=np.int8)[codes]
    return Reads(
        queue=done["queue_ns"].to_numpy(),
        issue=done["issue_ns"].to_numpy(),
        complete=done["complete_ns"].to_numpy(),
        bytes=done["bytes"].to_numpy(),
        dev=done["dev"].to_numpy(),
        kind=kinds,
    )


def coded(column: pd.Series[Any]) -> tuple[Column, list[str]]:
    """Strings as numbers, a small one per row, and what each number stands for."""
    found: Any = column.astype("category")
    return found.cat.codes.to_numpy(), found.cat.categories.tolist()


def times(done: Reads) -> Times:
    """The intervals of completed reads."""
    reading, queued = intervals(done.issue, done.complete), intervals(done.queue, done.issue)
    if len(reading.starts) == len(queued.ends) == len(done.issue):
        queued = queued._replace(ends=reading.starts)  # the same, once
    return Times(reading, queued)


def block(
    done: Reads,
    queued_bytes: int = 0,
    devices: Sequence[Mapping[str, Any]] = (),
) -> tuple[dict[str, Any], Times]:
    """The contract's ``block`` object from one load's completed reads, and when they were.

    ``requests``, ``read_bytes``, latencies and ``size_hist`` are of everything but
    metadata; ``kinds`` has each kind by itself.  ``latency_ns`` is issue to completion,
    the device's time, ``queue_ns`` the first bio's queueing to issue.  A percentile is
    the smallest latency that at least that share of requests did not exceed, so it is
    one that happened; all are 0 without requests.  ``size_hist`` counts requests by the
    power of two at or below their size.

    ``depth`` is of requests between issue and completion, ``waiting`` of those between
    queueing and issue; both with metadata, which the device serves as well.
    ``queued_bytes`` is what the load's threads asked of the block layer, where that is
    known (else 0): ``unseen_bytes`` of it have no request of theirs, because a driver
    passed them to a thread of its own.
    """
    import numpy as np

    held = np.bincount(done.kind, minlength=len(KINDS)).tolist()
    by_kind = {
        kind: _figures(done, _only(done.kind == number))
        for number, kind in enumerate(KINDS)
        if held[number]
    }
    # Of one kind alone, it is that one's.
    one = len(by_kind) == 1 and METADATA not in by_kind
    data = (
        dict(next(iter(by_kind.values())))
        if one
        else _figures(done, _only(done.kind != KINDS.index(METADATA)))
    )
    moments = times(done)
    whole = depth(moments.reading)
    found = {
        **data,
        "kinds": by_kind,
        "devices": _devices(done, devices, whole),
        "depth": whole,
        "waiting": depth(moments.queued),
        "timeline": timeline(moments.reading, done.issue, done.complete, done.bytes),
        "queued_bytes": queued_bytes,
        "unseen_bytes": max(0, queued_bytes - int(done.bytes.sum())),
    }
    return found, moments


def _only(mask: Mask) -> Mask | None:
    """None for all: of ten million rows, a copy is half a gigabyte."""
    return None if mask.all() else mask


def _figures(done: Reads, mask: Mask | None) -> dict[str, Any]:
    sizes = done.sizes(mask)
    return {
        "requests": len(sizes),
        "read_bytes": int(sizes.sum()),
        "latency_ns": arrays.percentiles(done.latencies(mask), PERCENTILES),
        "queue_ns": arrays.percentiles(done.waits(mask), PERCENTILES),
        "size_hist": arrays.size_hist(sizes),
    }


def _devices(
    done: Reads, known: Iterable[Mapping[str, Any]], whole: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Per device, the busiest first; a number that no longer had a name has none.

    ``whole`` is the depth of all devices together.
    """
    import pandas as pd

    named = {int(device["dev"]): device for device in known}
    found = []
    for dev in pd.unique(done.dev).tolist():
        mask = _only(done.dev == dev)
        device = named.get(int(dev), {})
        of_it = _figures(done, mask)
        found.append(
            {
                "dev": f"{int(dev) >> 20}:{int(dev) & 0xFFFFF}",
                "name": str(device.get("name", "")),
                "disk": str(device.get("disk", "")),
                "label": str(device.get("label", "")),
                **{name: of_it[name] for name in ("requests", "read_bytes", *_DELAYS)},
                "depth": dict(whole)
                if mask is None
                else depth(intervals(done.issue[mask], done.complete[mask])),
            }
        )
    return sorted(found, key=lambda device: (-device["read_bytes"], device["dev"]))


def percentiles(values: Iterable[int]) -> dict[str, int]:
    """p50, p90, p99 and max of values in any order."""
    ordered = sorted(values)
    return {name: percentile(ordered, share) for name, share in PERCENTILES.items()}


def percentile(ordered: list[int], share: float) -> int:
    """The nearest-rank percentile of an ascending list; 0 for an empty one."""
    if not ordered:
        return 0
    # ceil(n * share) in integers: 0.99 * 100 is not 99 in floats.
    rank = -(-len(ordered) * round(share * 100) // 100)
    return ordered[max(rank, 1) - 1]
