"""One ``dmatrace record`` of processes that are not our loaders, or of a command.

What is meant is looked up and checked before anything is compiled or changed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from dmatrace import interrupts
from dmatrace.bpf.program import check_machine
from dmatrace.detail import Detail
from dmatrace.errors import DmatraceError
from dmatrace.recording import check_place
from dmatrace.session import inventory, preflight, processes
from dmatrace.session.command import Command, User, find, invoking, user_name
from dmatrace.session.delays import Delays
from dmatrace.session.ledger import Ledger
from dmatrace.session.observe import FIRST, Observer
from dmatrace.session.observed import Process
from dmatrace.session.procevents import Event, ProcEvents
from dmatrace.session.progress import Progress
from dmatrace.session.taskstats import accounting
from dmatrace.session.traced import Traced, traced
from dmatrace.session.trying import Trying, Wanted
from dmatrace.session.ways import Ways

_TICK_S = 0.05


@dataclass(frozen=True)
class Options:
    """What to follow, exactly one of the first five; ``duration`` in seconds, None: no end."""

    pids: tuple[int, ...]
    comm: str | None
    cgroup: str | None
    dma_bufs: bool
    command: tuple[str, ...]
    duration: float | None
    follow: bool
    output: str | None
    force: bool
    hooks: str
    without: tuple[str, ...]
    detail: Detail
    interval: float
    say: Progress
    wanted: Wanted | None = None  # what to try afterwards


@dataclass(frozen=True)
class Recorded:
    """Where the recording is, and the command's exit code, None where there was none.

    ``tried`` is false where something was to be tried afterwards and was not, or failed.
    """

    path: Path
    code: int | None
    tried: bool = True


class _Target:
    """What is meant: the processes now, whether a new one is, and when it is over."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.cgroup = processes.Cgroup(options.cgroup) if options.cgroup else None

    def now(self) -> list[int]:
        """The processes that run; raises DmatraceError for one that cannot be traced."""
        options = self.options
        if options.comm is not None:
            found = processes.called(options.comm)
        elif self.cgroup is not None:
            found = self.cgroup.members()
            if found in ([], [os.getpid()]):
                who = "no process but dmatrace itself" if found else "no process"
                raise DmatraceError(
                    f"{who} is in control group {self.cgroup.path}",
                    do="start one in it first: recording ends when the group is empty",
                )
        elif options.dma_bufs:
            held = inventory.buffers()
            found = [holder.pid for buffer in held for holder in buffer.holders]
        else:
            found = [processes.check(pid).pid for pid in options.pids]
        if options.follow:
            found += [child for pid in found for child in processes.children(pid)]
        return [pid for pid in dict.fromkeys(found) if pid != os.getpid()]

    def more(self, event: Event) -> bool:
        """Whether the process of an exec or a change of name is meant."""
        if self.cgroup is not None:
            return self.cgroup.holds(event.tgid)
        comm = self.options.comm
        if comm is None:
            return False
        found = processes.look(event.tgid)
        return found is not None and found.comm == comm[:15] and event.tgid != os.getpid()

    @property
    def waits(self) -> bool:
        """Whether processes that are not there yet are meant too."""
        options = self.options
        return options.comm is not None or self.cgroup is not None or options.dma_bufs

    def over(self) -> bool:
        """Whether nobody can come any more."""
        return self.cgroup is not None and self.cgroup.gone

    def describe(self, pids: Sequence[int]) -> dict[str, Any]:
        """The recording's ``target``."""
        options = self.options
        found: dict[str, Any] = {"kind": "pid", "pids": list(pids), "follow": options.follow}
        if options.comm is not None:
            found["comm"] = options.comm
        if self.cgroup is not None:
            found["cgroup"] = self.cgroup.path
        if options.dma_bufs:
            found["dma_bufs"] = True
        return found

    def name(self, pids: Sequence[int]) -> str:
        """For the recording, where the user gave none."""
        options = self.options
        if self.cgroup is not None:
            return (os.path.basename(self.cgroup.path) or "cgroup") + ".dmt"
        if options.comm is not None:
            return options.comm.replace("/", "_") + ".dmt"
        if options.dma_bufs:
            return "dma-bufs.dmt"
        found = processes.look(pids[0])
        more = f"+{len(options.pids) - 1}" if len(options.pids) > 1 else ""
        return f"{found.comm.replace('/', '_') if found else 'process'}-{pids[0]}{more}.dmt"


