#!/usr/bin/env python3
"""What the live view costs: loads under `dmatrace record`, beside those under `dmatrace top`.

Every load is a cold load of the same file by the same strategy in one session.  A
round takes three contenders in a new order: a recorder alone, a recorder while an
empty Textual application stands on a terminal, and `dmatrace top`, which starts the
recorder itself.  Each loads the file ``--loads`` times.  The timeline of every
recorder has the view's interval, as one that a view starts has.

- Wall time of the loads, as a ratio within a round: the median of a contender's
  loads over the median of those under the recorder alone.
- CPU time (CLOCK_PROCESS_CPUTIME_ID) of recorder, view and empty application, each
  by itself, from a load's first call to its last, over that time: per cent of one
  core.  The loader's own is left out.

Run it on a machine with nothing else to do.

    make bench-top                                    in the lab's guest
    sudo .venv/bin/python benchmarks/top.py --here    on this machine
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import fcntl
import json
import os
import platform
import pty
import random
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

# Last: in the guest a directory of the host is slow to look into, and -P leaves it out.
sys.path.append(str(Path(__file__).resolve().parent))

import measured

OUT = Path(__file__).resolve().parents[1] / "build"
COLUMNS, LINES = 120, 40
RECORD, IDLE, TOP = "record", "record, idle app", "top"
CONTENDERS = (RECORD, IDLE, TOP)
AIM_CPU, AIM_WALL = 5.0, 1.02  # per cent of one core beyond an idle application; ratio
_SAMPLE_S = 0.02  # what a process does before and after a load must not be taken for its part
_PATIENCE_S = 1800  # an emulated machine compiles slowly
_DMATRACE = (sys.executable, "-m", "dmatrace")
_APP = "from textual.app import App; App().run()"

Seen = list[tuple[int, int]]  # (CLOCK_MONOTONIC ns, CPU ns of a process so far)


class Load(NamedTuple):
    """One load; CPU in per cent of one core, None where there is no such process."""

    wall_ns: int
    recorder: float
    view: float | None


def main() -> int:
    """Measure and print; exit 1 if a recorder or a view failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--strategy", default="anon-dio", metavar="NAME")
    parser.add_argument("--size", default="1G", help="bytes of the file (default: 1G)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--loads", type=int, default=3, metavar="N", help="a round (default: 3)")
    parser.add_argument("--interval", default="1", metavar="S", help="of the view (default: 1)")
    parser.add_argument("--seed", type=int, default=1, help="of the orders (default: 1)")
    parser.add_argument("--ram", action="store_true", help="the file is on a disk of memory")
    parser.add_argument("--here", action="store_true", help="not in the lab's guest")
    parser.add_argument("-o", "--output", default=str(OUT / "top.json"), help="the figures")
    args = parser.parse_args()
    if not args.here:
        lab = [sys.executable, "-m", "dmatrace", "lab", "run", "--frozen", "--", "python3", "-P"]
        again = [str(Path(__file__).resolve()), *sys.argv[1:], "--here"]
        return subprocess.run([*lab, *again], check=False).returncode
    # Not at the top: what runs in the guest must be found in the guest.
    from dmatrace.errors import DmatraceError

    try:
        found = measure(args)
    except DmatraceError as error:
        print(f"top: {error.message}; {error.do}", file=sys.stderr)
        return 1
    Path(args.output).parent.mkdir(exist_ok=True)
    Path(args.output).write_text(json.dumps(found, indent=1) + "\n")
    show(found)
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All rounds; the JSON document."""
    from dmatrace.session import machine, preflight, source
    from dmatrace.session.progress import Progress
    from dmatrace.sizes import parse_size

    say = Progress()
    (name,) = preflight.select(args.strategy)
    chance = random.Random(args.seed)
    loads: dict[str, list[Load]] = {each: [] for each in CONTENDERS}
    ratios: dict[str, list[float]] = {IDLE: [], TOP: []}
    with contextlib.ExitStack() as stack:
        size = parse_size(args.size)
        directory = os.environ.get("DMATRACE_DATA", "/var/tmp")
        if args.ram:
            directory = stack.enter_context(measured.disk_of_memory(size))
        path = stack.enter_context(source.made(directory, size, say))
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dmatrace-bench-")))
        options = [
            "--strategy", name, "--file", path, "--rounds", str(args.loads),
            "--interval", f"{args.interval}s",
        ]  # fmt: skip
        # Nobody's: it compiles, and touches memory that was never touched before.
        turn(RECORD, options, place / "first")
        for number in range(args.rounds):
            round_ = {}
            for each in chance.sample(CONTENDERS, len(CONTENDERS)):
                found = turn(each, options, place / f"{number}-{CONTENDERS.index(each)}")
                loads[each] += found
                round_[each] = median(load.wall_ns for load in found)
                say(f"[{number + 1}/{args.rounds}] {each}: {len(found)} loads")
            for each, gathered in ratios.items():
                gathered.append(round_[each] / round_[RECORD])
        return {
            "kernel": platform.release(),
            "machine": dict(machine.describe(path)),
            "strategy": name,
            "size": size,
            "ram": args.ram,
            "rounds": args.rounds,
            "loads": args.loads,
            "seed": args.seed,
            "interval_s": float(args.interval),
            "terminal": [COLUMNS, LINES],
            "wall_ratio": {
                each: spread(found) | {"all": [round(one, 4) for one in found]}
                for each, found in ratios.items()
            },
            "cpu_percent": {
                each: {
                    "recorder": spread([load.recorder for load in found]),
                    "other": spread([load.view for load in found if load.view is not None]),
                }
                for each, found in loads.items()
            },
            "beyond_idle_percent": beyond(loads),
            "wall_ns": {each: [load.wall_ns for load in found] for each, found in loads.items()},
        }


def spread(found: list[float]) -> dict[str, float]:
    """Least, median and greatest; nothing of nothing."""
    return {"min": min(found), "median": median(found), "max": max(found)} if found else {}


def beyond(loads: dict[str, list[Load]]) -> float:
    """CPU of recorder and view together, less that of an idle application: medians, per cent."""
    both = median(load.recorder + (load.view or 0) for load in loads[TOP])
    return both - median(load.view or 0 for load in loads[IDLE])


def turn(contender: str, options: list[str], place: Path) -> list[Load]:
    """The loads of one contender, recorded into a new directory."""
    place.mkdir()
    recorder: Seen = []
    other: Seen = []
    with contextlib.ExitStack() as stack:
        terminal = stack.enter_context(Terminal())
        errors = stack.enter_context(tempfile.TemporaryFile("w+"))
        if contender == TOP:
            # Without -o, as people type it: the recording is the view's until it ends.
            command = [*_DMATRACE, "top", *options]
            seen = terminal.start(command, TMPDIR=str(place))
            watched = seen
        else:
            command = [*_DMATRACE, "record", *options, "-q", "-o", str(place / "live.dmt")]
            if contender == IDLE:
                seen = terminal.start([sys.executable, "-c", _APP])
            watched = stack.enter_context(
                running(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
            )
        deadline = time.monotonic() + _PATIENCE_S
        child = None if contender == TOP else watched.pid
        while not (out := recording(place)):
            if watched.poll() is not None or time.monotonic() > deadline:
                break
            terminal.drain(_SAMPLE_S)
            child = child or first_child(watched.pid)
            if child:
                look(child, recorder)
            if contender != RECORD:
                look(seen.pid, other)
        # Before the view is left, which removes its recording.
        found = out and list(loads_of(out, recorder, other if contender != RECORD else None))
        if contender == TOP:
            terminal.press(b"q", watched)
        code = watched.wait(_PATIENCE_S)
        if contender == IDLE and seen.poll() is not None:
            raise failed("the idle application ended", terminal.said())
        if code or not found:
            errors.seek(0)
            raise failed(f"{command[3]} returned {code}", errors.read() or terminal.said())
    return found


def failed(what: str, said: str) -> Exception:
    """What to raise."""
    from dmatrace.errors import DmatraceError

    return DmatraceError(what, do=f"it said: {said.strip()[-400:]!r}")


def recording(place: Path) -> Path | None:
    """The recording below a directory, once its recorder has closed it."""
    for found in place.glob("**/live.dmt/meta.json"):
        with contextlib.suppress(OSError, ValueError):
            if json.loads(found.read_text()).get("complete") is True:
                return found.parent
    return None


def loads_of(out: Path, recorder: Seen, other: Seen | None) -> Iterator[Load]:
    """Each load of a recording with the CPU time that went by while it created and read."""
    from dmatrace.recording.tail import Tail

    tables = Tail.open(out).poll()
    spans: dict[int, list[int]] = {}
    for row in tables["threads"]:
        if row["window"] == 0:
            spans.setdefault(row["load_id"], []).extend((row["start_ns"], row["end_ns"]))
    for row in tables["loads"]:
        if row["failed"]:
            raise failed(f"{row['strategy']} failed", row["failed"])
        if row["end_ns"]:
            span = min(spans[row["load_id"]]), max(spans[row["load_id"]])
            yield Load(
                row["wall_ns"],
                share(recorder, *span),
                None if other is None else share(other, *span),
            )


def share(seen: Seen, begin: int, end: int) -> float:
    """CPU time between two moments over the time between them, in per cent."""
    return 100 * (at(seen, end) - at(seen, begin)) / (end - begin)


def at(seen: Seen, moment: int) -> float:
    """CPU ns at a moment, on the line between the two looks around it."""
    place = min(max(bisect.bisect_left(seen, (moment, 0)), 1), len(seen) - 1)
    (t0, cpu0), (t1, cpu1) = seen[place - 1], seen[place]
    return cpu0 + (cpu1 - cpu0) * (moment - t0) / (t1 - t0)


def look(pid: int, seen: Seen) -> None:
    """One look at a process's CPU time; nothing where it has ended."""
    # The clock of a whole process, ended threads included: clock_getcpuclockid(3), and
    # CPUCLOCK_SCHED of include/linux/posix-timers.h.  /proc/PID/stat has ticks of 10 ms.
    with contextlib.suppress(OSError):
        seen.append((time.monotonic_ns(), time.clock_gettime_ns((~pid << 3) | 2)))


