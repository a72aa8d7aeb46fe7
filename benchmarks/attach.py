#!/usr/bin/env python3
"""How long until tracing: dmatrace's start with nothing kept and with its program kept,
beside bpftrace and bcc with a single probe.

Each is a whole process, from its start until it says that it is attached, and then until
it is detached and has ended; all take turns in one session on one machine, so only their
ratios mean something.  dmatrace attaches every hook, the others one.

    make bench-attach                                  in the lab's guest
    sudo .venv/bin/python benchmarks/attach.py --here  on this machine
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

_OURS = (
    "from dmatrace.session.tracer import Tracer; t = Tracer(); assert t.hooks;"
    " print('attached', flush=True); t.close()"
)
_BCC = (
    "from bcc import BPF; b = BPF(text='int kprobe__do_nanosleep(void *ctx) { return 0; }');"
    " print('attached', flush=True)"
)
# BEGIN comes before the probes are attached, an interval after.
_BPFTRACE = 'kprobe:do_nanosleep { @n = count(); } interval:ms:1 { printf("attached\\n"); exit(); }'
_PYTHON = [sys.executable, "-P", "-c"]


def main() -> int:
    """Measure and print; exit 1 if one of them failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument("--here", action="store_true", help="not in the lab's guest")
    args = parser.parse_args()
    if not args.here:
        lab = [sys.executable, "-m", "dmatrace", "lab", "run", "--frozen", "--", "python3", "-P"]
        inside = [*lab, os.path.abspath(__file__), "--here", "--rounds", str(args.rounds)]
        return subprocess.run(inside, check=False).returncode
    times: dict[str, list[float]] = {"cold": [], "warm": [], "bpftrace": [], "bcc": []}
    ends: dict[str, list[float]] = {name: [] for name in times}
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory() as kept:
            os.environ["DMATRACE_CACHE"] = f"{kept}/bytecode"
            for name, argv in (
                ("cold", [*_PYTHON, _OURS]),
                ("warm", [*_PYTHON, _OURS]),
                ("bpftrace", ["bpftrace", "-B", "none", "-e", _BPFTRACE]),
                ("bcc", [*_PYTHON, _BCC]),
            ):
                took = until_attached(argv)
                if took is None:
                    print(f"{name} did not attach", file=sys.stderr)
                    return 1
                times[name].append(took[0])
                ends[name].append(took[1])
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
    print(f"{os.uname().release}: until attached, over dmatrace's warm start, {args.rounds} rounds")
    for name, measured in times.items():
        ratios = [one / warm for one, warm in zip(measured, times["warm"], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(
            f"  {name:<9} median {statistics.median(ratios):6.2f}  ({spread};"
            f" {statistics.median(measured):.2f} s here, until it had ended"
            f" {statistics.median(ends[name]):.2f} s)"
        )
    return 0


def until_attached(argv: list[str]) -> tuple[float, float] | None:
    """Seconds from a tool's start until it said so, and until it had ended; None: it failed."""
    started = time.monotonic()
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as tool:
        assert tool.stdout is not None
        attached = next((time.monotonic() for line in tool.stdout if line == "attached\n"), None)
        tool.stdout.read()
    if attached is None or tool.returncode:
        return None
    return attached - started, time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())
