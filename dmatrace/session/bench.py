"""One ``dmatrace bench``: which rows, then every load in interleaved rounds, then tidying up.

Everything that can be wrong is looked at before anything is changed; what is
changed is put back on every way out.  A row that cannot run here stays in the
table with its reason; a load that fails is a failure of its round alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime

from dmatrace import __version__, interrupts
from dmatrace.analysis.bench import Cell, Entry, Measurements, Place, Sample
from dmatrace.bpf.program import check_machine
from dmatrace.errors import CannotHere, DmatraceError
from dmatrace.recording import check_place
from dmatrace.session import eater, machine, module, source
from dmatrace.session.bar import Bar
from dmatrace.session.benchplan import Checks, Options, Plan, plan
from dmatrace.session.plan import raised
from dmatrace.session.rows import Row
from dmatrace.session.strategies import Recorder, Request
from dmatrace.session.traced import Traced, traced
from dmatrace.sizes import format_size
from dmatrace_loaders.table import strategies

_DEFAULT_DIRECTORY = "/var/tmp"


def measure(options: Options) -> Measurements:
    """Run the bench.  Raises UsageError, CannotHere, DmatraceError.

    Ctrl-C, SIGTERM and SIGHUP end it early, with what was measured by then.
    """
    planned = plan(options)
    if os.geteuid() != 0:
        raise CannotHere(
            "a bench needs root: it drops the page cache before each load", do="run it with sudo"
        )
    directory = options.directory or _DEFAULT_DIRECTORY
    if options.file is None:
        source.check_room(directory, max(planned.sizes))
    if options.pressure:
        eater.check_room(options.pressure, max(planned.sizes))
    if options.trace:
        check_place(options.trace, options.force)
        check_machine(())
    with contextlib.ExitStack() as stack:
        stack.enter_context(interrupts.ending())
        names = tuple(dict.fromkeys(row.strategy for row in planned.rows))
        each = planned.each(max(planned.sizes))
        no_module = stack.enter_context(_prepared(names, each, options.say))
        checks = Checks(planned, no_module)
        checks.some_can_run(options.file)
        session = stack.enter_context(_traced(options, planned)) if options.trace else None
        with options.say:
            return _Bench(options, planned, checks, directory, session).run()


@contextlib.contextmanager
def _prepared(names: tuple[str, ...], each: int, say: Bar) -> Iterator[CannotHere | None]:
    """Limits raised and the module loaded for buffers of ``each`` bytes, while the bench runs.

    Yields why there is no module, if it is wanted and cannot be had: the rows
    that need none run all the same.
    """
    known = tuple(name for name in names if name in strategies())
    no_module = None
    with contextlib.ExitStack() as stack:
        stack.enter_context(raised(known, each, say))
        try:
            stack.enter_context(module.loaded(known, each, say))
        except CannotHere as error:
            no_module = error
        yield no_module


def _traced(options: Options, planned: Plan) -> AbstractContextManager[Traced]:
    assert options.trace
    meta = {
        "target": {
            "kind": "strategy",
            "strategies": list(dict.fromkeys(row.strategy for row in planned.rows)),
            "file": options.file or "",
            "made": options.file is None,
        },
        "bench": {
            "table": options.table or "",
            "sizes": list(planned.sizes),
            "pressures": list(planned.pressures),
            "buffers": planned.buffers,
        },
        "cache": "cold",
        "block": planned.block,
        "jobs": options.jobs,
        "depth": options.depth,
        "gather": options.gather,
    }
    return traced(options.trace, meta, options.say, force=options.force)


class _Bench:
    """The running bench: its loads, and what came of them."""

    def __init__(
        self,
        options: Options,
        planned: Plan,
        checks: Checks,
        directory: str,
        session: Traced | None,
    ) -> None:
        self._options = options
        self._session = session
        self._checks = checks
        self._plan = planned
        self._directory = directory
        self._say = options.say
        self._cells: dict[tuple[int, Place], Cell] = {}
        self._load_id = 0
        self._eater: eater.Eater | None = None
        self._started = datetime.now(UTC).isoformat(timespec="seconds")

    def run(self) -> Measurements:
        """Every size, in clean memory and under pressure; or as far as it comes."""
        planned, options = self._plan, self._options
        rounds = options.warmup + options.rounds
        self._say("cold loads: the page cache is dropped before each (vm.drop_caches=1)")
        self._say.plan(
            [
                (row.number, size, eaten)
                for size in planned.sizes
                for eaten in planned.pressures
                for _ in range(rounds)
                for row in planned.rows
            ]
        )
        described: tuple[machine.Line, ...] = machine.describe(options.file or self._directory)
        interrupted = False
        try:
            for size in planned.sizes:
                try:
                    self._at_size(size)
                except DmatraceError as error:
                    self._missed(size, error)
        except KeyboardInterrupt:
            interrupted = True
            self._say.stop()
            if not self._measured_something():
                raise
            self._say("interrupted: the table holds what was measured by then")
        finally:
            if self._session is not None:
                self._session.finish(self._skipped(), interrupted=interrupted)
        return Measurements(
            dmatrace=__version__,
            started=self._started,
            table=planned.table.name if planned.table else "",
            rows=planned.rows,
            sizes=planned.sizes,
            pressures=planned.pressures,
            rounds=options.rounds,
            buffers=planned.buffers,
            block=planned.block,
            jobs=options.jobs,
            depth=options.depth,
            gather=options.gather,
            file=options.file or "",
            machine=described,
            emulated=machine.emulated(described),
            cells=tuple(self._cells.values()),
            recording=str(options.trace or ""),
            interrupted=interrupted,
        )

    def _skipped(self) -> list[dict[str, str]]:
        names = {row.number: row.strategy for row in self._plan.rows}
        return [
            {"strategy": names[cell.row], "why": cell.why, "do": cell.do}
            for cell in self._cells.values()
            if cell.why
        ]

    def _measured_something(self) -> bool:
        return any(cell.samples for cell in self._cells.values())

    def _missed(self, size: int, error: DmatraceError) -> None:
        """What this size needs could not be made: its rows say so, if there are any others."""
        if not self._measured_something():
            raise error
        for eaten in self._plan.pressures:
            for row in self._plan.rows:
                if (row.number, (size, eaten)) not in self._cells:
                    self._cannot(row, (size, eaten), error.message, error.do)

    def _at_size(self, size: int) -> None:
        with contextlib.ExitStack() as stack:
            path = self._options.file or stack.enter_context(
                source.made(self._directory, size, self._say)
            )
            path = os.path.realpath(path)
            for eaten in self._plan.pressures:
                with self._pressure(eaten), contextlib.closing(self._recorder(path, eaten)) as it:
                    self._at_place((size, eaten), path, it)

    def _recorder(self, path: str, eaten: int) -> Recorder:
        request, session = self._request(path, eaten), self._session
        if session is None:
            return Recorder(request, None, None, self._say)
        return Recorder(request, session.tracer, session.writer, self._say)

    def _request(self, path: str, eaten: int) -> Request:
        options = self._options
        return Request(
            strategies=tuple(row.strategy for row in self._plan.rows),
            file=path,
            block=self._plan.block,
            jobs=options.jobs,
            depth=options.depth,
            gather=options.gather,
            rounds=options.rounds,
            cold=True,
            verify=options.verify,
            buffers=self._plan.buffers,
            eaten=eaten,
        )

    @contextlib.contextmanager
    def _pressure(self, eaten: int) -> Iterator[None]:
        """A process that holds so much memory, unless it is none."""
        if not eaten:
            yield
            return
        self._say(f"taking {format_size(eaten)} of memory (given back at the end)")
        self._eater = eater.Eater(eaten)
        try:
            yield
        finally:
            self._eater.close()
            self._eater = None
            self._say(f"gave back {format_size(eaten)} of memory")

    def _check_pressure(self) -> None:
        if self._eater is not None:
            self._eater.check()

    def _at_place(self, place: Place, path: str, recorder: Recorder) -> None:
        planned = self._plan
        runnable = []
        for row in planned.rows:
            reason = self._checks.why_not(row, place[0], path)
            if reason is None:
                runnable.append(row)
                self._cells[row.number, place] = Cell(row.number, *place)
            else:
                self._cannot(row, place, *reason)
        warmup = self._options.warmup
        for number in range(1 - warmup, self._options.rounds + 1):
            for row in tuple(runnable):
                if not self._one(row, place, number, recorder):
                    runnable.remove(row)

    def _cannot(self, row: Entry, place: Place, why: str, do: str) -> None:
        old = self._cells.get((row.number, place), Cell(row.number, *place))
        self._cells[row.number, place] = dataclasses.replace(old, why=why, do=do)
        self._say.leave_out((row.number, *place))
        self._say(f"row {row.number} {row.strategy} cannot run: {why}; {do}")

    def _one(self, row: Entry, place: Place, number: int, recorder: Recorder) -> bool:
        """One load; whether the row is to be run again."""
        self._load_id += 1
        which = f"round {number}/{self._options.rounds}" if number > 0 else "warm-up"
        self._say.begin(f"{which}, row {row.number} {row.strategy}")
        began = time.monotonic()
        try:
            self._check_pressure()
            done = recorder.load(row.strategy, max(number, 0), self._load_id)
            # It is the first that the OOM killer takes, and loads bring it about.
            self._check_pressure()
        except CannotHere as error:
            self._cannot(row, place, error.message, error.do)
            return False
        except DmatraceError as error:
            sample = Sample(number, failed=str(error))
        else:
            if done.get("refused"):
                self._cannot(row, place, f"refused: {done['refused']}", "it is there to show that")
                return False
            sample = _sample(number, done)
        if number > 0:
            cell = self._cells[row.number, place]
            samples = (*cell.samples, sample)
            self._cells[row.number, place] = dataclasses.replace(cell, samples=samples)
        seconds = (sample.create_ns + sample.io_ns) / 1e9
        outcome = f"failed: {sample.failed}" if sample.failed else f"{seconds:.2f} s"
        self._say.end(time.monotonic() - began, seconds, outcome, stays=bool(sample.failed))
        return True


def _sample(number: int, row: Row) -> Sample:
    if row.get("failed"):
        return Sample(number, failed=str(row["failed"]))
    told = json.loads(row.get("module") or "{}")
    return Sample(
        number,
        create_ns=row["create_ns"],
        io_ns=row["io_ns"],
        close_ns=row["close_ns"],
        verified=bool(row["verified"]),
        split={name: value for name, value in told.items() if name.endswith("_ns")},
    )