def first_child(pid: int) -> int | None:
    """The recorder that a view has started, once it has."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else None
    return None


class Terminal:
    """A pseudo-terminal on which one program may run; what it draws is read and forgotten."""

    def __init__(self) -> None:
        self._leader, self._follower = pty.openpty()
        size = struct.pack("HHHH", LINES, COLUMNS, 0, 0)
        fcntl.ioctl(self._follower, termios.TIOCSWINSZ, size)
        self._stack = contextlib.ExitStack()
        self._last = b""

    def start(self, command: list[str], **variables: str) -> subprocess.Popen[bytes]:
        """Run a command on it until the end of the with."""
        ours = self._follower
        environment = {**os.environ, "TERM": "xterm-256color", **variables}
        environment.pop("NO_COLOR", None)
        return self._stack.enter_context(
            running(command, stdin=ours, stdout=ours, stderr=ours, env=environment)
        )

    def drain(self, seconds: float) -> None:
        """Read what is drawn for a while."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self._leader], [], [], left)[0]:
                self._last = (self._last + os.read(self._leader, 1 << 16))[-4096:]

    def press(self, keys: bytes, process: subprocess.Popen[bytes]) -> None:
        """Type keys, and let the program end."""
        os.write(self._leader, keys)
        deadline = time.monotonic() + _PATIENCE_S
        while process.poll() is None and time.monotonic() < deadline:
            self.drain(_SAMPLE_S)

    def said(self) -> str:
        """The end of what was drawn."""
        return self._last.decode(errors="replace")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        os.close(self._leader)
        os.close(self._follower)


