"""A bench as text: ours and the published figures beside each other, in the paper's columns.

Below 80 columns, whatever the table.  Medians stand in the tables, their
extremes below; what has no figure is a dash, and says why underneath.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dmatrace.analysis.bench import CellResult, Entry, Place, Result, Spread
from dmatrace.literature import Measure, in_ns
from dmatrace.report.layout import WIDTH, Style, cells
from dmatrace.sizes import format_ns, format_size, short_size

# Cells of a column with the gap before it; a column of two figures needs as much.
_NARROW, _WIDE = 14, 18
_SPREAD_LABEL = WIDTH - 50
_NONE = "-"
#: What a table of our own shows, for there is no paper's.
_OWN = (Measure.CREATE, Measure.IO, Measure.CLOSE, Measure.TOTAL, Measure.RATE)
_TITLES = {
    Measure.CREATE: "create",
    Measure.IO: "I/O",
    Measure.CLOSE: "close",
    Measure.TOTAL: "total",
    Measure.RATE: "I/O-MB/s",
    Measure.PERCENT: "I/O%",
}

Figure = Callable[[CellResult], str]


@dataclass(frozen=True)
class _Pair:
    """One column of a block: ours and, unless None, the published one, of the cells of a place."""

    title: str
    place: Place
    ours: Figure
    published: Figure | None
    published_title: str = "publ"


def render(result: Result, *, color: bool = False, ascii_only: bool = False) -> str:
    """The whole report, ending in one newline."""
    style = Style(color=color, ascii=ascii_only)
    blocks = [list(_header(result, style)), *_tables(result, style)]
    blocks += [
        list(part(result, style))
        for part in (_spreads, _models, _missing, _failures, _verified, _machine, _remarks)
    ]
    return "\n".join("\n".join(line.rstrip() for line in block) + "\n" for block in blocks if block)


def number(value: float) -> str:
    """Three significant digits, in full above 100, and at most five characters."""
    if value < 9.995:
        return f"{value:.2f}"
    if value < 99.95:
        return f"{value:.1f}"
    return f"{value:.0f}" if value < 99_999.5 else f"{value:.0e}".replace("e+0", "e")


def ours(measure: Measure, value: float) -> str:
    """A figure of ours in the unit of its column: ms, MB/s or %."""
    if measure is Measure.PERCENT:
        return f"{value:.0f}"
    return number(value if measure is Measure.RATE else value / 1e6)


def _header(result: Result, style: Style) -> Iterator[str]:
    measured, table = result.measured, result.table
    if table:
        title = f"Table {table.name}: {table.author}, {table.published}"
        yield style.paint(title, "bold")
        yield from style.wrap(table.title, "  ", "  ")
        yield f"  {table.message_id}"
        yield from style.wrap(f"published: {table.setting}", "    ", "  ")
    else:
        yield style.paint("Load strategies", "bold")
    sizes = ", ".join(format_size(size) for size in measured.sizes)
    many = f" in {measured.buffers} buffers" if measured.buffers > 1 else ""
    rounds = f"{measured.rounds} round{'s' if measured.rounds > 1 else ''}"
    jobs = f", {measured.jobs} jobs" if measured.jobs > 1 else ""
    file = f"{measured.file}, " if measured.file else ""
    yield from style.wrap(
        f"ours: {file}{sizes}{many}, cold, medians of {rounds}, interleaved; reads of at most"
        f" {format_size(measured.block)}{jobs}; x row 1: how many"
        f" times as fast; dmatrace {measured.dmatrace}, {measured.started}",
        "    ",
        "  ",
    )
    if measured.interrupted:
        text = "INTERRUPTED: this is what was measured by then."
        yield style.paint(text, "bad")


def _tables(result: Result, style: Style) -> Iterator[list[str]]:
    table = result.table
    if table is None:
        for place in result.places:
            pairs = [_pair(measure, place, None) for measure in _OWN]
            title = f"{_place(place)}; ms"
            yield list(_block(result, style, [*pairs, _ratio(place, "")], title))
        return
    measures = list(dict.fromkeys(column.measure for column in table.columns))
    if len(measures) > 1:
        for place in result.places:
            pairs = [_pair(measure, place, result) for measure in measures]
            if Measure.PERCENT not in measures:
                pairs.append(_ratio(place, "publ"))
            yield list(_block(result, style, pairs, _place(place)))
        return
    # The place stands above its column, which is longer when memory was eaten.
    least = _NARROW + (len(result.measured.pressures) > 1)
    fitting = max(1, (WIDTH - _label_cells(result)) // least)
    for places in _chunks(result.places, fitting):
        pairs = [_pair(measures[0], place, result, _place(place)) for place in places]
        yield list(_block(result, style, pairs, "total, ms"))
        pairs = [_ratio(place, _published_title(result, place), _place(place)) for place in places]
        yield list(_block(result, style, pairs, "x row 1"))


def _chunks(places: Sequence[Place], most: int) -> Iterator[Sequence[Place]]:
    for start in range(0, len(places), most):
        yield places[start : start + most]


def _place(place: Place) -> str:
    size, eaten = place
    return f"{short_size(size)}, {short_size(eaten)} eaten" if eaten else short_size(size)


def _pair(measure: Measure, place: Place, result: Result | None, title: str = "") -> _Pair:
    def mine(cell: CellResult) -> str:
        found = cell.ours.get(measure)
        return ours(measure, found.median) if found else _NONE

    def theirs(cell: CellResult) -> str:
        figure = cell.published.get(measure)
        if figure is None:
            return _NONE
        column = result.table.column(measure, *place) if result and result.table else None
        unit = column.unit if column else ""
        # Figures of ms, MB/s and % stand as they were printed.
        return number(in_ns(figure, unit) / 1e6) if unit == "ns" else str(figure)

    heading = title or _heading(measure, place, result)
    if result is None:
        return _Pair(heading, place, mine, None)
    published = _published_title(result, place) if title else "publ"
    return _Pair(heading, place, mine, theirs, published)


def _heading(measure: Measure, place: Place, result: Result | None) -> str:
    """The paper's own title of the column, or ours."""
    column = result.table.column(measure, *place) if result and result.table else None
    return column.title.replace(" (", "-").rstrip(")") if column else _TITLES[measure]


