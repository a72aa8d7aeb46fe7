"""What else differs between recordings, besides the loads: machine, kernel, tracing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]

#: Keys of a document whose values are compared as they stand, and what they are called.
_FACTS = {
    "kernel": "kernel",
    "machine": "machine",
    "device": "device",
    "detail": "detail",
    "page_size": "page size",
    "dmatrace": "dmatrace",
}


def facts(label: str, document: Document) -> dict[str, Any]:
    """What a recording says of where and how it was made."""
    return {
        "label": label,
        **{name: document.get(name, "") for name in _FACTS},
        "started": document.get("started", ""),
        "complete": document.get("complete", True),
        "lost_events": document["lost_events"],
        "loads": len(document["loads"]),
        "sizes": sorted({load["bytes"] for load in document["loads"]}),
        "caches": sorted({load["cache_before"] for load in document["loads"]}),
    }


def differences(documents: Sequence[tuple[str, Document]]) -> list[dict[str, Any]]:
    """Each recording against the first: facts, hooks, file sizes, cache states, lost events.

    ``hides`` is what the side without a hook cannot see.
    """
    if not documents:
        return []
    label, first = documents[0]
    mine = facts(label, first)
    result: list[dict[str, Any]] = []
    for other, document in documents[1:]:
        theirs = facts(other, document)
        for key, what in {**_FACTS, "sizes": "file size", "caches": "cache state"}.items():
            if mine[key] != theirs[key]:
                result.append(_differs(what, label, other, mine[key], theirs[key]))
        if bool(mine["lost_events"]) != bool(theirs["lost_events"]):
            both = (mine["lost_events"], theirs["lost_events"])
            result.append(_differs("lost events", label, other, *both))
        if mine["complete"] != theirs["complete"]:
            result.append(_differs("complete", label, other, mine["complete"], theirs["complete"]))
        result += _hooks(label, first, other, document)
    return result


def _differs(what: str, base: str, new: str, mine: Any, theirs: Any) -> dict[str, Any]:
    return {"what": what, "recordings": [base, new], "base": mine, "new": theirs, "hides": None}


def _hooks(base: str, first: Document, new: str, document: Document) -> list[dict[str, Any]]:
    attached = [
        {hook["name"]: hook for hook in found["hooks"] if hook["attached"] not in (None, "null")}
        for found in (first, document)
    ]
    hides = [
        {hook["name"]: hook["hides"] for hook in found["hooks"]} for found in (first, document)
    ]
    result = []
    for name in sorted(attached[0].keys() ^ attached[1].keys(), key=str):
        missing = 0 if name in attached[1] else 1
        row = _differs(
            f"hook {name}",
            base,
            new,
            *("attached" if name in side else "not attached" for side in attached),
        )
        what = hides[missing].get(name) or "its time is in the phase around it"
        result.append({**row, "hides": what})
    how = [
        {hook["attached"] for hook in side.values()} for side in attached
    ]  # fentry|kprobe|tracepoint
    if how[0] != how[1]:
        result.append(_differs("how hooks attach", base, new, *(sorted(map(str, h)) for h in how)))
    return result