def place(options: Options) -> Path:
    """Where the recording goes; named after the target where the user gave no name.

    Raises DmatraceError for a target that cannot be recorded.
    """
    if options.command:
        find(options.command[0], invoking(os.environ))
        return Path(options.output or f"{os.path.basename(options.command[0])}.dmt")
    target = _Target(options)
    return Path(options.output or target.name(target.now()))


def record(options: Options) -> Recorded:
    """Follow and record until the target ends, the time is over or a signal comes.

    Raises UsageError, CannotHere or DmatraceError.
    """
    return _command(options) if options.command else _processes(options)


def _processes(options: Options) -> Recorded:
    preflight.check_root()
    processes.check_namespace()
    target = _Target(options)
    pids = target.now()
    out = Path(options.output or target.name(pids))
    check_place(out, options.force)
    check_machine(options.without)
    with contextlib.ExitStack() as stack:
        stack.enter_context(interrupts.ending())
        observing = stack.enter_context(_Observing(options, target.describe(pids), out))
        observer, say = observing.observer(target.more), options.say
        given = set(options.pids)
        interrupted = False
        try:
            # Anew: compiling took seconds.
            found = _still(target)
            followed = [pid for pid in found if observer.add(pid)]
            if followed or target.waits:
                say(_following(observer, target))
            over = target.over if target.waits else lambda: not observer.alive(given)
            say(observing.watch(observer, over))
        except KeyboardInterrupt:
            interrupted = True
            say("interrupted: keeping what was recorded")
        finally:
            observing.finish(observer, interrupted=interrupted)
        tried = observing.attempt(observer)
    return Recorded(out, None, tried)


def _still(target: _Target) -> list[int]:
    """The processes that run now; one that has ended meanwhile is no error any more."""
    try:
        return target.now()
    except DmatraceError:
        return [pid for pid in target.options.pids if processes.alive(pid)]


def _following(observer: Observer, target: _Target) -> str:
    if not observer.processes:
        where = f"in {target.cgroup.path}" if target.cgroup else f"called {target.options.comm}"
        where = "that ask for a dma-buf" if target.options.dma_bufs else where
        return f"waiting for processes {where}; Ctrl-C ends"
    names = [f"{p.row['pid']} ({p.row['comm']})" for p in observer.processes]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"following {', '.join(names[:4])}{more}; Ctrl-C ends"


def _command(options: Options) -> Recorded:
    preflight.check_root()
    processes.check_namespace()
    user = invoking(os.environ)
    find(options.command[0], user)
    name = os.path.basename(options.command[0])
    out = Path(options.output or f"{name}.dmt")
    check_place(out, options.force)
    check_machine(options.without)
    meta = {"kind": "command", "command": list(options.command), "user": user_name(user)}
    with contextlib.ExitStack() as stack:
        stack.enter_context(interrupts.ending())
        observing = stack.enter_context(_Observing(options, meta, out, user=user))
        command = observing.command
        assert command is not None
        observer = observing.observer(None)
        started = False
        try:
            if not observer.add(command.pid):
                raise DmatraceError("the command's process ended before it was followed")
            command.go()
            started = True
            with _passed_on(command):
                observing.watch(observer, command.ended)
                if command.ended():
                    command.wait()
                    observer.ended(command.pid, command.status)
                observing.finish(observer, interrupted=False)
                # With a duration it may go on without us.
                code = command.wait()
        except KeyboardInterrupt:
            code = 130
        finally:
            if not started:
                observing.finish(observer, interrupted=True)
        observing.session.writer.update_meta(target={**meta, "exit_code": code})
        tried = observing.attempt(observer) if started else True
    return Recorded(out, code, tried)


