"""One ``dmatrace record --strategy``: checks, set-up, loads, tidying up.

Everything that can be wrong is looked at before anything is changed; what is
changed is put back on every way out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmatrace import interrupts
from dmatrace.bpf.program import check_machine
from dmatrace.detail import Detail
from dmatrace.errors import UsageError
from dmatrace.recording import check_place
from dmatrace.session import module, overhead, preflight, source
from dmatrace.session.changes import Parameter
from dmatrace.session.delays import Delays
from dmatrace.session.progress import Progress
from dmatrace.session.strategies import Recorder, Request
from dmatrace.session.taskstats import accounting
from dmatrace.session.traced import traced
from dmatrace_loaders.limits import Limit
from dmatrace_loaders.table import strategies


@dataclass(frozen=True)
class Options:
    """The verb's options as they were given; sizes in bytes."""

    strategies: str
    file: str | None
    size: int | None
    directory: str | None
    rounds: int
    cold: bool
    output: str | None
    force: bool
    block: int
    jobs: int
    depth: int
    gather: int
    load_module: bool
    verify: str
    raise_limits: bool
    hooks: str
    without: tuple[str, ...]
    detail: Detail
    ab: int
    interval: float  # seconds
    say: Progress


@dataclass(frozen=True)
class Recorded:
    """Where the recording is, and the loads of it that failed, a line each."""

    path: Path
    failed: tuple[str, ...]


def record(options: Options) -> Recorded:
    """Run the loads and write the recording.

    Raises UsageError, CannotHere or DmatraceError; Ctrl-C ends the loads and
    keeps what was recorded.
    """
    names = preflight.select(options.strategies)
    out = place(options)
    check_place(out, options.force)
    preflight.check_root()
    directory = options.directory or "/var/tmp"
    if options.file is not None:
        size = source.check_file(options.file)
    elif not options.size:
        raise UsageError("--size must be at least 1 byte", do="for example --size 256M")
    else:
        size = options.size
        source.check_room(directory, size)
    check_machine(options.without)
    with contextlib.ExitStack() as stack:
        stack.enter_context(interrupts.ending())
        if options.raise_limits:
            stack.enter_context(raised(names, size, options.say))
        if options.load_module:
            stack.enter_context(module.loaded(names, size, options.say))
        preflight.check_strategies(names, size, options.file, options.block)
        path = options.file or stack.enter_context(source.made(directory, size, options.say))
        path = os.path.realpath(path)
        skipped = preflight.check_strategies(names, size, path, options.block)
        return _record(options, names, path, skipped, out)


def _record(
    options: Options, names: tuple[str, ...], path: str, skipped: preflight.Skipped, out: Path
) -> Recorded:
    say = options.say
    request = Request(
        strategies=names,
        file=path,
        block=options.block,
        jobs=options.jobs,
        depth=options.depth,
        gather=options.gather,
        rounds=options.rounds,
        cold=options.cold,
        verify=options.verify,
        interval=options.interval,
    )
    _say_unheeded(options, [name for name in names if name not in skipped])
    meta: dict[str, Any] = {
        "target": {
            "kind": "strategy",
            "strategies": list(names),
            "file": path,
            "made": options.file is None,
        },
        "cache": "cold" if options.cold else "warm",
        "block": options.block,
        "jobs": options.jobs,
        "depth": options.depth,
        "gather": options.gather,
    }
    with contextlib.ExitStack() as stack:
        # Before the loader's process is born: delays are known of those that begin with it on.
        taskstats = stack.enter_context(accounting(say))
        delays = Delays(taskstats) if taskstats else None
        meta["delay_kinds"] = delays.kinds() if delays else []
        session = stack.enter_context(
            traced(
                out,
                meta,
                say,
                hooks=options.hooks,
                without=options.without,
                force=options.force,
                detail=options.detail,
            )
        )
        recorder = Recorder(request, session.tracer, session.writer, say, skipped, delays)
        stack.callback(recorder.close)
        if options.cold:
            say("cold loads: the page cache is dropped before each (vm.drop_caches=1)")
        else:
            source.warm(path)
            say("warm loads: the file was read into the page cache once")
        interrupted = False
        try:
            recorder.run()
        except KeyboardInterrupt:
            interrupted = True
            say("interrupted: keeping what was recorded")
        finally:
            cost = session.finish(recorder.skipped.values(), interrupted=interrupted)
        if options.ab and not interrupted:
            with contextlib.suppress(KeyboardInterrupt):
                pairs = overhead.compare(request, session.tracer, recorder.skipped, options.ab, say)
                session.writer.update_meta(self={**cost, "ab": pairs})
    return Recorded(out, tuple(recorder.failed))


def _say_unheeded(options: Options, names: list[str]) -> None:
    """Name the strategies that an option given by the user does nothing for."""
    for option, default in Request.DEFAULTS.items():
        heeding = [name for name in names if option in strategies()[name].options]
        others = [name for name in names if name not in heeding]
        if getattr(options, option) == default or not others:
            continue
        if not heeding:
            options.say(f"--{option} does nothing for these strategies")
        elif len(others) <= len(heeding):
            options.say(f"--{option} does nothing for {', '.join(others)}")
        else:
            options.say(f"--{option} is for {', '.join(heeding)} alone")


def place(options: Options) -> Path:
    """Where the recording goes; named after the strategies where the user gave no name."""
    if options.output:
        return Path(options.output)
    if options.strategies.strip() == "all":
        return Path("all.dmt")
    names = preflight.select(options.strategies)
    more = f"+{len(names) - 1}" if len(names) > 1 else ""
    return Path(f"{names[0]}{more}.dmt")


@contextlib.contextmanager
def raised(names: tuple[str, ...], size: int, say: Progress) -> Iterator[None]:
    """The limits that these strategies meet, raised to what the file needs, if they are lower."""
    known = strategies()
    rooms: dict[Limit, int] = {}
    for name in names:
        for limit in known[name].limits:
            rooms[limit] = max(known[name].room(size), rooms.get(limit, 0))
    with contextlib.ExitStack() as stack:
        for limit, room in rooms.items():
            wanted = limit.wanted(room)
            if wanted is not None:
                change = Parameter(str(limit.path), str(wanted), say)
                stack.callback(change.restore)
        yield
