#!/usr/bin/env python3
"""What tracers cost beside each other: dmatrace's two levels, bpftrace, and bcc's tools.

Every load is a load of the same file in the same session, cold.  A round takes the
contenders in a new order; each is attached, loads every strategy ``--loads`` times
between loads without anything attached, and is detached.  A ratio is a load's wall
time over the mean of the two untraced ones beside it.  bpftrace and bcc do
comparable work: the same functions' calls and time, time off the CPU, block
requests, page-cache additions.  They do less than dmatrace: no exclusive time.

Run it on a machine with nothing else to do.

    make bench-peers                                    in the lab's guest
    sudo .venv/bin/python benchmarks/peers.py --here    on this machine
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

# Last: in the guest a directory of the host is slow to look into, and -P leaves it out.
sys.path.append(str(Path(__file__).resolve().parent))

import measured

OUT = Path(__file__).resolve().parents[1] / "build"
LEDGER = "page-cache ledger"
CONTENDERS = (
    "nothing",
    "dmatrace sampled",
    "sampled without ledger",
    "dmatrace exact",
    "exact without statistics",
    "bpftrace",
    "bcc tools",
)
READY_S = 900  # an emulated machine compiles slowly, four tools at once more so

Attach = Callable[[int], contextlib.AbstractContextManager[None]]


def main() -> int:
    """Measure and print; exit 1 if the loads failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--strategy", default="dmabuf-bio,memfd-dio,memfd-bio", metavar="NAME[,NAME...]"
    )
    parser.add_argument("--size", default="256M", help="bytes of the file (default: 256M)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument("--loads", type=int, default=3, metavar="N", help="a round (default: 3)")
    parser.add_argument(
        "--contenders",
        default=",".join(CONTENDERS),
        metavar="NAME[,NAME...]",
        help="only these (default: all)",
    )
    parser.add_argument("--ram", action="store_true", help="the file is on a disk of memory")
    parser.add_argument("--seed", type=int, default=1, help="of the orders (default: 1)")
    parser.add_argument("--here", action="store_true", help="not in the lab's guest")
    parser.add_argument("-o", "--output", default=str(OUT / "peers.json"), help="the figures")
    args = parser.parse_args()
    if not args.here:
        lab = [sys.executable, "-m", "dmatrace", "lab", "run", "--", "python3", "-P"]
        again = [lab_file(), *sys.argv[1:], "--here"]
        return subprocess.run([*lab, *again], check=False).returncode
    # Not at the top: what runs in the guest must be found in the guest.
    from dmatrace.errors import DmatraceError

    try:
        found = measure(args)
    except DmatraceError as error:
        print(f"peers: {error.message}; {error.do}", file=sys.stderr)
        return 1
    Path(args.output).parent.mkdir(exist_ok=True)
    Path(args.output).write_text(json.dumps(found, indent=1) + "\n")
    show(found)
    return 0


def lab_file() -> str:
    """This file, which has the same path in the guest."""
    return str(Path(__file__).resolve())


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All rounds; the JSON document."""
    from dmatrace.session import machine, preflight, source
    from dmatrace.session.plan import raised
    from dmatrace.session.progress import Progress
    from dmatrace.session.strategies import Recorder, Request
    from dmatrace.sizes import parse_size

    say = Progress()
    names = preflight.select(args.strategy)
    size = parse_size(args.size)
    chance = random.Random(args.seed)
    ratios: dict[tuple[str, str], list[float]] = {}
    attaching: dict[str, list[float]] = {}
    absent: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(raised(names, size, say))
        directory = os.environ.get("DMATRACE_DATA", "/var/tmp")
        if args.ram:
            directory = stack.enter_context(measured.disk_of_memory(size))
        path = stack.enter_context(source.made(directory, size, say))
        skipped = preflight.check_strategies(names, size, path, 1 << 20)
        names = tuple(name for name in names if name not in skipped)
        request = Request(
            strategies=names,
            file=path,
            block=1 << 20,
            jobs=1,
            depth=1,
            rounds=1,
            cold=True,
            verify="sampled",
        )
        measured.touch_memory()
        plain = Recorder(request, None, None, say)
        stack.callback(plain.close)
        rows = contenders(request, say, stack, args.contenders.split(","))
        for name in names:  # The first pays for memory never touched before.
            wall(plain, name)
        for number in range(args.rounds):
            for contender in chance.sample(list(rows), len(rows)):
                if contender in absent:
                    continue
                try:
                    for name, ratio, took in one_turn(rows[contender], plain, names, args.loads):
                        ratios.setdefault((contender, name), []).append(ratio)
                        attaching.setdefault(contender, []).append(took)
                        say(f"[{number + 1}/{args.rounds}] {contender} {name}: {ratio:.3f}")
                except Absent as error:
                    absent[contender] = str(error)
                    say(f"{contender}: {error}")
        return {
            "kernel": platform.release(),
            "machine": dict(machine.describe(path)),
            "size": size,
            "rounds": args.rounds,
            "loads": args.loads,
            "seed": args.seed,
            "ram": args.ram,
            "ratios": [
                {
                    "contender": contender,
                    "strategy": name,
                    "loads": len(found),
                    "min": min(found),
                    "median": median(found),
                    "max": max(found),
                    "all": [round(ratio, 4) for ratio in found],
                }
                for (contender, name), found in sorted(ratios.items())
            ],
            "attach_s": {name: round(median(took), 1) for name, took in attaching.items()},
            "absent": absent,
        }


class Absent(Exception):
    """A contender that cannot run here."""


class Contender:
    """Something that can be attached; ``load`` is how loads are run under it."""

    def __init__(self, attach: Attach, recorder: Any = None) -> None:
        self.attach = attach
        self.recorder = recorder


def one_turn(
    contender: Contender, plain: Any, names: tuple[str, ...], loads: int
) -> Iterator[tuple[str, float, float]]:
    """(strategy, ratio, seconds to attach): untraced loads before, loads under it, untraced after.

    Loads of a strategy are compared with the mean of the untraced medians around them.
    """
    before = {name: [wall(plain, name) for _ in range(loads)] for name in names}
    started = time.monotonic()
    recorder = contender.recorder or plain
    with contender.attach(plain.pid):
        took = time.monotonic() - started
        during = {name: [wall(recorder, name) for _ in range(loads)] for name in names}
    after = {name: [wall(plain, name) for _ in range(loads)] for name in names}
    for name in names:
        base = (median(before[name]) + median(after[name])) / 2
        for each in during[name]:
            yield name, each / base, took


def wall(recorder: Any, strategy: str) -> int:
    """The wall time of one load in ns."""
    from dmatrace.errors import DmatraceError

    row = recorder.load(strategy)
    if row.get("failed"):
        raise DmatraceError(f"{strategy} failed: {row['failed']}", do="try record --strategy")
    return int(row["wall_ns"])


def contenders(
    request: Any, say: Any, stack: contextlib.ExitStack, wanted: list[str]
) -> dict[str, Contender]:
    """Those that are wanted by name; nobody is attached."""
    from dmatrace.detail import EXACT, HZ, Detail
    from dmatrace.session.strategies import Recorder
    from dmatrace.session.tracer import Tracer

    found: dict[str, Contender] = {
        # Nothing at all, as a contender: how far the method itself is from 1.
        "nothing": Contender(lambda _pid: contextlib.nullcontext())
    }
    functions: list[str] = []
    for name, detail, stats, without in (
        # Which part of the cost is the page cache's ledger, whose events come once per folio.
        ("sampled without ledger", Detail("sampled", HZ), True, (LEDGER,)),
        ("dmatrace sampled", Detail("sampled", HZ), True, ()),
        # Without the kernel's statistics of run time, which a recording switches on.
        ("exact without statistics", EXACT, False, ()),
        ("dmatrace exact", EXACT, True, ()),
    ):
        if name not in wanted and name != "dmatrace exact":  # which knows the functions
            continue
        say(f"compiling {name}")
        tracer = Tracer(without=without, detail=detail, stats=False)
        stack.callback(tracer.close)
        functions = [str(hook["function"]) for hook in tracer.hooks if hook["attached"] == "fentry"]
        recorder = Recorder(request, tracer, None, say)
        stack.callback(recorder.close)
        found[name] = Contender(unpaused(tracer, stats), recorder)
    script = bpftrace_script(functions)
    found["bpftrace"] = Contender(
        lambda pid: running(
            [["bpftrace", "-B", "line", "-e", script.replace("PID", str(pid))]], ("ready",)
        )
    )
    found["bcc tools"] = Contender(
        lambda pid: running(
            [
                ["offcputime-bpfcc", "-p", str(pid)],
                ["funclatency-bpfcc", "-p", str(pid), "-r", f"^({'|'.join(functions)})$"],
                ["biosnoop-bpfcc"],
                ["cachestat-bpfcc", "1"],
            ],
            ("Tracing", "Tracing", "TIME", "HITS"),
        )
    )
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise SystemExit(f"peers: no contender {unknown[0]!r}; there are: {', '.join(CONTENDERS)}")
    return {name: found[name] for name in CONTENDERS if name in wanted}


def unpaused(tracer: Any, stats: bool) -> Attach:
    """The tracer detached from now on, except inside of what this returns.

    ``stats``: with the kernel's BPF statistics, as in a recording; others run without.
    """
    from dmatrace.session.changes import BpfStats

    state = {"paused": tracer.paused()}
    state["paused"].__enter__()

    @contextlib.contextmanager
    def attached(_pid: int) -> Iterator[None]:
        state["paused"].__exit__(None, None, None)
        counting = BpfStats() if stats else None
        try:
            yield
        finally:
            if counting is not None:
                counting.close()
            tracer.drain()
            tracer.take()
            state["paused"] = tracer.paused()
            state["paused"].__enter__()

    return attached


def bpftrace_script(functions: list[str]) -> str:
    """What dmatrace hooks, as bpftrace does it: calls and time of each function, and the rest."""
    probes = [
        f"fentry:vmlinux:{function} /pid == PID/ {{ @at_{number}[tid] = nsecs; }}\n"
        f"fexit:vmlinux:{function} /pid == PID && @at_{number}[tid]/ {{\n"
        f'  @ns["{function}"] = sum(nsecs - @at_{number}[tid]);\n'
        f'  @calls["{function}"] = count(); delete(@at_{number}[tid]); }}'
        for number, function in enumerate(functions)
    ]
    return "\n".join(
        [
            *probes,
            """
tracepoint:raw_syscalls:sys_enter /pid == PID/ { @in[tid] = nsecs; }
tracepoint:raw_syscalls:sys_exit /pid == PID && @in[tid]/ {
  @syscalls[args.id] = sum(nsecs - @in[tid]); delete(@in[tid]); }
tracepoint:sched:sched_switch {
  if (pid == PID) { @off[args.prev_pid] = nsecs; }
  if (@off[args.next_pid]) {
    @off_cpu[args.next_pid] = sum(nsecs - @off[args.next_pid]); delete(@off[args.next_pid]); } }
tracepoint:filemap:mm_filemap_add_to_page_cache /pid == PID/ {
  @cached[args.s_dev, args.i_ino] = sum(4096 << args.order); }
tracepoint:block:block_rq_issue { @issued[args.dev, args.sector] = nsecs; }
tracepoint:block:block_rq_complete /@issued[args.dev, args.sector]/ {
  @usecs = hist((nsecs - @issued[args.dev, args.sector]) / 1000);
  delete(@issued[args.dev, args.sector]); }
interval:ms:500 { printf("ready\\n"); }
""",
        ]
    )


@contextlib.contextmanager
def running(commands: list[list[str]], ready: tuple[str, ...]) -> Iterator[None]:
    """Tools that are attached when they have said so on stdout, until Ctrl-C."""
    for command in commands:
        if shutil.which(command[0]) is None:
            raise Absent(f"{command[0]} is not installed")
    with contextlib.ExitStack() as stack:
        said, processes = [], []
        for command in commands:
            out = stack.enter_context(tempfile.NamedTemporaryFile("r"))
            errors = stack.enter_context(tempfile.NamedTemporaryFile("r"))
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=open(out.name, "w"),  # noqa: SIM115
                stderr=open(errors.name, "w"),  # noqa: SIM115
                env={**os.environ, "PYTHONUNBUFFERED": "1", "BPFTRACE_MAX_PROBES": "4096"},
            )
            stack.callback(measured.end, process, signal.SIGINT)
            processes.append((process, errors))
            said.append(out)
        deadline = time.monotonic() + READY_S
        while waiting := [
            each
            for each, out, word in zip(processes, said, ready, strict=True)
            if word not in Path(out.name).read_text()
        ]:
            for process, errors in waiting:
                if process.poll() is not None or time.monotonic() > deadline:
                    text = Path(errors.name).read_text().strip().splitlines()[-3:]
                    raise Absent(f"{process.args[0]} did not start: {' '.join(text)}")
            time.sleep(0.2)
        time.sleep(1)
        yield
        for process, errors in processes:
            if process.poll() is not None:
                raise Absent(f"{process.args[0]} ended: {Path(errors.name).read_text()[-300:]}")


def show(found: dict[str, Any]) -> None:
    """The table."""
    print(measured.machine(found))
    print(
        f"cold loads of {found['size'] >> 20} MiB; wall time over that of untraced loads beside,"
        f" {found['rounds']} rounds of {found['loads']}"
    )
    print(f"{'':<20}{'strategy':<22}{'min':>8}{'median':>8}{'max':>8}{'loads':>7}")
    for row in found["ratios"]:
        print(
            f"{row['contender']:<20}{row['strategy']:<22}{row['min']:>8.3f}{row['median']:>8.3f}"
            f"{row['max']:>8.3f}{row['loads']:>7}"
        )
    for name, seconds in found["attach_s"].items():
        print(f"{name}: attached in {seconds} s")
    for name, why in found["absent"].items():
        print(f"{name}: not measured: {why}")


if __name__ == "__main__":
    sys.exit(main())
