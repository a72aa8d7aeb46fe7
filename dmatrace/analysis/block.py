"""The block layer's side of a load: its read requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dmatrace.analysis import arrays

if TYPE_CHECKING:
    import pandas as pd

#: What of the requests table it takes.
COLUMNS = ("bytes", "op", "issue_ns", "complete_ns")
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def reads(requests: pd.DataFrame) -> pd.DataFrame:
    """The completed read requests."""
    found = (requests["op"] == "read") & (requests["complete_ns"] > 0)
    # Of ten million rows, a copy is half a gigabyte.
    return requests if found.all() else requests[found]


def block(requests: pd.DataFrame) -> dict[str, Any]:
    """The contract's ``block`` object from one load's requests.

    Latency is issue to completion, the device's time.  A percentile is the smallest
    latency that at least that share of requests did not exceed, so it is one that
    happened; all are 0 without requests.  ``size_hist`` counts requests by the power
    of two at or below their size.
    """
    done = reads(requests)
    latencies = (done["complete_ns"] - done["issue_ns"]).to_numpy()
    return {
        "requests": len(done),
        "read_bytes": int(done["bytes"].sum()),
        "latency_ns": arrays.percentiles(latencies, PERCENTILES),
        "size_hist": arrays.size_hist(done["bytes"].to_numpy()),
    }


def percentile(ordered: list[int], share: float) -> int:
    """The nearest-rank percentile of an ascending list; 0 for an empty one."""
    if not ordered:
        return 0
    # ceil(n * share) in integers: 0.99 * 100 is not 99 in floats.
    rank = -(-len(ordered) * round(share * 100) // 100)
    return ordered[max(rank, 1) - 1]
