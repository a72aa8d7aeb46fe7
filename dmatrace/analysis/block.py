"""The block layer's side of a load: its read requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def reads(requests: pd.DataFrame) -> pd.DataFrame:
    """The completed read requests."""
    return requests[(requests["op"] == "read") & (requests["complete_ns"] > 0)]


def block(requests: pd.DataFrame) -> dict[str, Any]:
    """The contract's ``block`` object from one load's requests.

    Latency is issue to completion, the device's time.  A percentile is the smallest
    latency that at least that share of requests did not exceed, so it is one that
    happened; all are 0 without requests.  ``size_hist`` counts requests by the power
    of two at or below their size.
    """
    done = reads(requests)
    latencies = (done["complete_ns"] - done["issue_ns"]).tolist()
    return figures(latencies, done["bytes"].tolist())


def figures(latencies: list[int], sizes: list[int]) -> dict[str, Any]:
    """``block`` of completed reads: their latencies in ns and their sizes in bytes."""
    ordered = sorted(latencies)
    counts: dict[int, int] = {}
    for size in sizes:
        bucket = 1 << (size.bit_length() - 1) if size > 0 else 0
        counts[bucket] = counts.get(bucket, 0) + 1
    return {
        "requests": len(sizes),
        "read_bytes": sum(sizes),
        "latency_ns": {name: percentile(ordered, p) for name, p in PERCENTILES.items()},
        "size_hist": {str(bucket): counts[bucket] for bucket in sorted(counts)},
    }


def percentile(ordered: list[int], share: float) -> int:
    """The nearest-rank percentile of an ascending list; 0 for an empty one."""
    if not ordered:
        return 0
    # ceil(n * share) in integers: 0.99 * 100 is not 99 in floats.
    rank = -(-len(ordered) * round(share * 100) // 100)
    return ordered[max(rank, 1) - 1]
