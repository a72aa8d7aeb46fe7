"""The parts of the text report below the phases: memory, block layer, verdicts, what to trust."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dmatrace.analysis import trust as said
from dmatrace.analysis.hidden import OF_MEMORY
from dmatrace.analysis.summary import Summary
from dmatrace.report.layout import WIDTH, Style
from dmatrace.sizes import format_ns, short_size

_NAME = 22
_MOST = 5  # functions a load

_BILL = {
    "cache+": "page_cache_added",
    "cache-": "page_cache_removed",
    "peak": "page_cache_peak",
    "end": "page_cache_end",
    "dmabuf": "dmabuf",
    "shmem": "shmem",
    "pinned": "pinned_peak",
}


def bill(loads: Sequence[Summary], style: Style) -> Iterator[str]:
    """Bytes of page cache, dma-buf, shmem, pinned pages, and copies per byte."""
    yield style.paint(
        style.left("memory", _NAME)
        + "".join(style.right(head, 7) for head in _BILL)
        + style.right("copies", 8),
        "bold",
    )
    for load in loads:
        line = style.left(load.label, _NAME)
        for name in _BILL.values():
            nothing = "hidden" if OF_MEMORY[name] in load.hidden else "-"
            line += style.right(short_size(load.memory[name]) if load.memory[name] else nothing, 7)
        copied = "hidden" if load.per_byte is None else f"{load.per_byte:.2f}/B"
        yield line + style.right(copied, 8)
    yield from style.wrap(
        "cache+ and cache-: page cache added and removed; peak, end: the file's share of it;"
        " pinned: peak of pinned pages; copies: bytes the CPU copied per byte loaded."
    )


def functions(document: Mapping[str, Any], loads: Sequence[Summary], style: Style) -> Iterator[str]:
    """What the sampled stacks were in, innermost; nothing where none were taken."""
    if not document.get("sample_hz"):
        return
    yield style.paint("functions on a CPU, by sampled stacks", "bold")
    for load in loads:
        counted: Counter[str] = Counter()
        total = 0
        for one in load.loads:
            sampled = one.get("samples") or {"count": 0, "functions": []}
            total += sampled["count"]
            for row in sampled["functions"]:
                counted[row["function"] or "[user space]"] += row["count"]
        most = ", ".join(
            f"{name} {100 * count / total:.0f}%"
            for name, count in counted.most_common(_MOST)
            if total
        )
        yield from _item(style, load.label, f"{total} samples: {most or '-'}")
    if any(load.reaches for load in loads):
        yield from style.wrap(
            f"cpu time inside the hooks' exact bounds is divided by these, {document['sample_hz']}"
            f" a second; {style.plus_minus} is the 95 % interval."
        )


_NO_READS = "nothing was read from a disk"


def block(loads: Sequence[Summary], style: Style) -> Iterator[str]:
    """Read requests and their latency, issue to completion."""
    heads = (("requests", 9), ("read", 8), ("p50", 9), ("p90", 9), ("p99", 9), ("max", 9))
    yield style.paint(
        style.left("block reads", _NAME) + "".join(style.right(*head) for head in heads), "bold"
    )
    for load in loads:
        line = style.left(load.label, _NAME)
        if "requests" in load.hidden:
            yield f"{line}  hidden: no {', '.join(load.hidden['requests'])}"
            continue
        line += style.right(str(load.block["requests"]), 9)
        if not load.block["requests"]:
            workers = ", ".join(load.hidden.get("workers", ()))
            why = f"hidden: what workers read, no {workers}" if workers else _NO_READS
            yield f"{line}  {why}"
            continue
        line += style.right(short_size(load.block["read_bytes"]), 8)
        for name in ("p50", "p90", "p99", "max"):
            line += style.right(format_ns(load.block[name]), 9)
        yield line


def direct(loads: Sequence[Summary], style: Style) -> Iterator[str]:
    """Whether the reads bypassed the page cache, and the evidence."""
    yield style.paint("direct I/O", "bold")
    for load in loads:
        seen: dict[str, str] = {}
        for one in load.loads:
            seen.setdefault(one["direct"]["verdict"], one["direct"]["why"])
        for verdict, why in seen.items():
            yield from _item(style, load.label, f"{verdict}: {why}")


def overlap(loads: Sequence[Summary], style: Style) -> Iterator[str]:
    """Allocation and I/O at the same time; nothing where they did not overlap."""
    both = [load for load in loads if load.overlap["both_ns"] > 0]
    if both:
        yield style.paint("overlap", "bold")
    for load in both:
        found = load.overlap
        shorter = min(found["alloc_ns"], found["io_ns"])
        share = f" ({100 * found['both_ns'] // shorter}% of the shorter)" if shorter else ""
        yield from _item(
            style,
            load.label,
            f"allocation {format_ns(found['alloc_ns'])}, I/O {format_ns(found['io_ns'])},"
            f" both at once {format_ns(found['both_ns'])}{share}",
        )


def workers(loads: Sequence[Summary], style: Style) -> Iterator[str]:
    """Threads that worked for a load and are not its own; nothing where there were none."""
    helped = [load for load in loads if load.workers]
    if helped:
        yield style.paint("workers", "bold")
    for load in helped:
        spent = {phase: sum(parts) for phase, parts in load.work.items()}
        total = sum(spent.values())
        names = {
            # Of "kworker/u8:3" what every worker of its kind is called.
            thread["comm"].partition("/")[0]
            for one in load.loads
            for thread in one["threads"]
            if thread.get("owner")
        }
        longest = sorted(spent, key=lambda phase: -spent[phase])[:3]
        shares = ", ".join(f"{phase} {100 * spent[phase] // (total or 1)}%" for phase in longest)
        yield from _item(
            style,
            load.label,
            f"{load.workers} worked {format_ns(total)} for it ({', '.join(sorted(names))}):"
            f" {shares}; it is in the phases above",
        )


#: Columns of a load's steps in the loader module; the JSON has the rest.
_STEPS = ("alloc", "map", "vmap", "read", "overlap", "wait", "batches")


def module(loads: Sequence[Summary], style: Style) -> Iterator[str]:
    """The steps of loads by the loader module: by its own clock, and as they were traced."""
    used = [load for load in loads if load.module or load.steps]
    if not used:
        return
    heads = "".join(style.right(head, 8) for head in _STEPS)
    yield style.paint(style.left("loader module", _NAME) + heads, "bold")
    for load in used:
        if load.module:
            yield style.left(load.label, _NAME) + _steps(load.module, style)
        if load.steps:
            name = "  traced" if load.module else load.label
            yield style.left(name, _NAME) + _steps(load.steps, style)
    yield from style.wrap(
        "read: at least one read was under way; overlap: of that, while pages were allocated;"
        " wait: for the last reads. What RW_FILE reports is summed over --jobs; the module's read"
        " holds its mapping where it gathers."
    )


def _steps(found: Mapping[str, int], style: Style) -> str:
    line = ""
    for name in _STEPS:
        ns, count = found.get(f"{name}_ns", 0), found.get(name, 0)
        line += style.right(format_ns(ns) if ns else str(count or "-"), 8)
    return line


def outcomes(loads: Sequence[Summary], style: Style) -> Iterator[str]:
    """Whether the contents were right, and every load that did not go as asked."""
    loads = [load for load in loads if not load.observed]
    if loads:
        yield style.paint("contents", "bold")
    for load in loads:
        rounds = [*load.loads, *(one for one in load.failed if one not in load.loads)]
        good = sum(one["verified"] is True for one in rounds)
        bad = [one for one in rounds if one["verified"] is False]
        if bad:
            which = ", ".join(str(one["round"]) for one in bad)
            for line in _item(style, load.label, f"DIFFER from the file in round {which}"):
                yield style.paint(line, "bad")
        elif good == len(rounds):
            yield from _item(style, load.label, "equal to the file")
        elif not any(one["failed"] or one["refused"] for one in rounds):
            yield from _item(style, load.label, f"compared in {good} of {len(rounds)} rounds")
        for one in rounds:
            problem = one["failed"] or one["refused"]
            if problem:
                kind = "failed" if one["failed"] else "refused"
                yield from _item(style, load.label, f"round {one['round']} {kind}: {problem}")
            elif one["partial"]:
                yield from _item(
                    style, load.label, f"round {one['round']} is partial: its end was not recorded"
                )


#: The kinds of delay that say why a thread was blocked, in words.
_DELAYS = {
    "blkio": "disk",
    "freepages": "reclaim",
    "thrashing": "thrashing",
    "swapin": "swap",
    "compact": "compaction",
    "wpcopy": "copy on write",
}


def delays(loads: Sequence[Summary], style: Style) -> Iterator[str]:
    """What the kernel's delay accounting says, beside the blocked and runnable time traced."""
    told = [load for load in loads if load.delays]
    if told:
        yield style.paint("delay accounting", "bold")
    for load in told:
        assert load.delays is not None
        found = load.delays
        blocked = sum(parts[1] for parts in load.phases.values())
        runnable = sum(parts[2] for parts in load.phases.values())
        waits = [
            f"{name} {format_ns(found[kind]['ns'])} in {found[kind]['count']} waits"
            for kind, name in _DELAYS.items()
            if kind in found and found[kind]["count"]
        ]
        if waits:
            text = ", ".join(waits)
        elif found["full"]:
            text = "no other waits" if found.get("impossible") else "no waits for disk or memory"
        else:
            text = "why it blocked is not known of threads that began before it was switched on"
        if found.get("impossible"):
            names = " and ".join(_DELAYS.get(kind, kind) for kind in found["impossible"])
            text = f"{names}: longer than the threads ran, an error of this kernel; {text}"
        text += f" (traced: blocked {format_ns(blocked)})"
        if "cpu" in found:
            text += f"; for a CPU {format_ns(found['cpu']['ns'])}"
            text += f" (traced: runnable {format_ns(runnable)})"
        yield from _item(style, load.label, text)


