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
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

from dmatrace import __version__
from dmatrace.errors import CannotHere, DmatraceError, UsageError
from dmatrace.recording import Writer
from dmatrace.session.changes import Parameter
from dmatrace.session.strategies import Recorder, Request
from dmatrace.session.tracer import Tracer
from dmatrace.sizes import format_size

_SIZE_LIMIT = "/sys/module/udmabuf/parameters/size_limit_mb"


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
    say: Callable[[str], None]


def record(options: Options) -> Path:
    """Run the loads and write the recording; its path.

    Raises UsageError, CannotHere or DmatraceError; Ctrl-C ends the loads and
    keeps what was recorded.
    """
    names = select(options.strategies)
    out = Path(options.output or _default_name(options.strategies))
    if os.path.lexists(out) and not options.force:
        raise DmatraceError(f"{out} exists", do="choose another -o, or --force to replace it")
    if not out.parent.is_dir():
        raise DmatraceError(f"there is no directory {out.parent}", do=f"mkdir -p {out.parent}")
    if os.geteuid() != 0:
        raise CannotHere("tracing needs root", do="run it with sudo")
    if options.file is not None:
        check_file(options.file)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_signals_interrupt())
        path = options.file or stack.enter_context(_made(options))
        size = os.stat(path).st_size
        if options.raise_limits:
            stack.enter_context(_raised(size, options.say))
        return _record(options, names, os.path.realpath(path), out)


def select(names: str) -> tuple[str, ...]:
    """The strategies' names, checked.  Raises UsageError with the list and the nearest."""
    from dmatrace_loaders import table
    from dmatrace_loaders.errors import LoadError

    try:
        return tuple(strategy.name for strategy in table.select(names))
    except LoadError as error:
        raise UsageError(error.message, do=error.do) from None


def check_file(path: str) -> None:
    """Raise DmatraceError unless ``path`` is a readable, non-empty regular file."""
    try:
        found = os.stat(path)
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        raise DmatraceError(f"cannot read {path}: {error.strerror}", do="check --file") from None
    if stat.S_ISDIR(found.st_mode):
        raise DmatraceError(f"{path} is a directory", do="give --file a regular file")
    if not stat.S_ISREG(found.st_mode):
        raise DmatraceError(f"{path} is not a regular file", do="give --file a regular file")
    if found.st_size == 0:
        raise DmatraceError(f"{path} is empty", do="give --file a file with content")


def _record(options: Options, names: tuple[str, ...], path: str, out: Path) -> Path:
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
        recorder = Recorder(request, tracer, writer, say)
        stack.callback(recorder.close)
        if options.cold:
            say("cold loads: the page cache is dropped before each (vm.drop_caches=1)")
        else:
            _warm(path)
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
            self_cost: dict[str, Any] = {
                "bpf_ns": bpf_ns,
                "bpf_runs": bpf_runs,
                "recorder_cpu_ns": int((usage.ru_utime + usage.ru_stime) * 1e9),
                "recorder_rss": usage.ru_maxrss * 1024,
                "ab": [],
            }
            writer.update_meta(
                lost_events=lost,
                skipped=list(recorder.skipped.values()),
                interrupted=interrupted,
                self=self_cost,
            )
        if options.ab and not interrupted:
            stack.enter_context(contextlib.suppress(KeyboardInterrupt))
            pairs = compare(request, tracer, recorder, options.ab, say)
            writer.update_meta(self={**self_cost, "ab": pairs})
        if not recorder.finished and not interrupted:
            _nothing_ran(recorder)
        if lost:
            say(f"{lost} events were lost: figures are lower bounds")
    return out


def _nothing_ran(recorder: Recorder) -> None:
    skipped = list(recorder.skipped.values())
    first = skipped[0]
    raise CannotHere(f"{first['strategy']}: {first['why']}", do=first["do"])


def compare(
    request: Request,
    tracer: Tracer,
    traced: Recorder,
    pairs: int,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """The tracer's cost: interleaved loads with and without it, as ratios of wall times.

    "Without" means no probe attached anywhere: the programs are detached and
    attached again for each pair, in alternating order.
    """
    results = []
    plain = Recorder(request, None, None, say)
    try:
        for strategy in request.strategies:
            if strategy in traced.skipped:
                continue
            ratios = []
            for pair in range(pairs):
                times = {}
                for with_tracer in (True, False) if pair % 2 else (False, True):
                    if with_tracer:
                        times[True] = _wall(traced, strategy)
                    else:
                        with tracer.paused():
                            times[False] = _wall(plain, strategy)
                ratios.append(times[True] / times[False])
                say(f"[ab {pair + 1}/{pairs}] {strategy}: with/without {ratios[-1]:.3f}")
            results.append(
                {
                    "strategy": strategy,
                    "pairs": pairs,
                    "ratio": {"median": median(ratios), "min": min(ratios), "max": max(ratios)},
                }
            )
    finally:
        plain.close()
    return results


def _wall(recorder: Recorder, strategy: str) -> int:
    row = recorder.load(strategy, 0)
    if row.get("failed"):
        raise DmatraceError(f"{strategy} failed during --ab: {row['failed']}")
    return int(row["wall_ns"])


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
        "self": {"bpf_ns": 0, "bpf_runs": 0, "recorder_cpu_ns": 0, "recorder_rss": 0, "ab": []},
    }


def _machine() -> str:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{platform.machine()}, {os.cpu_count()} CPUs, {format_size(memory)}"


def _default_name(strategies: str) -> str:
    return f"{strategies.replace(',', '+')}.dmt"


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
def _made(options: Options) -> Iterator[str]:
    """A file of random content, written through to the disk, removed at the end."""
    assert options.size is not None
    if options.size < 1:
        raise UsageError("--size must be at least 1 byte", do="for example --size 256M")
    directory = options.directory or "/var/tmp"
    if not os.path.isdir(directory):
        raise DmatraceError(f"there is no directory {directory}", do="check --dir")
    free = os.statvfs(directory)
    if options.size > free.f_bavail * free.f_frsize:
        raise DmatraceError(
            f"no room for {options.size} bytes in {directory}", do="use --dir or a smaller --size"
        )
    path = os.path.join(directory, f"dmatrace-{os.getpid()}.bin")
    options.say(f"writing {path}")
    try:
        with open(path, "xb", buffering=0) as file:
            left = options.size
            while left:
                left -= file.write(os.urandom(min(left, 4 << 20)))
            os.fsync(file.fileno())
        yield path
    except OSError as error:
        raise DmatraceError(f"cannot write {path}: {error.strerror}", do="use --dir") from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _warm(path: str) -> None:
    buffer = bytearray(4 << 20)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


@contextlib.contextmanager
def _raised(size: int, say: Callable[[str], None]) -> Iterator[None]:
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
