"""docs/ACCURACY.md from what the sections said on each kernel."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

from dmatrace.analysis.columns import TABLES
from tests.accuracy.row import Lacks, Missed, Row

#: figure, workload, oracle
Key = tuple[str, str, str]

_HEAD = """\
# Accuracy

Figures that dmatrace prints, each beside one that does not come from it. Made by
`make accuracy` in emulated guests; nothing here is typed in. A figure is named by its
place in a load of `dmatrace report -f json` ([docs/python.md](python.md) has its column).
The difference is ours less theirs, as a share of theirs; **no** is outside of the
tolerance; `-` is what that kernel cannot do or tell, and why is below the table.

A time that is out of its tolerance is measured again, at most twice, which is said below
the table: the host may take an emulated CPU away between the readings of two clocks, and
that does not repeat. A number of bytes, pages or events has one try.
"""


@dataclass
class Part:
    """What a section said, by kernel; ``ended`` has those where it ran to its end."""

    rows: dict[Key, dict[str, Row]] = field(default_factory=dict)
    lacks: dict[str, list[Lacks]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)

    def add(self, kernel: str, said: Row | Lacks) -> None:
        """Take one; a second row of the same name is a mistake in the section."""
        if isinstance(said, Lacks):
            self.lacks.setdefault(kernel, []).append(said)
            return
        rows = self.rows.setdefault((said.figure, said.workload, said.oracle), {})
        if kernel in rows:
            raise ValueError(f"two rows are called {said.figure}, {said.workload}, {said.oracle}")
        rows[kernel] = said

    def forget(self, kernel: str) -> None:
        """Drop what a section said before it did not run to its end."""
        for rows in self.rows.values():
            rows.pop(kernel, None)
        self.rows = {key: rows for key, rows in self.rows.items() if rows}
        self.lacks.pop(kernel, None)

    def late(self, kernel: str) -> set[Key]:
        """The rows of a kernel that are too far apart, and are times."""
        return {
            key
            for key, rows in self.rows.items()
            if kernel in rows and not rows[kernel].good and rows[kernel].unit == "ns"
        }

    def remeasured(self, kernel: str, row: Row, late: Container[Key]) -> None:
        """Take a row in the place of one that was ``late``, and say so."""
        key = row.figure, row.workload, row.oracle
        if key not in late:
            return
        first = self.rows[key][kernel]
        why = f"measured again, was {100 * first.difference:+.3f} % by {first.oracle}"
        self.lacks.setdefault(kernel, []).append(Missed(row.workload, why, row.figure))
        self.rows[key][kernel] = row

    def unexplained(self, kernels: Iterable[str]) -> list[str]:
        """Rows that a kernel does not have, and nobody said why."""
        found = []
        for kernel in kernels:
            if kernel not in self.ended:
                continue  # that it did not run to its end is said
            for (figure, workload, _), rows in self.rows.items():
                lacks = self.lacks.get(kernel, ())
                if kernel not in rows and not any(one.covers(figure, workload) for one in lacks):
                    found.append(f"{kernel}: no row for {figure} of {workload}, and no reason")
        return found


@dataclass
class Table:
    """Everything that was said."""

    sections: Sequence[str]
    releases: dict[str, str] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    #: Sections that did not run to their end.
    failed: list[str] = field(default_factory=list)

    def part(self, section: str) -> Part:
        """What a section said so far."""
        return self.parts.setdefault(section, Part())

    def bad(self) -> list[str]:
        """All that is wrong, a line each; none: every row is within its tolerance."""
        found = list(self.failed)
        for section, part in self.parts.items():
            found += [f"{section}: {line}" for line in part.unexplained(self.releases)]
            for rows in part.rows.values():
                found += [
                    f"{kernel}: {row.workload}: {row.figure} {row.ours:g}, {row.theirs:g} by"
                    f" {row.oracle}"
                    for kernel, row in rows.items()
                    if not row.good
                ]
        return found


def rendered(table: Table) -> str:
    """The page."""
    every = [
        row for part in table.parts.values() for rows in part.rows.values() for row in rows.values()
    ]
    releases = "; ".join(f"{name} is {release}" for name, release in table.releases.items())
    good = sum(row.good for row in every)
    lines = [_HEAD, f"{good} of {len(every)} are within their tolerance. Kernels: {releases}."]
    if table.failed:
        lines += ["", *(f"- **{line}**" for line in table.failed)]
    lines += ["", *_summary(table)]
    for section in table.sections:
        if section in table.parts:
            lines += ["", f"## {section}", "", *_section(table.parts[section], table.releases)]
    lines += ["", *_without({row.figure for row in every})]
    return "\n".join(lines) + "\n"


def _summary(table: Table) -> list[str]:
    """A row per figure: how often it was compared, and the worst of it on each kernel."""
    figures: dict[str, dict[str, list[Row]]] = {}
    for part in table.parts.values():
        for (figure, _, _), rows in part.rows.items():
            for kernel, row in rows.items():
                figures.setdefault(figure, {}).setdefault(kernel, []).append(row)
    lines = ["## Each figure, at its worst", "", *_headed("figure", "comparisons", table.releases)]
    for figure, by in sorted(figures.items()):
        cells = [
            _cell(max(by[kernel], key=lambda row: (not row.good, abs(row.difference))))
            if kernel in by
            else "-"
            for kernel in table.releases
        ]
        count = sum(len(rows) for rows in by.values())
        lines.append(_line(f"`{figure}`", str(count), *cells))
    return lines


def _section(part: Part, kernels: Iterable[str]) -> list[str]:
    kernels = list(kernels)
    lines = []
    if part.rows:
        lines += _headed("figure", "workload", "by whom", "tolerance", kernels)
    for (figure, workload, oracle), rows in part.rows.items():
        first = next(iter(rows.values()))
        cells = [_cell(rows[kernel]) if kernel in rows else "-" for kernel in kernels]
        lines.append(_line(f"`{figure}`", workload, oracle, first.tolerance, *cells))
    reasons: dict[str, list[str]] = {}
    for kernel in kernels:
        for one in part.lacks.get(kernel, ()):
            of = one.workload.rstrip(",:")
            of = f"`{one.figure}` of {of}" if one.figure else of
            reasons.setdefault(f"{of or 'all'}: {one.why}", []).append(kernel)
    if reasons:
        lines += ["", *(f"- {', '.join(on)}: {why}" for why, on in reasons.items())]
    return lines


def _without(held: set[str]) -> list[str]:
    """The figures of a load that nothing here is held against."""
    left = [
        column.name
        for column in TABLES["loads"].columns
        if column.unit and column.at and not any(_is(column.at, figure) for figure in held)
    ]
    lines = ["## Figures of a load without a row", ""]
    return [*lines, ", ".join(f"`{name}`" for name in left) or "None."]


def _is(at: str, figure: str) -> bool:
    """Whether a row's figure is the column's, or a part of it by name."""
    return figure == at or figure.startswith((f"{at} ", f"{at}.", f"{at},"))


def _headed(*names: str | Iterable[str]) -> list[str]:
    flat = [part for name in names for part in ([name] if isinstance(name, str) else name)]
    return [_line(*flat), "|---" * len(flat) + "|"]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(row: Row) -> str:
    if row.ours == row.theirs:
        said = "equal"
    elif not row.theirs:
        said = f"{row.ours:g} {row.unit} and not 0"
    else:
        said = f"{100 * row.difference:+.3f} %"
    return said if row.good else f"{said} **no**"
