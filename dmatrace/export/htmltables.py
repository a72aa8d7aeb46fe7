"""The tables of the HTML export: the figures that its charts draw, and what cannot be drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dmatrace.analysis import trust
from dmatrace.analysis.hidden import OF_MEMORY
from dmatrace.analysis.recorded_columns import REMOVED_BY
from dmatrace.analysis.summary import KINDS, TIMES, Summary, told
from dmatrace.analysis.time import in_phase_order
from dmatrace.export import charts, markup, series
from dmatrace.export.markup import Cell, paragraph, table
from dmatrace.export.published import Beside
from dmatrace.phases import MEANING
from dmatrace.sizes import format_ns

MOST = 500  # rows of the list of all loads
ABREAST = 6  # strategies that stand side by side on a printed page

_BILL = {
    "cache added": "page_cache_added",
    "removed": "page_cache_removed",
    "peak": "page_cache_peak",
    "at the end": "page_cache_end",
    "mapped": "mapped",
    "dma-buf": "dmabuf",
    "shmem": "shmem",
    "pinned at most": "pinned_peak",
}


def head(document: Mapping[str, Any]) -> Iterator[str]:
    """What recorded it, where and when; and at once whether it is whole."""
    parts = [f"dmatrace {document['dmatrace']}", f"kernel {document['kernel']}"]
    names = ("machine", "device", "detail", "started")
    parts += [str(document[name]) for name in names if document.get(name)]
    yield paragraph(", ".join(parts), "dim")
    if not document.get("complete", True):
        torn = ", ".join(document.get("torn", []))
        lost = f" The tail of these tables is lost: {torn}." if torn else ""
        yield paragraph(
            "Incomplete: the recorder ended before it closed this recording; what follows is"
            f" what it had written by then.{lost}",
            "note",
        )
    if document["lost_events"]:
        yield paragraph(
            f"{document['lost_events']} events were lost: figures from events are too low.", "note"
        )


def phases(loads: Sequence[Summary]) -> Iterator[str]:
    """Phases by strategies, time and share, a few strategies to a table; and what each is."""
    found = in_phase_order({phase for load in loads for phase in load.phases})
    names = sorted(found, key=lambda name: -max(load.share(name) for load in loads))
    for start in range(0, len(loads), ABREAST):
        some = loads[start : start + ABREAST]
        rows: list[list[Cell | str]] = []
        for phase in names:
            row: list[Cell | str] = [phase]
            for load in some:
                spent = sum(load.phases.get(phase, (0, 0, 0)))
                shown = f"{format_ns(spent)} ({load.share(phase):.1%})" if spent else "-"
                row.append(Cell(shown, spent))
            rows.append(row)
        rows.append(["all", *(markup.ns(load.total) for load in some)])
        heads = ["phase", *(load.label for load in some)]
        yield table("Thread time by phase, and its share", heads, rows, key="phases")
    meanings = [[phase, MEANING.get(phase, "a phase of a newer recorder")] for phase in found]
    yield table("In a phase, the thread is or does", ["phase", "is"], meanings)


def times(loads: Sequence[Summary]) -> str:
    """The loader's own times, and cpu, blocked and runnable."""
    heads = ["strategy", "bytes", "rounds"]
    heads += [name.removesuffix("_ns") for name in (*TIMES, *KINDS)]
    rows = []
    for load in loads:
        row: list[Cell | str] = [load.label, markup.size(load.size), markup.number(len(load.loads))]
        row += [markup.ns(load.times[name]) for name in TIMES]
        for i in range(len(KINDS)):
            row.append(markup.ns(sum(parts[i] for parts in load.phases.values())))
        rows.append(row)
    return table(
        "Times by the loader's own clock, and what its threads did", heads, rows, key="times"
    )


def bill(loads: Sequence[Summary]) -> str:
    """The memory bill and the copies."""
    heads = ["strategy", *_BILL, "copies per byte"]
    rows: list[list[Cell | str]] = [
        [
            load.label,
            *(_billed(load, name) for name in _BILL.values()),
            _copied(load),
        ]
        for load in loads
    ]
    return table("The memory bill", heads, rows, key="memory")


def _billed(load: Summary, name: str) -> Cell:
    value = load.memory.get(name)
    hidden = OF_MEMORY.get(name) in load.hidden and not value
    return Cell("hidden") if hidden else markup.size(value)


def _copied(load: Summary) -> Cell:
    value = load.per_byte
    return Cell("hidden") if value is None else markup.number(value, f"{value:.2f}")


