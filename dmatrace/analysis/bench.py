"""What a bench measured, and what follows from it beside the published figures.

``Measurements`` is all that was seen; ``evaluate`` makes the ``Result`` that
every renderer reads.  Pure: no clock, no file, no system.

Medians and extremes are over the rounds in which a load succeeded.  A ratio to
row 1 is that of the medians over the rounds in which both succeeded; rounds are
interleaved, so each has a ratio of its own, and their least and greatest
enclose it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from dmatrace.literature import TABLES, Measure, Table

#: (bytes loaded, bytes of memory taken away meanwhile)
Place = tuple[int, int]

# What a first round may be slower by before it is worth a remark.
_SLOW_START = 1.25


@dataclass(frozen=True)
class Sample:
    """One load: times in ns, or why it failed.  ``split`` is the kernel's own account in ns."""

    round: int
    create_ns: int = 0
    io_ns: int = 0
    close_ns: int = 0
    verified: bool = False
    failed: str = ""
    split: Mapping[str, int] = field(default_factory=dict)

    def time(self, measure: Measure) -> int:
        """The time that ``measure`` is, or is computed of."""
        if measure is Measure.CREATE:
            return self.create_ns
        if measure is Measure.CLOSE:
            return self.close_ns
        return self.io_ns + (self.create_ns if measure is Measure.TOTAL else 0)


@dataclass(frozen=True)
class Cell:
    """All loads of one row at one place; or ``why`` there are none, and what to ``do``."""

    row: int
    size: int
    eaten: int
    samples: tuple[Sample, ...] = ()
    why: str = ""
    do: str = ""


@dataclass(frozen=True)
class Entry:
    """A row: its number, what it is called, and the strategy that was run for it."""

    number: int
    label: str
    strategy: str


@dataclass(frozen=True)
class Measurements:
    """One bench as it ran.  Sizes in bytes; ``machine`` is a list of (what, how) lines."""

    dmatrace: str
    started: str
    table: str
    rows: tuple[Entry, ...]
    sizes: tuple[int, ...]
    pressures: tuple[int, ...]
    rounds: int
    buffers: int
    block: int
    jobs: int
    depth: int
    gather: int
    file: str
    machine: tuple[tuple[str, str], ...]
    emulated: bool
    cells: tuple[Cell, ...]
    recording: str = ""
    interrupted: bool = False


@dataclass(frozen=True)
class Spread:
    """A median with its extremes, over ``n`` rounds."""

    median: float
    min: float
    max: float
    n: int


@dataclass(frozen=True)
class CellResult:
    """One row at one place: ours, and the published figures in the paper's units.

    Times are ns, rates MB/s (10^6 bytes), ``ratio`` is how many times as fast as
    row 1.  What there is no figure for is absent or None.
    """

    cell: Cell
    ours: Mapping[Measure, Spread]
    ratio: Spread | None
    published: Mapping[Measure, int]
    published_ratio: float | None

    @property
    def failures(self) -> tuple[Sample, ...]:
        """The loads that failed."""
        return tuple(sample for sample in self.cell.samples if sample.failed)


@dataclass(frozen=True)
class Modelled:
    """The patch1 breakdown, and the time that the published model makes of it, in ns.

    Plain: T = T(alloc) + T(vmap) + T(I/O).  Gathered: T = T(first gather) +
    max(T(remaining alloc), T(I/O)), with the plain load's alloc and I/O.
    """

    size: int
    eaten: int
    alloc_ns: float
    vmap_ns: float
    read_ns: float
    plain_ns: float
    plain_measured_ns: float
    gather: int
    gathered_ns: float
    gathered_measured_ns: float | None


