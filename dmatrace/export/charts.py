"""The charts of the HTML export, as Plotly's data and layout; pure functions.

Their size does not grow with the recording: requests are binned, curves thinned and
intervals drawn as wide as can be seen.  Labels come from outside and Plotly reads a
little HTML in them, so every one goes through ``label``.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dmatrace.analysis.summary import KINDS, Summary
from dmatrace.analysis.time import in_phase_order
from dmatrace.safe import escaped

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

Chart = dict[str, Any]

POINTS = 400  # of a curve
COLUMNS, ROWS = 80, 30  # of a heat map
PIECES = 600  # of a waterfall's row
_LABEL = 48
#: What may bound a load at a moment, in few words.
BOUND_BY = {
    "alloc_io": "alloc + read", "alloc": "alloc", "cpu_io": "cpu + read", "cpu": "cpu",
    "io": "read", "queue": "queued", "runnable": "no CPU", "wait": "asleep",
}  # fmt: skip
_THREADS = "ms, all threads of the load"

#: Close hues for what is close: allocating is blue, reading green, copying red.
COLORS = {
    "user": "#bdbdbd", "syscall": "#8c8c8c", "heap-alloc": "#1f4e9c", "export": "#9ecae9",
    "udmabuf": "#4c78c8", "shmem": "#6baed6", "map": "#c6dbef", "vmap": "#a6bddb",
    "fault": "#e7a33e", "gup": "#c77b0a", "page-cache": "#238b45", "readahead": "#74c476",
    "copy": "#c4303a", "splice": "#e88a8f", "dio": "#7b52ab", "submit": "#b79bd6",
    "reclaim": "#000000", "release": "#8c6d4f", "module": "#17a2a2",
}  # fmt: skip
_KIND_COLORS = {"cpu": "#2f6f4f", "blocked": "#e0b040", "runnable": "#9a6fb0"}
_PART_COLORS = {
    "alloc_io": "#0b3c7a", "alloc": "#4c78c8", "cpu_io": "#1b7a4b", "cpu": "#74c476",
    "io": "#e0b040", "queue": "#c77b0a", "runnable": "#9a6fb0", "wait": "#bdbdbd",
}  # fmt: skip
#: Of what goes by time; dashed is what may lie on another curve.
_LINES = {
    "page cache": "#c4303a", "shmem": "#6baed6", "dma-buf": "#1f4e9c", "pinned": "#c77b0a",
    "memory": "#c4303a", "io": "#1f4e9c", "mean": "#1f4e9c", "most at once": "#9ecae9",
}  # fmt: skip
_DASHES = {"dma-buf": "dash", "pinned": "dot"}
_STEP_COLORS = {"create": "#1f4e9c", "io": "#238b45", "close": "#8c6d4f"}


def label(text: str) -> str:
    """``text`` for a chart: plain, short, and not HTML."""
    text = escaped(text)
    text = text if len(text) <= _LABEL else text[: _LABEL - 1] + "…"
    return html.escape(text, quote=False)


def _axis(title: str = "", **more: Any) -> dict[str, Any]:
    grid = {"gridcolor": "#e6e8eb", "zeroline": False, "automargin": True, "fixedrange": True}
    # 10,000, not 10k beside 1000.
    numbers = {"exponentformat": "none", "separatethousands": True}
    return {**grid, **numbers, "title": {"text": title}, **more}


def _names(loads: Sequence[Summary]) -> list[str]:
    return [label(load.label) for load in loads]


def breakdown(loads: Sequence[Summary]) -> Chart:
    """Where the thread time of each strategy went, by phase."""
    phases = in_phase_order({phase for load in loads for phase in load.phases})
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": label(phase),
            "y": _names(loads),
            "x": [sum(load.phases.get(phase, (0, 0, 0))) / 1e6 for load in loads],
            "marker": {"color": COLORS.get(phase, "#444")},
            "hovertemplate": "%{y}<br>" + label(phase) + ": %{x:.3f} ms<extra></extra>",
        }
        for phase in phases
    ]
    return _bars(data, len(loads), 36, _THREADS, barmode="stack", bargap=0.3)


def kinds(loads: Sequence[Summary]) -> Chart:
    """The same time on a CPU, blocked and runnable."""
    data = []
    for i, kind in enumerate(KINDS):
        name = kind.removesuffix("_ns")
        spent = [sum(parts[i] for parts in load.phases.values()) / 1e6 for load in loads]
        data.append(
            {
                "type": "bar", "orientation": "h", "name": name, "y": _names(loads), "x": spent,
                "marker": {"color": _KIND_COLORS[name]},
                "hovertemplate": "%{y}<br>" + name + ": %{x:.3f} ms<extra></extra>",
            }
        )  # fmt: skip
    return _bars(data, len(loads), 36, _THREADS, barmode="stack", bargap=0.3)


def bounds(rows: Sequence[tuple[str, Mapping[str, int]]]) -> Chart:
    """What bounded each strategy's wall time: (its name, {part: ns})."""
    names = [label(name) for name, _ in rows]
    data = [
        {
            "type": "bar", "orientation": "h", "name": shown, "y": names,
            "x": [found[f"{part}_ns"] / 1e6 for _, found in rows],
            "marker": {"color": _PART_COLORS[part]},
            "hovertemplate": "%{y}<br>" + shown + ": %{x:.3f} ms<extra></extra>",
        }
        for part, shown in BOUND_BY.items()
    ]  # fmt: skip
    return _bars(data, len(rows), 36, "ms of the wall time", barmode="stack", bargap=0.3)


