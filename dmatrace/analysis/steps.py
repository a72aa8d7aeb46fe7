"""What a load by the loader module is made of, step by step, as the literature prints it.

Steps are calls of the module's functions from begin to end, whatever they do
inside, so "read" holds the page cache's or the disk's time; several threads in
the same step at once count once.
"""

from __future__ import annotations

from collections.abc import Iterable

from dmatrace.analysis.overlap import Interval, length, overlap, union

STEPS: dict[str, tuple[str, ...]] = {
    "alloc": ("dmatrace_loader_alloc",),
    "map": ("dmatrace_loader_map",),
    "vmap": ("dmatrace_loader_vmap", "dmatrace_loader_vunmap"),
    "read": ("dmatrace_loader_read",),
    "zero": ("dmatrace_loader_zero",),
    "wait": ("dmatrace_loader_gather_wait",),
}
_STEP_OF = {hook: step for step, hooks in STEPS.items() for hook in hooks}


def steps(calls: Iterable[tuple[str, int, int]]) -> dict[str, int]:
    """{"alloc_ns": ns, ...} of (hook, start, end); {} if none is a step.

    ``overlap_ns`` is the time in which pages were allocated and a read was under way.
    """
    found: dict[str, list[Interval]] = {}
    for hook, start, end in calls:
        if hook in _STEP_OF:
            found.setdefault(_STEP_OF[hook], []).append((start, end))
    result = {f"{step}_ns": length(union(found[step])) for step in STEPS if step in found}
    if "alloc" in found and "read" in found:
        result["overlap_ns"] = overlap(found["alloc"], found["read"])["both_ns"]
    return result
