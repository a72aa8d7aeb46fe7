"""What a bench is to run: its options made a plan, and which rows of it this machine can run."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from dmatrace.analysis.bench import Entry
from dmatrace.errors import CannotHere, UsageError
from dmatrace.literature import TABLES, Table
from dmatrace.session import source
from dmatrace.session.bar import Bar
from dmatrace_loaders.errors import LoadError, ModuleMissing
from dmatrace_loaders.kernel import page_round
from dmatrace_loaders.table import strategies

#: Without a table: bytes of the file, and of one read.
DEFAULT_SIZE = 256 << 20
_DEFAULT_BLOCK = 1 << 20
#: The literature reads a buffer with one call; a call takes at most this.
_MOST_BLOCK = 1 << 30


@dataclass(frozen=True)
class Options:
    """The verb's options as they were given; sizes in bytes, None where not given."""

    table: str | None
    globs: str | None
    sizes: tuple[int, ...] | None
    file: str | None
    directory: str | None
    rounds: int
    warmup: int
    pressure: int
    block: int | None
    jobs: int
    depth: int
    gather: int
    verify: str
    trace: Path | None
    force: bool
    say: Bar


@dataclass(frozen=True)
class Plan:
    """What will be loaded: rows at places, so many times."""

    table: Table | None
    rows: tuple[Entry, ...]
    sizes: tuple[int, ...]
    pressures: tuple[int, ...]
    buffers: int
    block: int

    def each(self, size: int) -> int:
        """Bytes of one buffer."""
        return -(-size // self.buffers)


def plan(options: Options) -> Plan:
    """The bench that these options ask for; UsageError where they contradict each other."""
    table = TABLES[options.table] if options.table else None
    if options.file is not None:
        if options.sizes:
            raise UsageError("--file has a size of its own", do="leave out --size and --sizes")
        sizes: tuple[int, ...] = (source.check_file(options.file),)
    elif options.sizes:
        sizes = tuple(dict.fromkeys(options.sizes))
    else:
        sizes = table.sizes if table else (DEFAULT_SIZE,)
    if 0 in sizes:
        raise UsageError("a size must be at least 1 byte", do="for example --sizes 8M,1G")
    buffers = table.buffers if table else 1
    # In whole pages, else direct I/O would read the last bytes of each by themselves.
    largest = page_round(-(-max(sizes) // (buffers * options.jobs)))
    block = options.block or (min(largest, _MOST_BLOCK) if table else _DEFAULT_BLOCK)
    pressures = (0, options.pressure) if options.pressure else (0,)
    return Plan(table, _rows(table, options.globs), sizes, pressures, buffers, block)


def _rows(table: Table | None, globs: str | None) -> tuple[Entry, ...]:
    if table:
        every = [Entry(row.number, row.label, row.strategy) for row in table.rows]
    else:
        every = [Entry(number, name, name) for number, name in enumerate(strategies(), start=1)]
    if globs is None:
        return tuple(every)
    wanted = [part.strip() for part in globs.split(",") if part.strip()]
    chosen: list[Entry] = []
    for glob in wanted:
        found = [row for row in every if fnmatchcase(row.strategy, glob)]
        if not found:
            names = list(dict.fromkeys(row.strategy for row in every))
            near = difflib.get_close_matches(glob, names, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}? " if near else ""
            where = f"table {table.name}" if table else "the strategies"
            raise UsageError(
                f"--strategies {glob}: nothing in {where} is called so",
                do=f"{hint}there are: {', '.join(names)}",
            )
        chosen += found
    if not chosen:
        raise UsageError("--strategies names nothing", do="for example --strategies 'udmabuf-*'")
    # Row 1 is what all are set against.
    kept = {row.number for row in chosen} | ({every[0].number} if table else set())
    return tuple(row for row in every if row.number in kept)


@dataclass(frozen=True)
class Checks:
    """What this machine can run of a plan; ``no_module``: why the loader module is not there."""

    plan: Plan
    no_module: CannotHere | None

    def why_not(self, row: Entry, size: int, path: str | None) -> tuple[str, str] | None:
        """(why, what to do) if the row cannot load ``size`` bytes (of ``path``) now."""
        strategy = strategies().get(row.strategy)
        if strategy is None:
            return f"there is no strategy {row.strategy} here", "install what brings it"
        try:
            strategy.check(size, self.plan.buffers)
            if path is not None:
                strategy.open(path, self.plan.block).close()
        except LoadError as error:
            known = self.no_module if isinstance(error, ModuleMissing) else None
            return (known.message, known.do) if known else (error.message, error.do)
        return None

    def some_can_run(self, path: str | None) -> None:
        """CannotHere with the first reason if none can."""
        reasons = [
            self.why_not(row, size, path) for size in self.plan.sizes for row in self.plan.rows
        ]
        first = reasons[0]
        if first is not None and all(reasons):
            raise CannotHere(f"no row can run here: {first[0]}", do=first[1])