def block(loads: Sequence[Summary]) -> str:
    """Read requests and their latency."""
    names = ("p50", "p90", "p99", "max")
    rows: list[list[Cell | str]] = [
        [
            load.label,
            markup.number(load.block["requests"]),
            markup.size(load.block["read_bytes"]),
            *(markup.ns(load.block[n] if load.block["requests"] else None) for n in names),
        ]
        if "requests" not in load.hidden
        else [load.label, *[Cell("hidden")] * (2 + len(names))]
        for load in loads
    ]
    heads = ["strategy", "requests", "read", *names]
    return table("Read requests, issue to completion", heads, rows, key="block")


def kinds(loads: Sequence[Summary]) -> str:
    """Reads by kind, with the time they were queued; of the first round."""
    rows: list[list[Cell | str]] = []
    for load in loads:
        found = load.loads[0]["block"]
        for kind, each in found["kinds"].items():
            rows.append(
                [
                    load.label,
                    kind,
                    markup.number(each["requests"]),
                    markup.size(each["read_bytes"]),
                    *(markup.ns(each["queue_ns"][name]) for name in ("p50", "p99")),
                    *(markup.ns(each["latency_ns"][name]) for name in ("p50", "p99")),
                    markup.number(found["depth"]["mean"]),
                    markup.number(found["depth"]["max"]),
                ]
            )
    heads = ["strategy", "kind", "requests", "read", "queued p50", "p99", "device p50", "p99"]
    caption = "The first round's reads by kind; all of its kinds have one queue at the device"
    return table(caption, [*heads, "mean depth", "most"], rows)


def bounds(loads: Sequence[Summary]) -> str:
    """What bounded the wall time."""
    rows: list[list[Cell | str]] = []
    for load in loads:
        found = series.bounds(load)
        if found:
            wall = found["wall_ns"] or 1
            parts = [(part, found[f"{part}_ns"]) for part in charts.BOUND_BY]
            shares = (Cell(f"{ns / wall:.1%}" if ns else "-", ns) for _, ns in parts)
            rows.append([load.label, *shares, *(markup.ns(found[f"{n}_ns"]) for n in _REST)])
        else:
            rows.append([load.label, *[Cell("-")] * len(charts.BOUND_BY), Cell("-"), Cell("-")])
    heads = ["strategy", *charts.BOUND_BY.values(), "wall", "unseen waits"]
    return table("Share of the wall time", heads, rows, key="bounds")


_REST = ("wall", "unseen")


def readahead(loads: Sequence[Summary]) -> str:
    """What readahead brought and what became of it."""
    rows: list[list[Cell | str]] = []
    for load in loads:
        found = told([one["memory"].get("readahead") for one in load.loads])
        again = told([one["memory"].get("refaults") for one in load.loads])
        if found.get("added") or again.get("bytes"):
            names = ("added", "used", "mapped", "unread")
            cells = (markup.size(found.get(name)) for name in names)
            rows.append([load.label, *cells, markup.size(again.get("bytes"))])
    heads = ["strategy", "by readahead", "read", "only mapped", "for nothing", "refaulted"]
    return table("Readahead, all files of a load", heads, rows, key="readahead")


def removed(loads: Sequence[Summary]) -> str:
    """Who removed the file from the page cache; without what removed nothing."""
    found = {load.label: told([one["memory"].get("removed_by") for one in load.loads])
             for load in loads}  # fmt: skip
    names = [name for name in REMOVED_BY if any(one.get(name) for one in found.values())]
    if not names:
        return ""
    rows: list[list[Cell | str]] = [
        [label, *(markup.size(one.get(name)) for name in names)] for label, one in found.items()
    ]
    heads = ["strategy", *(REMOVED_BY[name] for name in names)]
    return table("What removed the file from the page cache", heads, rows, key="removed")


def overlap(loads: Sequence[Summary]) -> str:
    """Allocation and I/O at the same time."""
    names = ("alloc_ns", "io_ns", "both_ns")
    rows: list[list[Cell | str]] = [
        [load.label, *(markup.ns(load.overlap[name]) for name in names)] for load in loads
    ]
    heads = ["strategy", "allocating", "reading", "both at once"]
    return table("Allocation and I/O, each as long as any went on", heads, rows, key="overlap")