@contextlib.contextmanager
def _passed_on(command: Command) -> Iterator[None]:
    """Ctrl-C reaches the command by its terminal, other signals by us; neither ends us."""

    def handle(number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            command.signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    old = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class _Observing(contextlib.ExitStack):
    """Accounting, proc connector, tracer and recording, for as long as this is entered."""

    session: Traced
    command: Command | None = None
    _interrupted = False

    def __init__(
        self, options: Options, target: dict[str, Any], out: Path, user: User | None = None
    ) -> None:
        super().__init__()
        self._options = options
        self._target = target
        self._out = out
        self._user = user

    def __enter__(self) -> _Observing:
        super().__enter__()
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def _open(self) -> None:
        options, say = self._options, self._options.say
        taskstats = self.enter_context(accounting(say))
        self.delays = Delays(taskstats) if taskstats else None
        try:
            self.events: ProcEvents | None = ProcEvents()
            self.callback(self.events.close)
        except OSError as error:
            self.events = None
            say(f"no proc connector ({error.strerror}): exit codes and new names are not seen")
        if options.command:
            # After the accounting was switched on, which counts for those born then, and before
            # libraries start threads.
            self.command = Command(options.command, self._user)
            self.callback(self.command.close)
        kinds = self.delays.kinds() if self.delays else []
        meta = {"target": self._target, "cache": "", "delay_kinds": kinds}
        self.session = self.enter_context(
            traced(
                self._out,
                meta,
                say,
                hooks=options.hooks,
                without=options.without,
                detail=options.detail,
                force=options.force,
                follow_fork=options.follow,
                newcomers=options.dma_bufs,
            )
        )

    def observer(self, more: Callable[[Event], bool] | None) -> Observer:
        """Who follows."""
        session = self.session
        session.tracer.load_id = FIRST
        session.tracer.forget_reads()
        followed: list[Process] = []
        ledger = Ledger(
            session.tracer,
            session.writer,
            self._options.interval,
            lambda: [each.row["pid"] for each in followed if not each.over],
        )
        say = self._options.say
        observer = Observer(
            session.tracer,
            session.writer,
            self.events,
            self.delays,
            say,
            more,
            ledger,
            session.tracer.newcomers,
            partial(Ways, session.tracer.program, session.writer.append),
        )
        followed = observer.processes
        ledger.begin()
        return observer

    def watch(self, observer: Observer, over: Callable[[], bool]) -> str:
        """Until the target is over or the time is; which it was."""
        began, duration = time.monotonic(), self._options.duration
        while True:
            observer.idle()
            if over():
                return "the target has ended"
            left = _TICK_S
            if duration is not None:
                left = began + duration - time.monotonic()
                if left <= 0:
                    return f"{duration:g} s are over"
            if not observer.behind:
                time.sleep(min(left, _TICK_S))

    def attempt(self, observer: Observer) -> bool:
        """``--try``, if it was given, after ``finish``; whether it went as asked."""
        options, session = self._options, self.session
        if options.wanted is None:
            return True
        trying = Trying(options.wanted, session, self.delays, options.say)
        first = len(observer.processes) + 1
        interrupted, well = self._interrupted, False
        try:
            well = trying.run(observer.named, first, options.interval)
        except KeyboardInterrupt:
            interrupted = True
            options.say("interrupted: keeping what was tried")
        finally:
            session.finish(trying.skipped.values(), interrupted=interrupted)
        return well

    def finish(self, observer: Observer, *, interrupted: bool) -> None:
        """The last look, and what it cost."""
        observer.finish()
        self._interrupted = interrupted
        if self.events and self.events.missed:
            self._options.say(f"{self.events.missed} births and ends of processes were not heard")
        self.session.finish((), interrupted=interrupted)
