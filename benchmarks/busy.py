#!/usr/bin/env python3
"""What tracers cost a process that does nothing but read in small pieces, with many threads.

A target reads a cached file; its throughput while a tracer is attached, over that
of the runs without one before and after it, is the ratio.  A round takes the tracers in a
new order.  bpftrace does less: it counts calls and bytes by thread.

    make bench-busy                                    in the lab's guest
    sudo .venv/bin/python benchmarks/busy.py --here    on this machine
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# Last: in the guest a directory of the host is slow to look into, and -P leaves it out.
sys.path.append(str(Path(__file__).resolve().parent))

import measured

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "build" / "busy"
_BPFTRACE = """
kprobe:filemap_read { @calls[tid] = count(); }
kretprobe:filemap_read /(int64)retval > 0/ { @bytes[tid] = sum((int64)retval); }
BEGIN { printf("ready\\n"); }
"""
TRACERS = ("exact", "sampled", "bpftrace")
READY_S = 600


def main() -> int:
    """Measure and print; exit 1 if a tracer failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=64, metavar="N", help="default: 64")
    parser.add_argument("--reads", type=int, default=5000, metavar="N", help="each (default: 5000)")
    parser.add_argument("--bytes", type=int, default=4096, metavar="N", help="default: 4096")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument("--seed", type=int, default=1, help="of the orders (default: 1)")
    parser.add_argument("--here", action="store_true", help="not in the lab's guest")
    args = parser.parse_args()
    if not args.here:
        PROGRAM.parent.mkdir(exist_ok=True)
        command = ["gcc", "-O2", "-static", "-pthread", "-o", str(PROGRAM)]
        subprocess.run([*command, str(ROOT / "tests/guest/busy.c")], check=True)
        lab = [sys.executable, "-m", "dmatrace", "lab", "run", "--frozen", "--", "python3", "-P"]
        inside = [*lab, str(Path(__file__).resolve()), *sys.argv[1:], "--here"]
        return subprocess.run(inside, check=False).returncode
    with tempfile.TemporaryDirectory(dir=os.environ.get("DMATRACE_DATA")) as place:
        return measure(args, Path(place))


def measure(args: argparse.Namespace, place: Path) -> int:
    """All rounds."""
    file = place / "file"
    file.write_bytes(os.urandom(16 << 20))
    target = [str(PROGRAM), str(file), *map(str, (args.threads, args.reads, args.bytes))]
    chance = random.Random(args.seed)
    ratios: dict[str, list[float]] = {name: [] for name in TRACERS}
    rates: dict[str, list[float]] = {name: [] for name in ("nothing", *TRACERS)}
    lost: dict[str, int] = {}
    run(target)
    before = run(target)
    for number in range(args.rounds):
        for name in chance.sample(TRACERS, len(TRACERS)):
            with attached(name, place, lost):
                traced = run(target)
            after = run(target)
            ratios[name].append(traced / ((before + after) / 2))
            rates[name].append(traced)
            rates["nothing"].append(after)
            before = after
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
    print(
        f"{os.uname().release}: {args.threads} threads, reads of {args.bytes} bytes of a cached"
        f" file, {args.rounds} rounds; throughput over that without a tracer"
    )
    untraced = statistics.median(rates["nothing"])
    print(f"  nothing    {untraced:10.0f} reads/s here")
    for name in TRACERS:
        found = ratios[name]
        spread = f"{min(found):.3f} to {max(found):.3f}"
        said = f"; lost events: {lost[name]}" if name in lost else ""
        print(
            f"  {name:<9}  {statistics.median(rates[name]):10.0f} reads/s here, median ratio"
            f" {statistics.median(found):.3f} ({spread}){said}"
        )
    return 0


def run(target: list[str]) -> float:
    """Reads a second."""
    done = subprocess.run(target, check=True, capture_output=True, text=True)
    reads, _, ns = map(int, done.stdout.split())
    return reads / ns * 1e9


@contextlib.contextmanager
def attached(name: str, place: Path, lost: dict[str, int]) -> Iterator[None]:
    """A tracer that follows us, and what we start."""
    out, said = place / f"{name}.dmt", place / f"{name}.err"
    if name == "bpftrace":
        command, ready = ["bpftrace", "-e", _BPFTRACE], "ready"
    else:
        command = [sys.executable, "-P", "-m", "dmatrace", "record", "-p", str(os.getpid())]
        command += ["--detail", name, "--force", "-o", str(out)]
        ready = "following"
    with said.open("w") as err:
        # Its output is not ours, and it is not our child to follow.
        process = subprocess.Popen(
            command, stdout=err, stderr=err, start_new_session=True, stdin=subprocess.DEVNULL
        )
    try:
        until = time.monotonic() + READY_S
        while ready not in said.read_text():
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"busy: {name} did not attach: {said.read_text()}")
            time.sleep(0.2)
        yield
    finally:
        measured.end(process, signal.SIGINT)
    if name != "bpftrace":
        found = re.search(r"(\d+) events were lost", said.read_text())
        lost[name] = lost.get(name, 0) + (int(found[1]) if found else 0)


if __name__ == "__main__":
    sys.exit(main())
