"""One ``dmatrace record --strategy``: checks, set-up, loads, tidying up.

Everything that can be wrong is looked at before anything is changed; what is
changed is put back on every way out.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from dmatrace import __version__
from dmatrace.bpf.program import check_machine
from dmatrace.errors import UsageError
from dmatrace.recording import Writer, check_place
from dmatrace.session import overhead, preflight, source
from dmatrace.session.changes import Parameter
from dmatrace.session.progress import Progress
from dmatrace.session.strategies import Recorder, Request
from dmatrace.session.tracer import Tracer
from dmatrace.sizes import format_size

_SIZE_LIMIT = "/sys/module/udmabuf/parameters/size_limit_mb"
_SELF_COST: dict[str, Any] = {
    "bpf_ns": 0, "bpf_runs": 0, "recorder_cpu_ns": 0, "recorder_rss": 0, "ab": [],
}  # fmt: skip


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
    verify: str
    raise_limits: bool
    hooks: str
    without: tuple[str, ...]
    ab: int
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
    out = Path(options.output or _default_name(names, options.strategies))
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
        stack.enter_context(_signals_interrupt())
        if options.raise_limits:
            stack.enter_context(_raised(size, options.say))
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
        rounds=options.rounds,
        cold=options.cold,
        verify=options.verify,
    )
    say("compiling and attaching the BPF programs")
    started = time.monotonic()
    tracer = Tracer(options.hooks, options.without)
    with contextlib.ExitStack() as stack:
        stack.callback(tracer.close)
        attached = sum(1 for hook in tracer.hooks if hook["attached"])
        say(f"attached {attached} hooks in {time.monotonic() - started:.0f} s")
        writer = stack.enter_context(
            Writer.create(out, _meta(options, names, path, tracer), options.force, owner=_owner())
        )
        recorder = Recorder(request, tracer, writer, say, skipped)
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
            lost = tracer.lost
            bpf_ns, bpf_runs = tracer.self_cost()
            usage = resource.getrusage(resource.RUSAGE_SELF)
            self_cost = {
                **_SELF_COST,
                "bpf_ns": bpf_ns,
                "bpf_runs": bpf_runs,
                "recorder_cpu_ns": int((usage.ru_utime + usage.ru_stime) * 1e9),
                "recorder_rss": usage.ru_maxrss * 1024,
            }
            writer.update_meta(
                lost_events=lost,
                skipped=list(recorder.skipped.values()),
                interrupted=interrupted,
                self=self_cost,
            )
        if options.ab and not interrupted:
            stack.enter_context(contextlib.suppress(KeyboardInterrupt))
            pairs = overhead.compare(request, tracer, recorder.skipped, options.ab, say)
            writer.update_meta(self={**self_cost, "ab": pairs})
        if lost:
            say(f"{lost} events were lost: figures are lower bounds")
    return Recorded(out, tuple(recorder.failed))


def _meta(options: Options, names: tuple[str, ...], path: str, tracer: Tracer) -> dict[str, Any]:
    return {
        "dmatrace": __version__,
        "kernel": platform.release(),
        "machine": _machine(),
        "page_size": os.sysconf("SC_PAGE_SIZE"),
        "target": {
            "kind": "strategy",
            "strategies": list(names),
            "file": path,
            "made": options.file is None,
        },
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "detail": "exact",
        "hooks_mode": options.hooks,
        "hooks": tracer.hooks,
        "lost_events": 0,
        "skipped": [],
        "cache": "cold" if options.cold else "warm",
        "block": options.block,
        "jobs": options.jobs,
        "self": _SELF_COST,
    }


def _machine() -> str:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{platform.machine()}, {os.cpu_count()} CPUs, {format_size(memory)}"


def _default_name(names: tuple[str, ...], given: str) -> str:
    if given.strip() == "all":
        return "all.dmt"
    more = f"+{len(names) - 1}" if len(names) > 1 else ""
    return f"{names[0]}{more}.dmt"


def _owner() -> tuple[int, int] | None:
    """Who typed sudo: the recording is theirs."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    return (int(uid), int(gid)) if uid.isdigit() and gid.isdigit() else None


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end a recording as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    old = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _raised(size: int, say: Progress) -> Iterator[None]:
    """udmabuf's size limit raised to what the file needs, if it is lower."""
    try:
        limit = int(Path(_SIZE_LIMIT).read_text())
    except OSError:
        yield  # no udmabuf here: its strategies say so themselves
        return
    needed = (size >> 20) + 1
    if limit >= needed:
        yield
        return
    # udmabuf_create() computes size_limit_mb << 20 in an int: 2048 wraps to a negative
    # number and so to no limit at all, 4096 wraps to zero.
    change = Parameter(_SIZE_LIMIT, str(min(needed, 2048)), say)
    try:
        yield
    finally:
        change.restore()
