"""What a reader must know to trust a recording, in words: lost events, and what recording cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dmatrace.sizes import format_ns, format_size

_NAMED = 3  # BPF programs, the worst


def lost(document: Mapping[str, Any]) -> str:
    """Events lost by kind, calls that no probe saw, exits and frames that the stack missed."""
    number, parts = document["lost_events"], document.get("lost") or {}
    exits = sum(load["stack"]["lost_exits"] for load in document["loads"])
    overflows = sum(load["stack"]["overflows"] for load in document["loads"])
    by = ", ".join(f"{name} {each}" for name, each in parts.items() if each)
    text = f"Lost events: {number}"
    text += f" ({by + ': ' if by else ''}figures from events are too low)" if number else ""
    if "missed" in parts and parts["missed"] is None:
        text += " (this kernel does not count what kprobes miss)"
    if parts.get("missed"):
        text += f"; calls that probes missed, of any task of the machine: {parts['missed']}"
        by_whom = sorted(document["self"].get("programs", []), key=lambda each: -each["missed"])
        most = [f"{each['name']} {each['missed']}" for each in by_whom if each["missed"]]
        text += f" ({', '.join(most[:_NAMED])})" if most else ""
    return f"{text}; function exits not seen: {exits}; calls nested too deep: {overflows}."


def cost(document: Mapping[str, Any]) -> Iterator[str]:
    """What the recorder and its BPF programs used: sentences."""
    own = document["self"]
    runs = f" in {own['bpf_runs']} runs" if own.get("bpf_runs") else ""
    yield (
        f"Cost of recording: BPF {format_ns(own['bpf_ns'])}{runs}, recorder"
        f" {format_ns(own['recorder_cpu_ns'])} CPU, {format_size(own['recorder_rss'])} RSS."
    )
    costliest = [each for each in own.get("programs", []) if each["run_time_ns"]][:_NAMED]
    if costliest:
        said = ", ".join(
            f"{each['name']} {format_ns(each['run_time_ns'])} in {each['run_cnt']}"
            for each in costliest
        )
        yield f"Most of BPF: {said} runs."