@contextlib.contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has ended afterwards: by itself, or by SIGTERM, which a recorder heeds."""
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield process
    finally:
        measured.end(process, signal.SIGTERM)


def show(found: dict[str, Any]) -> None:
    """The table."""
    print(measured.machine(found))
    disk = " on a disk of memory" if found["ram"] else ""
    print(
        f"cold loads of {found['size'] >> 20} MiB{disk} by {found['strategy']}, {found['rounds']}"
        f" rounds of {found['loads']}; {COLUMNS}x{LINES}, drawn every {found['interval_s']:g} s"
    )
    print(f"{'':<18}{'wall time over record':>24}{'CPU, % of one core: median':>36}")
    print(f"{'':<18}{'min':>8}{'median':>8}{'max':>8}{'recorder':>18}{'view or app':>18}")
    for contender, cpu in found["cpu_percent"].items():
        ratio = found["wall_ratio"].get(contender, {"min": 1.0, "median": 1.0, "max": 1.0})
        other = f"{cpu['other']['median']:.1f}" if cpu["other"] else "-"
        print(
            f"{contender:<18}{ratio['min']:>8.3f}{ratio['median']:>8.3f}{ratio['max']:>8.3f}"
            f"{cpu['recorder']['median']:>18.1f}{other:>18}"
        )
    print(
        f"recorder and view beyond an idle app: {found['beyond_idle_percent']:.1f} % of one core"
        f" (aim: less than {AIM_CPU:g})"
    )
    ratio = found["wall_ratio"][TOP]["median"]
    print(f"a load under the view: {ratio:.3f} of one without (aim: at most {AIM_WALL})")


if __name__ == "__main__":
    sys.exit(main())