def _bars(data: list[Chart], lines: int, each: int, title: str, **more: Any) -> Chart:
    """Horizontal bars: ``lines`` of ``each`` px, and below them as much legend as it takes.

    How many lines a legend has is known where the width is, so page/draw.js makes room.
    """
    plot = max(each * lines, 60)
    layout = {
        "height": plot + 90,
        "margin": {"l": 10, "r": 10, "t": 10, "b": 80},
        "paper_bgcolor": "#fff",
        "plot_bgcolor": "#fff",
        "showlegend": True,
        "legend": {
            "orientation": "h", "traceorder": "normal", "x": 0, "xref": "container",
            "y": 0, "yanchor": "bottom", "yref": "container",
        },
        "meta": {"plot": plot, "legend": [trace["name"] for trace in data if _listed(trace)]},
        "xaxis": _axis(title, rangemode="tozero"),
        "yaxis": _axis(autorange="reversed", type="category"),
        **more,
    }  # fmt: skip
    return {"data": data, "layout": layout}


def _listed(trace: Chart) -> bool:
    return bool(trace.get("showlegend", True))


def over_time(
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], unit: str
) -> Chart:
    """{strategy: {what: [(ms, value in ``unit``)]}} as steps, a plot for each."""
    data = []
    seen: set[str] = set()
    for row, (_, lines) in enumerate(curves.items(), start=1):
        for what, points in lines.items():
            kept = thin(points, POINTS)
            data.append(
                {
                    "type": "scatter", "mode": "lines+markers", "name": what, "legendgroup": what,
                    "showlegend": what not in seen, "x": [at for at, _ in kept],
                    "y": [value for _, value in kept],
                    "line": {"shape": "hv", "dash": _DASHES.get(what), "color": _LINES.get(what)},
                    "marker": {"size": 3}, "xaxis": f"x{row}", "yaxis": f"y{row}",
                    "hovertemplate": f"{what}: %{{y:.2f}} {unit} at %{{x:.2f}} ms<extra></extra>",
                }
            )  # fmt: skip
            seen.add(what)
    return _stacked(data, list(curves), 150, unit, {"rangemode": "tozero"})


def latencies(requests: Mapping[str, tuple[pd.DataFrame, Mapping[int, int]]]) -> Chart:
    """{strategy: (completed reads, {load_id: its begin})} as heat maps of the same scale."""
    import numpy as np

    data = []
    for row, (frame, starts) in enumerate(requests.values(), start=1):
        at = (frame["issue_ns"] - frame["load_id"].map(starts)).to_numpy(float) / 1e6
        took = np.maximum(frame["latency_ns"].to_numpy(float) / 1e3, 1e-3)
        counts, x, y = np.histogram2d(at, np.log10(took), bins=(COLUMNS, ROWS))
        data.append(
            {
                "type": "heatmap", "x": _middles(x), "y": [10**v for v in _middles(y)],
                "z": [[int(n) or None for n in line] for line in counts.T],
                "coloraxis": "coloraxis", "xaxis": f"x{row}", "yaxis": f"y{row}",
                "hovertemplate": "%{z} reads, %{y:.0f} us, at %{x:.1f} ms<extra></extra>",
            }
        )  # fmt: skip
    chart = _stacked(
        data, list(requests), 170, "us", {"type": "log", "nticks": 6, "minor": {"nticks": 0}}
    )
    scale = {
        "colorscale": "Viridis",
        "reversescale": True,
        "colorbar": {
            "title": {"text": "reads"},
            "lenmode": "pixels",
            "len": 200,
            "y": 1,
            "yanchor": "top",
            "tickformat": "d",
            "thickness": 14,
        },
    }
    chart["layout"]["coloraxis"] = scale
    return chart