def skipped(document: Mapping[str, Any], style: Style) -> Iterator[str]:
    """Strategies that cannot run here, why, and what to do."""
    if document["skipped"]:
        yield style.paint("skipped", "bold")
    for skip in document["skipped"]:
        do = f"; {skip['do']}" if skip["do"] else ""
        yield from _item(style, str(skip["strategy"]), f"{skip['why']}{do}")


def hidden(document: Mapping[str, Any], style: Style) -> Iterator[str]:
    """Hooks that are not attached, and what that hides."""
    missing = [hook for hook in document["hooks"] if hook["attached"] in (None, "null")]
    if missing:
        yield style.paint("hidden: hooks this kernel did not take", "bold")
    for hook in missing:
        what = hook["hides"] or "its time is in the phase around it"
        phase = f"({hook['phase']}) " if hook["phase"] else ""
        yield from _item(style, str(hook["name"]), phase + what)


def trust(document: Mapping[str, Any], style: Style) -> Iterator[str]:
    """Lost events, what the phase stack could not follow, and the recorder's own cost."""
    for line in style.wrap(said.lost(document), "  ", ""):
        yield style.paint(line, "bad") if document["lost_events"] else line
    for sentence in said.cost(document):
        yield from style.wrap(sentence, "  ", "")
    for pair in document["self"]["ab"]:
        ratio = pair["ratio"]
        yield from _item(
            style,
            str(pair["strategy"]),
            f"with/without the tracer: median {ratio['median']:.3f}, {ratio['min']:.3f} to"
            f" {ratio['max']:.3f}, {pair['pairs']} pairs",
        )


def _item(style: Style, name: str, text: str) -> list[str]:
    """A name and a text that wraps beside it."""
    column = "  " + style.left(name, 22) + "  "
    assert len(column) <= WIDTH
    return style.wrap(text, " " * 26, column)
