"""A bench as a picture: how many times as fast as row 1, ours and published, with our spread.

By matplotlib: PNG and SVG from one description, without a browser or a display.
It is an optional extra and imported only here.
"""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

from dmatrace.analysis.bench import Result
from dmatrace.errors import CannotHere, DmatraceError, UsageError
from dmatrace.sizes import format_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg")
_ROW_IN = 0.42  # inches a row
_DPI = 150


def check(path: str) -> None:
    """UsageError for a suffix that is no picture, CannotHere without matplotlib."""
    if os.path.splitext(path)[1].lower() not in SUFFIXES:
        raise UsageError(f"--plot {path}: not a picture's name", do="end it in .png or .svg")
    if importlib.util.find_spec("matplotlib") is None:
        raise CannotHere(
            "--plot needs matplotlib",
            do="pip install matplotlib (or plot a -f json elsewhere, with --from)",
        )


def save(result: Result, path: str) -> None:
    """Write the picture; DmatraceError if it cannot be written."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    places = result.places
    rows = result.measured.rows
    height = 1.6 + _ROW_IN * len(rows)
    # A fixed salt and no date: the same bench gives the same SVG.
    with rc_context({"svg.hashsalt": "dmatrace", "hatch.linewidth": 0.6}):
        figure = Figure(figsize=(3.4 + 4.2 * len(places), height), layout="constrained")
        every = figure.subplots(1, len(places), sharey=True, squeeze=False)[0]
        for axes, place in zip(every, places, strict=True):
            _draw(axes, result, place)
        every[0].set_yticks(range(len(rows)), [f"{row.number} {row.label}" for row in rows])
        every[0].set_ylim(len(rows) - 0.5, -0.5)
        handles, labels = every[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize="small"
        )
        figure.suptitle(_title(result), fontsize="medium", x=0.01, ha="left")
        metadata = {"Date": None} if path.lower().endswith(".svg") else {}
        try:
            figure.savefig(path, dpi=_DPI, metadata=metadata)
        except OSError as error:
            raise DmatraceError(
                f"cannot write {path}: {error.strerror}", do="name another --plot"
            ) from None


def _title(result: Result) -> str:
    measured = result.measured
    name = f"Table {measured.table}" if measured.table else "Load strategies"
    emulated = ", emulated machine" if measured.emulated else ""
    return f"{name}: {measured.rounds} rounds{emulated}"


def _draw(axes: Axes, result: Result, place: tuple[int, int]) -> None:
    """Bars from the middle outwards: published white and hatched, ours dark, for grey prints."""
    rows = result.measured.rows
    both = result.table is not None
    width = 0.4 if both else 0.7
    published, mine, errors, where = [], [], [], []
    for at, row in enumerate(rows):
        cell = result.cells.get((row.number, place))
        if cell and cell.published_ratio is not None:
            published.append((at, cell.published_ratio))
        if cell and cell.ratio:
            spread = cell.ratio
            where.append(at + (width / 2 if both else 0))
            mine.append(spread.median)
            errors.append((spread.median - spread.min, spread.max - spread.median))
        else:
            axes.annotate(
                "not run" if cell is None or not cell.failures else "failed",
                (0, at + (width / 2 if both else 0)),
                xytext=(3, 0), textcoords="offset points", va="center", fontsize="x-small",
            )  # fmt: skip
    if published:
        axes.barh(
            [at - width / 2 for at, _ in published], [value for _, value in published], width,
            color="white", edgecolor="black", hatch="////", linewidth=0.8, label="published",
        )  # fmt: skip
    if mine:
        axes.barh(
            where, mine, width, color="0.35", edgecolor="black", linewidth=0.8,
            xerr=list(zip(*errors, strict=True)),
            error_kw={"color": "black", "ecolor": "black", "capsize": 2, "elinewidth": 1},
            label="ours: median, least and greatest",
        )  # fmt: skip
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlim(left=0)
    size, eaten = place
    under = f", {format_size(eaten)} eaten" if eaten else ""
    axes.set_title(f"{format_size(size)}{under}", fontsize="small")
    axes.set_xlabel(f"times as fast as row {result.base}", fontsize="small")
    axes.tick_params(labelsize="small")
