"""A recording as one HTML page that needs nothing else: no network, no server.

Plotly draws; every chart has its figures beside it in a table, where each ``data``
element carries the exact value in ns or bytes.  The page forbids itself everything but
the two scripts it came with (Content-Security-Policy), so a name in a recording that
looks like a script stays a name.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from importlib import resources
from typing import TYPE_CHECKING, Any, BinaryIO

from dmatrace.analysis.summary import Summary, summaries
from dmatrace.export import Options, charts, series
from dmatrace.export import htmlfiles as files
from dmatrace.export import htmlloads as observed
from dmatrace.export import htmltables as tables
from dmatrace.export.markup import heading, paragraph, text
from dmatrace.export.published import beside

if TYPE_CHECKING:
    from dmatrace.analysis.frames import Frames

#: Bytes of the report's JSON that the page carries along; of more, threads are left out.
EMBEDDED = 4 << 20


def write(frames: Frames, out: BinaryIO, _options: Options) -> None:
    """The page of a recording to ``out``."""
    # The library's own script, as its package ships it.
    plotly = (resources.files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8")
    ours = resources.files("dmatrace.export") / "page"
    draw = (ours / "draw.js").read_text("utf-8")
    style = (ours / "style.css").read_text("utf-8")
    drawn: dict[str, charts.Chart] = {}
    body = "\n".join(_body(frames, drawn))
    title = text(f"{frames.title}: dmatrace")
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in (plotly, draw))
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline';"
        " img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    page = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>",
        f"<style>{style}</style>",
        "</head>",
        "<body>",
        body,
        _data("document", _embedded(frames.document)),
        _data("charts", drawn),
        f"<script>{plotly}</script>",
        f"<script>{draw}</script>",
        "</body>",
        "</html>",
        "",
    ]
    out.write("\n".join(page).encode("utf-8", "backslashreplace"))


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _data(name: str, found: Any) -> str:
    """JSON that a script reads; no "<" in it, so nothing in it ends the element."""
    body = json.dumps(found, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{body}</script>'


def _embedded(document: dict[str, Any]) -> dict[str, Any]:
    """The document, without its threads if it is large."""
    if len(json.dumps(document)) <= EMBEDDED:
        return document
    loads = [{**load, "threads": []} for load in document["loads"]]
    return {**document, "loads": loads, "left_out": "the threads of the loads"}


_SECTIONS = {
    "observed": "What was loaded, and how",
    "time": "Where the time went",
    "bounds": "What bounded the loads",
    "memory": "Page cache, dma-bufs and pinned memory",
    "requests": "Block requests",
    "waterfall": "Waterfall and overlap",
    "files": "Files, copies and processes",
    "published": "Beside the published tables",
    "verdicts": "Verdicts",
    "hidden": "What is hidden",
    "loads": "Every load",
}


def _body(frames: Frames, drawn: dict[str, charts.Chart]) -> Iterator[str]:
    document = frames.document
    loads = summaries(document["loads"])
    yield f"<h1>{text(frames.title)}</h1>"
    yield from tables.head(document)
    yield "<noscript><p class=note>Without JavaScript there are no charts; the tables have"
    yield "every figure.</p></noscript>"
    if not loads:
        yield paragraph("No loads in this recording.")
    found: dict[str, Callable[[], Iterator[str]]] = {
        "observed": lambda: observed.sections(document),
        "time": lambda: _time(loads, drawn),
        "bounds": lambda: _bounds(loads, drawn),
        "memory": lambda: _memory(frames, loads, drawn),
        "requests": lambda: _requests(frames, loads, drawn),
        "waterfall": lambda: _waterfall(frames, loads, drawn),
        "files": lambda: files.sections(loads),
        "published": lambda: _published(loads, drawn),
        "verdicts": lambda: tables.verdicts(document, loads),
        "hidden": lambda: tables.hidden(document),
        "loads": lambda: tables.loads(document),
    }
    parts = {name: list(make()) for name, make in found.items() if loads or name == "hidden"}
    links = (f'<a href="#{name}">{text(_SECTIONS[name])}</a>' for name in parts if parts[name])
    yield f"<nav>{' '.join(links)}</nav>"
    for name, lines in parts.items():
        if lines:
            yield f"<section>{heading(_SECTIONS[name], name)}"
            yield from lines
            yield "</section>"


def _chart(drawn: dict[str, charts.Chart], name: str, chart: charts.Chart, about: str) -> str:
    drawn[f"chart-{name}"] = chart
    height = chart["layout"]["height"]
    aria = f'role="img" aria-label="{text(about)}"'
    return f'<div class="chart" id="chart-{name}" {aria} style="height:{height}px"></div>'


def _time(loads: list[Summary], drawn: dict[str, charts.Chart]) -> Iterator[str]:
    yield paragraph(
        "Each nanosecond of each thread is in one phase: the innermost hooked function's."
        " Rounds of a strategy are shown by the median of each figure by itself.",
        "dim",
    )
    yield _chart(drawn, "phases", charts.breakdown(loads), "stacked bars of phases per strategy")
    yield from tables.phases(loads)
    yield _chart(drawn, "kinds", charts.kinds(loads), "stacked bars of cpu, blocked, runnable")
    yield tables.times(loads)


def _bounds(loads: list[Summary], drawn: dict[str, charts.Chart]) -> Iterator[str]:
    found = [(load.label, parts) for load in loads if (parts := series.bounds(load))]
    if not found:
        return
    yield paragraph(
        "Each moment of the wall time counts once, for the first that was true: a thread ran in"
        " an allocation, one ran elsewhere (each with or without a read at the device), a read"
        " was at the device, a read was queued, a thread waited for a CPU, all slept.",
        "dim",
    )
    yield _chart(drawn, "bounds", charts.bounds(found), "stacked bars of what bounded the loads")
    yield tables.bounds(loads)


def _memory(frames: Frames, loads: list[Summary], drawn: dict[str, charts.Chart]) -> Iterator[str]:
    curves = series.memory(frames, loads)
    if curves:
        yield paragraph(
            "By the first round of each strategy; the curves step where the recorder took a"
            " sample. The page cache is that of all files of the load, in a recording without"
            " samples that of the file loaded.",
            "dim",
        )
        chart = charts.over_time(curves, "MiB")
        yield _chart(drawn, "memory", chart, "page cache, dma-bufs and pinned memory over time")
    yield tables.bill(loads)
    yield tables.readahead(loads)
    yield tables.removed(loads)
    stalls = series.pressure(frames, loads)
    if stalls:
        yield paragraph(
            "Pressure (PSI, of the whole machine): the part of the time in which some task was"
            " stalled. Strategies that are not here met none.",
            "dim",
        )
        yield _chart(drawn, "pressure", charts.over_time(stalls, "%"), "pressure over time")


def _requests(
    frames: Frames, loads: list[Summary], drawn: dict[str, charts.Chart]
) -> Iterator[str]:
    found = series.requests(frames, loads)
    if found:
        yield paragraph(
            "Completed reads of all rounds: when the driver got them, and how long they took.",
            "dim",
        )
        yield _chart(drawn, "latency", charts.latencies(found), "heat map of read latency")
    yield tables.block(loads)
    yield tables.kinds(loads)
    curves = series.depths(frames, loads)
    if curves:
        yield paragraph("Requests at the device, by the first round of each strategy.", "dim")
        yield _chart(drawn, "depth", charts.over_time(curves, "reads"), "queue depth over time")


def _waterfall(
    frames: Frames, loads: list[Summary], drawn: dict[str, charts.Chart]
) -> Iterator[str]:
    rows = series.waterfall(frames, loads)
    if rows:
        yield paragraph(
            "By the first round of each strategy: the loader's steps by its own clock, calls"
            " that allocate, reads between driver and completion, and both at once. The"
            " buffer is compared with the file between io and close; that is not timed.",
            "dim",
        )
        yield _chart(drawn, "waterfall", charts.waterfall(rows), "steps of each load")
    yield tables.overlap(loads)


def _published(loads: list[Summary], drawn: dict[str, charts.Chart]) -> Iterator[str]:
    found = list(beside(loads))
    if not found:
        yield paragraph(
            "No published table has two of the recorded strategies, its row 1 among them, in"
            " cold loads. dmatrace bench runs those tables."
        )
        return
    yield paragraph(
        "Ratios to row 1 of each table, as published and in this recording. Other machines,"
        " other files; these loads were traced. dmatrace bench measures the tables as they"
        " were published.",
        "dim",
    )
    for one in found:
        name = one.table.name
        rows = [
            (f"{row.number} {row.strategy}", row.ratio, row.ours_ratio)
            for row in one.rows
            if row.ours_ns is not None
        ]
        yield heading(f"{name}: {one.table.author}, {one.table.published}")
        yield _chart(drawn, f"table-{name}", charts.ratios(rows), f"ratios of table {name}")
        yield tables.published(one)