def _middles(edges: np.ndarray[Any, Any]) -> list[float]:
    return [round(float(a + b) / 2, 6) for a, b in itertools.pairwise(edges)]


def _stacked(
    data: list[Chart], names: Sequence[str], each: int, unit: str, yaxis: Mapping[str, Any]
) -> Chart:
    """Plots one below the other, each with its strategy above it."""
    count = max(len(names), 1)
    height = 90 + each * count
    part, gap = 1 / count, 34 / (height - 80)
    legend = {"orientation": "h", "y": 1 + 28 / (height - 80), "x": 1, "xanchor": "right"}
    layout: dict[str, Any] = {
        "height": height,
        "margin": {"l": 10, "r": 10, "t": 30, "b": 40},
        "paper_bgcolor": "#fff",
        "plot_bgcolor": "#fff",
        "legend": legend,
        "annotations": [],
    }
    for row, name in enumerate(names, start=1):
        top = 1 - (row - 1) * part
        domain = [round(top - part + gap * 1.1, 4), round(top - gap * 0.3, 4)]
        title = "ms since the load began" if row == len(names) else ""
        layout[f"xaxis{row}"] = _axis(title, anchor=f"y{row}", rangemode="tozero")
        layout[f"yaxis{row}"] = _axis(unit, anchor=f"x{row}", domain=domain, **yaxis)
        layout["annotations"].append(
            {
                "text": f"<b>{label(name)}</b>", "x": 0, "xref": "paper", "xanchor": "left",
                "y": domain[1], "yref": "paper", "yanchor": "bottom", "showarrow": False,
            }
        )  # fmt: skip
    return {"data": data, "layout": layout}


def waterfall(rows: Sequence[tuple[str, str, Sequence[tuple[float, float]]]]) -> Chart:
    """(row, colour's name, [(begin, end) in ms]) as bars on one time line."""
    data = []
    colors = {**_STEP_COLORS, "allocating": "#4c78c8", "reading": "#74c476", "both": "#c4303a"}
    longest = max((end for _, _, pieces in rows for _, end in pieces), default=0.0)
    seen: set[str] = set()
    for name, color, pieces in rows:
        drawn = joined(pieces, longest / PIECES)
        data.append(
            {
                "type": "bar", "orientation": "h", "name": color, "legendgroup": color,
                "showlegend": color not in seen, "y": [label(name)] * len(drawn),
                "base": [start for start, _ in drawn], "x": [end - start for start, end in drawn],
                "marker": {"color": colors[color], "line": {"width": 0}},
                "hovertemplate": color + ": %{x:.3f} ms from %{base:.3f} ms<extra></extra>",
            }
        )  # fmt: skip
        seen.add(color)
    lines = list(dict.fromkeys(label(name) for name, _, _ in rows))
    order = _axis(autorange="reversed", type="category", categoryarray=lines)
    title = "ms since the load began"
    return _bars(data, len(lines), 24, title, barmode="overlay", bargap=0.2, yaxis=order)


def ratios(rows: Sequence[tuple[str, float | None, float | None]]) -> Chart:
    """(row, published ratio, ours) of one published table."""
    names = [label(name) for name, _, _ in rows]
    series = {
        "published": ([one[1] for one in rows], "#b0b7bf"),
        "this recording": ([one[2] for one in rows], "#1f4e9c"),
    }
    data = [
        {
            "type": "bar", "orientation": "h", "name": name, "y": names, "x": values,
            "marker": {"color": color},
            "hovertemplate": "%{y}<br>" + name + ": %{x:.2f} times row 1<extra></extra>",
        }
        for name, (values, color) in series.items()
    ]  # fmt: skip
    return _bars(data, len(rows), 44, "times as fast as row 1", barmode="group", bargap=0.3)


def thin(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most about ``most`` of a curve's points: of each stretch the first, greatest and last."""
    if len(points) <= most:
        return list(points)
    size = -(-3 * len(points) // most)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        chosen = {part[0], max(part, key=lambda point: point[1]), part[-1]}
        kept += sorted(chosen)
    return kept


def joined(pieces: Iterable[tuple[float, float]], gap: float) -> list[tuple[float, float]]:
    """Pieces with gaps that cannot be seen closed."""
    drawn: list[tuple[float, float]] = []
    for start, end in sorted(pieces):
        if drawn and start - drawn[-1][1] <= gap:
            drawn[-1] = (drawn[-1][0], max(end, drawn[-1][1]))
        else:
            drawn.append((start, end))
    return drawn
