"""The block layer's side of a load: its read requests, by kind and by device.

A request is a file's data or the file system's own: ``metadata`` is counted
by itself, so that the bytes read are the file's.  It is counted on the device
that it was issued to; device mapper and md issue none of their own, so what
passes a stack of devices is counted once, at its lowest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dmatrace.analysis import arrays
from dmatrace.analysis.depth import depth, timeline

if TYPE_CHECKING:
    import pandas as pd

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
METADATA = "metadata"
#: In the order in which they are shown; "" is unknown, of recordings that did not tell.
KINDS = ("direct", "readahead", "page-cache", METADATA, "swap", "unknown")


def reads(requests: pd.DataFrame) -> pd.DataFrame:
    """The completed read requests."""
    found = (requests["op"] == "read") & (requests["complete_ns"] > 0)
    # Of ten million rows, a copy is half a gigabyte.
    return requests if found.all() else requests[found]


def block(
    requests: pd.DataFrame,
    queued_bytes: int = 0,
    devices: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The contract's ``block`` object from one load's requests.

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
    done = reads(requests)
    data = done[done["kind"] != METADATA]
    issued = _rows(done, "issue_ns", "complete_ns", "bytes")
    return {
        **_figures(data),
        "kinds": {
            kind: _figures(part)
            for kind in KINDS
            if len(part := done[_kinds(done) == kind])
        },
        "devices": _devices(done, devices),
        "depth": depth((issue, complete) for issue, complete, _ in issued),
        "waiting": depth(_rows(done, "queue_ns", "issue_ns")),
        "timeline": timeline(issued),
        "queued_bytes": queued_bytes,
        "unseen_bytes": max(0, queued_bytes - int(done["bytes"].sum())),
    }  # fmt: skip


def _kinds(done: pd.DataFrame) -> pd.Series[str]:
    return done["kind"].where(done["kind"].isin(KINDS), "unknown")


def _rows(frame: pd.DataFrame, *columns: str) -> list[Any]:
    return list(zip(*(frame[name].tolist() for name in columns), strict=True))


def _figures(done: pd.DataFrame) -> dict[str, Any]:
    latencies = (done["complete_ns"] - done["issue_ns"]).to_numpy()
    waits = (done["issue_ns"] - done["queue_ns"]).to_numpy()
    return {
        "requests": len(done),
        "read_bytes": int(done["bytes"].sum()),
        "latency_ns": arrays.percentiles(latencies, PERCENTILES),
        "queue_ns": arrays.percentiles(waits, PERCENTILES),
        "size_hist": arrays.size_hist(done["bytes"].to_numpy()),
    }


def figures(latencies: Sequence[int], sizes: Sequence[int]) -> dict[str, Any]:
    """The same of completed reads that are in no frame: latencies in ns, sizes in bytes."""
    import numpy as np

    return {
        "requests": len(sizes),
        "read_bytes": sum(sizes),
        "latency_ns": arrays.percentiles(np.array(latencies, dtype=np.int64), PERCENTILES),
        "size_hist": arrays.size_hist(np.array(sizes, dtype=np.int64)),
    }


def _devices(done: pd.DataFrame, known: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per device, the busiest first; a number that no longer had a name has none."""
    named = {int(device["dev"]): device for device in known}
    found = []
    for dev in done["dev"].unique().tolist():
        part = done[done["dev"] == dev]
        device = named.get(int(dev), {})
        figures = _figures(part)
        found.append(
            {
                "dev": f"{int(dev) >> 20}:{int(dev) & 0xFFFFF}",
                "name": str(device.get("name", "")),
                "disk": str(device.get("disk", "")),
                "label": str(device.get("label", "")),
                "requests": figures["requests"],
                "read_bytes": figures["read_bytes"],
                "latency_ns": figures["latency_ns"],
                "queue_ns": figures["queue_ns"],
                "depth": depth(_rows(part, "issue_ns", "complete_ns")),
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