@dataclass(frozen=True)
class Result:
    """Everything a renderer shows."""

    measured: Measurements
    table: Table | None
    base: int
    cells: Mapping[tuple[int, Place], CellResult]
    models: tuple[Modelled, ...]
    remarks: tuple[str, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        """Every (size, eaten) in the order of measuring."""
        found = self.measured
        return tuple((size, eaten) for size in found.sizes for eaten in found.pressures)

    @property
    def compared(self) -> Measure:
        """In which measure rows are set against row 1."""
        return self.table.compared if self.table else Measure.TOTAL


def evaluate(measured: Measurements) -> Result:
    """The result of what was measured."""
    table = TABLES.get(measured.table)
    compared = table.compared if table else Measure.TOTAL
    cells = {(cell.row, (cell.size, cell.eaten)): cell for cell in measured.cells}
    base = _base(measured, table)
    known = {row.number: row for row in table.rows} if table else {}
    found: dict[tuple[int, Place], CellResult] = {}
    for (number, place), cell in cells.items():
        first = cells.get((base, place))
        published: dict[Measure, int] = {}
        published_ratio = None
        if table:
            for measure in Measure:
                figure = table.figure(known[number], measure, *place)
                if figure is not None:
                    published[measure] = figure
            published_ratio = table.ratio(known[number], *place)
        found[number, place] = CellResult(
            cell,
            _ours(cell, first),
            ratio(first, cell, compared) if first else None,
            published,
            published_ratio,
        )
    models = tuple(_models(measured, table, cells)) if table else ()
    remarks = tuple(_remarks(measured, table, base, found))
    return Result(measured, table, base, found, models, remarks)


def _base(measured: Measurements, table: Table | None) -> int:
    """The number of the row that others are set against: the table's first, else the first run."""
    if table:
        return table.rows[0].number
    for cell in measured.cells:
        if any(not sample.failed for sample in cell.samples):
            return cell.row
    return measured.rows[0].number if measured.rows else 0


def spread(values: Sequence[float]) -> Spread:
    """Median and extremes; ValueError for no values."""
    if not values:
        raise ValueError("a spread of nothing")
    return Spread(median(values), min(values), max(values), len(values))


def good(cell: Cell) -> dict[int, Sample]:
    """The loads that succeeded, by round."""
    return {sample.round: sample for sample in cell.samples if not sample.failed}


def ratio(first: Cell, mine: Cell, measure: Measure) -> Spread | None:
    """How many times as fast as ``first``: None where no round has both.

    A load of no time at all has no ratio.
    """
    base, other = good(first), good(mine)
    rounds = [number for number in base if number in other]
    times = [(base[number].time(measure), other[number].time(measure)) for number in rounds]
    if not times or any(theirs <= 0 for _, theirs in times):
        return None
    each = [ours / theirs for ours, theirs in times]
    of_medians = median(ours for ours, _ in times) / median(theirs for _, theirs in times)
    # Rounding may put it a last bit outside of what encloses it.
    return Spread(min(max(of_medians, min(each)), max(each)), min(each), max(each), len(each))


def _ours(cell: Cell, first: Cell | None) -> dict[Measure, Spread]:
    samples = good(cell).values()
    if not samples:
        return {}
    found = {
        measure: spread([sample.time(measure) for sample in samples])
        for measure in (Measure.CREATE, Measure.IO, Measure.CLOSE, Measure.TOTAL)
    }
    io = found[Measure.IO]
    if io.min > 0:
        # Bytes a ns are 1000 MB/s.
        slowest, usual, fastest = (cell.size * 1000 / time for time in (io.max, io.median, io.min))
        found[Measure.RATE] = Spread(usual, slowest, fastest, io.n)
    times = ratio(first, cell, Measure.IO) if first else None
    if times:
        found[Measure.PERCENT] = Spread(
            100 * times.median, 100 * times.min, 100 * times.max, times.n
        )
    return found


def gathered_ns(alloc_ns: float, io_ns: float, size: int, gather: int) -> float:
    """T(first gather) + max(T(remaining alloc), T(I/O)), allocation being even over ``size``."""
    first = alloc_ns * min(gather, size) / size
    return first + max(alloc_ns - first, io_ns)


def _models(
    measured: Measurements, table: Table, cells: Mapping[tuple[int, Place], Cell]
) -> list[Modelled]:
    found: list[Modelled] = []
    if table.breakdown is None:
        return found
    for size in measured.sizes:
        for eaten in measured.pressures:
            plain = cells.get((table.breakdown_row, (size, eaten)))
            gathered = cells.get((table.gather_row, (size, eaten)))
            samples = [sample for sample in good(plain).values() if sample.split] if plain else []
            if not samples:
                continue
            alloc, vmap, read = (
                median(sample.split.get(name, 0) for sample in samples)
                for name in ("alloc_ns", "vmap_ns", "read_ns")
            )
            others = list(good(gathered).values()) if gathered else []
            found.append(
                Modelled(
                    size, eaten, alloc, vmap, read,
                    plain_ns=alloc + vmap + read,
                    plain_measured_ns=median(s.time(Measure.TOTAL) for s in samples),
                    gather=measured.gather,
                    gathered_ns=gathered_ns(alloc, read, size, measured.gather),
                    gathered_measured_ns=(
                        median(s.time(Measure.TOTAL) for s in others) if others else None
                    ),
                )
            )  # fmt: skip
    return found


def _remarks(
    measured: Measurements,
    table: Table | None,
    base: int,
    found: Mapping[tuple[int, Place], CellResult],
) -> list[str]:
    said: list[str] = []
    if measured.emulated:
        said.append(
            "This machine is emulated: absolute times are no evidence, and copying and"
            " zeroing are dearer than on hardware. Ratios within one table remain."
        )
    for cell in measured.cells:
        if cell.row == base and not good(cell):
            said.append("Row 1 has no figures of ours, so there are no ratios of ours to it.")
            break
    open_rows = undecided(base, found)
    if open_rows:
        many = "s" if len(open_rows) > 1 else ""
        said.append(
            f"These rounds do not tell row{many} {', '.join(map(str, open_rows))} from row"
            f" {base}: the ratios lie on both sides of 1."
        )
    slow = slow_start(measured)
    if slow is not None:
        said.append(
            f"In most rows round 1 was the slowest, by {slow:.2g} times the median of the"
            " others: memory or caches were touched for the first time. --warmup 1 leaves"
            " such a round out."
        )
    return said + list(table.remarks if table else ())


def undecided(base: int, found: Mapping[tuple[int, Place], CellResult]) -> list[int]:
    """Rows that were the faster one in one round and the slower one in another, at any place."""
    rows = {
        number
        for (number, _), cell in found.items()
        if number != base and cell.ratio and cell.ratio.min < 1 < cell.ratio.max
    }
    return sorted(rows)


def slow_start(measured: Measurements) -> float | None:
    """By how much round 1 was slower in the median row, if it was the slowest in most of them."""
    factors: list[float] = []
    slowest = 0
    for cell in measured.cells:
        times = {number: sample.time(Measure.TOTAL) for number, sample in good(cell).items()}
        first = times.pop(1, 0)
        others = list(times.values())
        if first and len(others) >= 2 and median(others) > 0:
            factors.append(first / median(others))
            slowest += first > max(others)
    if not factors or 2 * slowest <= len(factors) or median(factors) < _SLOW_START:
        return None
    return median(factors)
