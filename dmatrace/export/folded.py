"""Folded stacks, for flamegraph.pl, speedscope, inferno: ``frame;frame;frame weight``.

By time: strategy, thread, phase, and cpu, blocked or runnable, in ns.  The weights of a
load sum to the time of its threads.  By page cache: strategy, file, and what became of
the bytes that the load added to the page cache, in bytes.  Rounds are added up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from dmatrace.export import Options
from dmatrace.safe import escaped

if TYPE_CHECKING:
    from dmatrace.analysis.frames import Frames

WEIGHTS = ("time", "page-cache")
_KINDS = ("cpu", "blocked", "runnable")


def write(frames: Frames, out: BinaryIO, options: Options) -> None:
    """The recording's stacks to ``out``."""
    stacks = {"time": by_time, "page-cache": by_page_cache}[options.weight]
    sums: dict[str, int] = {}
    for stack, weight in stacks(frames.document):
        line = ";".join(_name(name) for name in stack)
        sums[line] = sums.get(line, 0) + weight
    for line, weight in sums.items():
        if weight > 0:
            out.write(f"{line} {weight}\n".encode())


def by_time(document: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], int]]:
    """(stack, ns) of every thread and phase."""
    for load in document["loads"]:
        for thread in load["threads"]:
            for phase in thread["phases"]:
                for kind in _KINDS:
                    stack = (load["strategy"], _thread(thread), phase["phase"], kind)
                    yield stack, phase[f"{kind}_ns"]


def by_page_cache(document: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], int]]:
    """(stack, bytes) of what each load added to the page cache."""
    for load in document["loads"]:
        bill = load["memory"]
        kept = min(bill["page_cache_added"], bill["page_cache_end"])
        stack = (load["strategy"], load["file"])
        yield (*stack, "still cached at its end"), kept
        yield (*stack, "removed again"), bill["page_cache_added"] - kept


def _thread(thread: Mapping[str, Any]) -> str:
    """What threads of a kind are called: kworker/0:1 and kworker/1:2 are one frame."""
    name = str(thread["comm"]) or "?"
    return f"{name.partition('/')[0]} (worker)" if thread.get("owner") else name


def _name(text: str) -> str:
    """A frame: no semicolon, and no line's end."""
    return escaped(text).replace(";", ":") or "?"