def _published_title(result: Result, place: Place) -> str:
    column = result.table.column(result.compared, *place) if result.table else None
    return column.title.split("(")[0] if column else "publ"


def _ratio(place: Place, published_title: str, title: str = "x row 1") -> _Pair:
    def mine(cell: CellResult) -> str:
        return number(cell.ratio.median) if cell.ratio else _NONE

    def theirs(cell: CellResult) -> str:
        return _NONE if cell.published_ratio is None else number(cell.published_ratio)

    return _Pair(title, place, mine, theirs if published_title else None, published_title)


def _block(result: Result, style: Style, pairs: Sequence[_Pair], title: str) -> Iterator[str]:
    """Two lines of heads, then a line a row."""
    labels = _label_cells(result)
    wide = min(_WIDE, (WIDTH - labels) // len(pairs))
    half = wide // 2
    heads = "".join(style.right(pair.title, wide) for pair in pairs)
    yield style.paint(style.left(title, labels) + heads, "bold")
    if any(pair.published for pair in pairs):
        yield " " * labels + "".join(
            style.right("ours", wide - half) + style.right(pair.published_title, half)
            for pair in pairs
        )
    for row in result.measured.rows:
        line = _row_label(row, labels, style)
        for pair in pairs:
            cell = result.cells.get((row.number, pair.place))
            mine = pair.ours(cell) if cell else _NONE
            if pair.published is None:
                line += style.right(mine, wide)
            else:
                line += style.right(mine, wide - half)
                line += style.right(pair.published(cell) if cell else _NONE, half)
        yield line


def _label_cells(result: Result) -> int:
    """As wide as the longest label with its number, and as the title above."""
    return max(16, *(3 + cells(row.label) for row in result.measured.rows))


def _row_label(row: Entry, wide: int, style: Style) -> str:
    return style.left(f"{row.number:>2} {row.label}", wide)


def _spreads(result: Result, style: Style) -> Iterator[str]:
    if result.measured.rounds < 2:
        return
    measure = result.compared
    named = f"{_TITLES[measure]}-ms"
    first = True
    for place in result.places:
        found = [
            (row, result.cells[row.number, place])
            for row in result.measured.rows
            if (row.number, place) in result.cells
        ]
        if not any(cell.ours for _, cell in found):
            continue
        if not first:
            yield ""
        first = False
        heads = style.right(f"{named}, min..max", 22) + style.right("x row 1, min..max", 20)
        title = style.left(f"Spread, {_place(place)}", _SPREAD_LABEL)
        yield style.paint(title + heads + style.right("rounds", 8), "bold")
        for row, cell in found:
            times = cell.ours.get(measure)
            if times is None:
                continue
            yield (
                _row_label(row, _SPREAD_LABEL, style)
                + style.right(_range(times, lambda value: ours(measure, value)), 22)
                + style.right(_range(cell.ratio, number), 20)
                + style.right(f"{times.n}/{result.measured.rounds}", 8)
            )


def _range(found: Spread | None, form: Callable[[float], str]) -> str:
    return f"{form(found.min)}..{form(found.max)}" if found else _NONE


def _models(result: Result, style: Style) -> Iterator[str]:
    table = result.table
    if table is None or table.breakdown is None:
        return
    published = table.breakdown
    yield style.paint(f"Where row {table.breakdown_row} goes", "bold")
    yield _line("", ("alloc", "vmap", "read", "sum", "measured"), style)
    parts: tuple[float, ...] = (published.alloc_ns, published.vmap_ns, published.read_ns)
    yield _line("published", _times((*parts, sum(parts))), style)
    for model in result.models:
        parts = (model.alloc_ns, model.vmap_ns, model.read_ns, model.plain_ns)
        where = f"ours, {_place((model.size, model.eaten))}"
        yield _line(where, _times((*parts, model.plain_measured_ns)), style)
    if not result.models:
        yield _line("ours", (_NONE,) * 5, style)
        return
    yield ""
    yield style.paint(f"The model of row {table.gather_row}", "bold")
    yield from style.wrap(
        f"T(first gather) + max(T(rest of alloc), T(I/O)), with row {table.breakdown_row}'s"
        f" alloc and read, gathered by {format_size(result.measured.gather)}",
        "  ",
        "  ",
    )
    yield _line("", ("model", "measured"), style)
    for model in result.models:
        where = f"ours, {_place((model.size, model.eaten))}"
        measured = model.gathered_measured_ns
        found = _times((model.gathered_ns,) if measured is None else (model.gathered_ns, measured))
        yield _line(where, found, style)


def _line(label: str, figures: Sequence[str], style: Style) -> str:
    return style.left(label, 24) + "".join(style.right(figure, 11) for figure in figures)


def _times(times: Sequence[float]) -> list[str]:
    return [format_ns(round(time)) for time in times]


def _missing(result: Result, style: Style) -> Iterator[str]:
    """Rows without figures of ours: each reason once, with all the rows that it keeps away."""
    places: dict[tuple[int, str, str], list[Place]] = {}
    for (row, place), cell in result.cells.items():
        if cell.cell.why:
            places.setdefault((row, cell.cell.why, cell.cell.do), []).append(place)
    if not places:
        return
    yield style.paint("Rows that cannot run here", "bold")
    reasons: dict[tuple[str, str, tuple[Place, ...]], list[int]] = {}
    for (row, why, do), where in sorted(places.items()):
        reasons.setdefault((why, do, tuple(where)), []).append(row)
    strategies = {row.number: row.strategy for row in result.measured.rows}
    for (why, do, found), rows in reasons.items():
        names = ", ".join(f"{row} {strategies[row]}" for row in rows)
        at = "" if len(found) == len(result.places) else f" at {_joined(found)}"
        yield from style.wrap(f"{names}{at}: {why}{'; ' + do if do else ''}", "    ", "  ")


def _joined(places: Sequence[Place]) -> str:
    return " and ".join(_place(place) for place in places)


def _failures(result: Result, style: Style) -> Iterator[str]:
    found = [(key, cell) for key, cell in result.cells.items() if cell.failures]
    if not found:
        return
    yield style.paint("Failed loads", "bad")
    for (row, place), cell in sorted(found, key=lambda each: each[0][0]):
        for sample in cell.failures:
            text = f"{row:>2} round {sample.round}, {_place(place)}: {sample.failed}"
            yield from style.wrap(text, "     ", "  ")


def _verified(result: Result, style: Style) -> Iterator[str]:
    samples = [sample for cell in result.cells.values() for sample in cell.cell.samples]
    loaded = [sample for sample in samples if not sample.failed]
    verified = sum(sample.verified for sample in loaded)
    yield from style.wrap(
        f"{verified} of {len(samples)} loads were compared with the file (untimed) and equal it."
    )
    if result.measured.recording:
        yield from style.wrap(
            f"The loads ran under the tracer, which slows them: {result.measured.recording}"
        )


def _machine(result: Result, style: Style) -> Iterator[str]:
    yield style.paint("Machine", "bold")
    for name, text in result.measured.machine:
        yield from style.wrap(text, " " * 18, f"  {name:<14}  ")


def _remarks(result: Result, style: Style) -> Iterator[str]:
    for text in result.remarks:
        yield from style.wrap(text, "  ", "- ")