def published(beside: Beside) -> str:
    """One published table with ours."""
    rows: list[list[Cell | str]] = [
        [
            f"{row.number} {row.label}",
            row.strategy,
            markup.number(row.figure, f"{row.figure:,} {row.unit}" if row.figure else ""),
            markup.number(row.ratio, f"{row.ratio:.2f}" if row.ratio else ""),
            markup.ns(row.ours_ns) if row.ours_ns is not None else Cell("not recorded"),
            markup.number(row.ours_ratio, f"{row.ours_ratio:.2f}" if row.ours_ratio else ""),
        ]
        for row in beside.rows
    ]
    found = beside.table
    caption = f"{found.title} ({found.message_id}); {found.setting}"
    heads = ["row", "strategy", "published", "x row 1", "here", "x row 1"]
    return table(caption, heads, rows, key=f"published-{found.name}")


def verdicts(document: Mapping[str, Any], loads: Sequence[Summary]) -> Iterator[str]:
    """Whether reads were direct and contents right, and what a diagnosis says if there is one."""
    for finding in document.get("diagnosis") or ():
        if isinstance(finding, Mapping):
            yield paragraph(": ".join(str(v) for v in finding.values() if isinstance(v, str)))
    rows = []
    for load in loads:
        seen: dict[str, str] = {}
        for one in load.loads:
            seen.setdefault(one["direct"]["verdict"], one["direct"]["why"])
        for verdict, why in seen.items():
            rows.append([load.label, verdict, why, _contents(load)])
    heads = ["strategy", "direct I/O", "because", "contents"]
    yield table("Verdicts, by what was seen", heads, rows, key="verdicts")


def _contents(load: Summary) -> str:
    rounds = [*load.loads, *(one for one in load.failed if one not in load.loads)]
    bad = [one["round"] for one in rounds if one["verified"] is False]
    if bad:
        return f"DIFFER from the file in round {', '.join(map(str, bad))}"
    for one in rounds:
        if one["failed"] or one["refused"]:
            kind = "failed" if one["failed"] else "refused"
            return f"round {one['round']} {kind}: {one['failed'] or one['refused']}"
    good = sum(one["verified"] is True for one in rounds)
    if good == len(rounds):
        return "equal to the file"
    return f"compared in {good} of {len(rounds)} rounds"


def hidden(document: Mapping[str, Any]) -> Iterator[str]:
    """Hooks not attached, strategies not run, what recording cost."""
    missing = [hook for hook in document["hooks"] if hook["attached"] in (None, "null")]
    default = "its time is in the phase around it"
    yield table(
        "Hooks that are not attached, and what cannot be seen for that",
        ["hook", "phase", "hides"],
        [[str(h["name"]), str(h["phase"] or "-"), str(h["hides"] or default)] for h in missing],
        key="hidden",
    ) or paragraph("Every hook was attached." if document["hooks"] else "No hooks are named.")
    skipped = [[str(s["strategy"]), str(s["why"]), str(s["do"])] for s in document["skipped"]]
    yield table("Strategies that could not run", ["strategy", "why", "what to do"], skipped)
    yield paragraph(" ".join([trust.lost(document), *trust.cost(document)]))
    pairs: list[list[Cell | str]] = [
        [
            str(pair["strategy"]),
            markup.number(pair["pairs"]),
            *(
                markup.number(pair["ratio"][name], f"{pair['ratio'][name]:.3f}")
                for name in ("median", "min", "max")
            ),
        ]
        for pair in document["self"]["ab"]
    ]
    heads = ["strategy", "pairs", "median", "min", "max"]
    yield table("Wall time with the tracer over that without", heads, pairs, key="ab")


def loads(document: Mapping[str, Any]) -> Iterator[str]:
    """Every load by itself."""
    found = document["loads"]
    rows: list[list[Cell | str]] = [
        [
            load["strategy"],
            Cell(str(load["round"]), load["round"]),
            markup.ns(load["wall_ns"]),
            markup.ns(load["create_ns"]),
            markup.ns(load["io_ns"]),
            markup.ns(load["close_ns"]),
            markup.size(load["memory"]["page_cache_added"]),
            markup.number(load["block"]["requests"]),
            str(load["failed"] or load["refused"] or ("partial" if load["partial"] else "")),
        ]
        for load in found[:MOST]
    ]
    heads = [
        "strategy",
        "round",
        "wall",
        "create",
        "io",
        "close",
        "cache added",
        "reads",
        "outcome",
    ]
    yield table("Each load by itself", heads, rows, key="loads")
    if len(found) > MOST:
        yield paragraph(f"{len(found) - MOST} more: dmatrace export -f csv has them all.")
