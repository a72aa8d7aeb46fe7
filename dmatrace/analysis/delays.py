"""What the kernel's delay accounting says of threads, beside what was traced.

``full`` is False of a thread that began before the accounting was switched on: only
its waiting for a CPU is known then.  A kind that this kernel does not account for is
left out, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

#: In the kernel's words: waiting for a CPU, the disk, swap, reclaim, pages that were evicted too
#: early, compaction, copies on write, and interrupts.
KINDS = ("cpu", "blkio", "swapin", "freepages", "thrashing", "compact", "wpcopy", "irq")

# The account is taken a moment before and after the time that was traced.
SLACK_NS = 20_000_000

ThreadDelays = dict[str, Any]


def by_thread(table: pd.DataFrame, kinds: Iterable[str]) -> dict[tuple[int, int], ThreadDelays]:
    """{(load, tid): {"full": bool, kind: {"count": n, "ns": ns}, ...}} of the delays table.

    Several rows of a thread (of a number that was used again) are summed.
    """
    kinds = list(kinds)
    columns = ["load_id", "tid", "full", *(f"{k}_{end}" for k in kinds for end in ("count", "ns"))]
    found: dict[tuple[int, int], ThreadDelays] = {}
    for load_id, tid, full, *values in zip(*(table[c].tolist() for c in columns), strict=True):
        known = kinds if full else [kind for kind in kinds if kind == "cpu"]
        new = {k: values[2 * n : 2 * n + 2] for n, k in enumerate(kinds) if k in known}
        old = found.get((load_id, tid))
        merged: ThreadDelays = {"full": bool(full) and (old is None or old["full"])}
        for kind, (count, ns) in new.items():
            if old is None or kind in old:
                before = old[kind] if old else {"count": 0, "ns": 0}
                merged[kind] = {"count": before["count"] + count, "ns": before["ns"] + ns}
        found[load_id, tid] = merged
    return found


def possible(found: ThreadDelays | None, wall_ns: int) -> ThreadDelays | None:
    """``found`` without what is longer than the thread's time, which ``impossible`` then names.

    Such accounts are seen of Linux 6.12, whose __block_task() may begin the wait of a thread
    that is dequeued late in the name of the one that runs then.
    """
    if found is None:
        return None
    limit = wall_ns + wall_ns // 50 + SLACK_NS
    wrong = [kind for kind, value in found.items() if kind != "full" and value["ns"] > limit]
    if not wrong:
        return found
    return {**{k: v for k, v in found.items() if k not in wrong}, "impossible": wrong}


def total(threads: Iterable[Mapping[str, Any]]) -> ThreadDelays | None:
    """The sum over threads that have ``delays``; None if none has.

    A kind is in it only if it is known of all of them.
    """
    each = [thread["delays"] for thread in threads if thread.get("delays")]
    if not each:
        return None
    kinds = [kind for kind in KINDS if all(kind in one for one in each)]
    wrong = {kind for one in each for kind in one.get("impossible", [])}
    return {
        "full": all(one["full"] for one in each),
        **({"impossible": [kind for kind in KINDS if kind in wrong]} if wrong else {}),
        **{kind: {end: sum(one[kind][end] for one in each) for end in ("count", "ns")}
           for kind in kinds},
    }  # fmt: skip
