"""The tracer attached and a recording open, for as long as loads run under it."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dmatrace import __version__, interrupts
from dmatrace.detail import EXACT, Detail
from dmatrace.garbage import seldom
from dmatrace.recording import Writer
from dmatrace.session.devices import devices
from dmatrace.session.machine import device
from dmatrace.session.progress import Progress
from dmatrace.session.tracer import Tracer
from dmatrace.sizes import format_size

_SELF_COST: dict[str, Any] = {
    "bpf_ns": 0, "bpf_runs": 0, "recorder_cpu_ns": 0, "recorder_rss": 0, "ab": [], "programs": [],
}  # fmt: skip


@dataclass(frozen=True)
class Traced:
    """What a session records with."""

    tracer: Tracer
    writer: Writer

    @interrupts.held()
    def finish(self, skipped: Iterable[Mapping[str, str]], *, interrupted: bool) -> dict[str, Any]:
        """Write what is known at the end; returns what recording cost."""
        programs = self.tracer.self_cost()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cost = {
            **_SELF_COST,
            "bpf_ns": sum(each["run_time_ns"] for each in programs),
            "bpf_runs": sum(each["run_cnt"] for each in programs),
            "programs": programs,
            "recorder_cpu_ns": int((usage.ru_utime + usage.ru_stime) * 1e9),
            "recorder_rss": usage.ru_maxrss * 1024,
        }
        self.writer.update_meta(
            lost_events=self.tracer.lost,
            devices=devices(self.tracer.devices),
            lost=self.tracer.lost_by(),
            skipped=[dict(each) for each in skipped],
            interrupted=interrupted,
            self=cost,
        )
        return cost


@contextmanager
def traced(
    out: Path,
    meta: Mapping[str, Any],
    say: Progress,
    *,
    hooks: str = "auto",
    without: Collection[str] = (),
    force: bool = False,
    detail: Detail = EXACT,
    follow_fork: bool = True,
    newcomers: bool = False,
) -> Iterator[Traced]:
    """Attach, and open the recording with ``meta`` and what every recording says.

    Detaches and closes at the end.  Raises CannotHere or DmatraceError.
    """
    say("loading and attaching the BPF programs")
    started = time.monotonic()
    with ExitStack() as stack:
        tracer = Tracer(hooks, without, detail=detail, follow_fork=follow_fork, newcomers=newcomers)
        stack.callback(tracer.close)
        attached = sum(1 for hook in tracer.hooks if hook["attached"])
        kept = " (compiled before)" if tracer.program.warm else ""
        say(f"attached {attached} hooks in {time.monotonic() - started:.0f} s{kept}")
        for name, why in sorted(tracer.program.refused.items())[:1]:
            count = len(tracer.program.refused)
            say(f"the kernel refused {count} of its functions' hooks; {name}: {why}")
        every = {
            "dmatrace": __version__,
            "kernel": platform.release(),
            "machine": _machine(),
            "device": device(),
            "page_size": os.sysconf("SC_PAGE_SIZE"),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "detail": detail.level,
            "sample_hz": detail.hz,
            "hooks_mode": hooks,
            "hooks": tracer.hooks,
            "lost_events": 0,
            "skipped": [],
            "self": _SELF_COST,
        }
        writer = stack.enter_context(Writer.create(out, {**every, **meta}, force, owner=owner()))
        with seldom():
            yield Traced(tracer, writer)
        if tracer.lost:
            by = ", ".join(f"{name} {n}" for name, n in tracer.lost_by().items() if n)
            say(f"{tracer.lost} events were lost ({by}): figures are lower bounds")


def _machine() -> str:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{platform.machine()}, {os.cpu_count()} CPUs, {format_size(memory)}"


def owner() -> tuple[int, int] | None:
    """(uid, gid) of who typed sudo: what is written is theirs."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    return (int(uid), int(gid)) if uid.isdigit() and gid.isdigit() else None
