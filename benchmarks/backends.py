#!/usr/bin/env python3
"""How far two ways to attach, fentry and kprobe, tell the same story of a load.

Each strategy is loaded in several rounds under one and then under the other; a
phase's share of a load's time on the CPU is the median over the rounds.  Printed
are the phases whose shares differ most, in points.  Time off the CPU is left
out: how long a disk takes differs more between two runs than anything else.

    make bench-backends                                 in the lab's guest
    sudo .venv/bin/python benchmarks/backends.py --here on this machine
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from statistics import median
from typing import Any

from recorded import OUT, recorded

_AIM = 10.0

Shares = dict[tuple[str, str], float]


def main() -> int:
    """Record twice and print the differences; exit 1 if a recording failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--strategy", default="all", metavar="NAME[,NAME...]")
    parser.add_argument("--size", default="256M", help="bytes of the file (default: 256M)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument("--here", action="store_true", help="not in the lab's guest")
    args = parser.parse_args()
    found: list[Shares] = []
    for hooks in ("fentry", "kprobe"):
        options = ["--strategy", args.strategy, "--size", args.size, "--rounds", str(args.rounds)]
        document = recorded(
            [*options, "--raise-limits", "--hooks", hooks],
            OUT / f"backends-{hooks}.dmt",
            here=args.here,
        )
        if document is None:
            return 1
        found.append(_shares(document))
    _print(*found)
    return 0


def _shares(document: dict[str, Any]) -> Shares:
    """{(strategy, phase): the median of its shares of the threads' time on the CPU, percent}."""
    rounds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for load in document["loads"]:
        times: dict[str, int] = defaultdict(int)
        for thread in load["threads"]:
            for phase in thread["phases"]:
                times[phase["phase"]] += phase["cpu_ns"]
        total = sum(times.values())
        for name, time in times.items():
            rounds[load["strategy"], name].append(100 * time / total)
    return {what: median(shares) for what, shares in rounds.items()}


def _print(fentry: Shares, kprobe: Shares) -> None:
    print(f"share of a load's time on the CPU, percent (aim: within {_AIM:g} points)")
    print(f"{'strategy':<24}{'phase':<12}{'fentry':>8}{'kprobe':>8}{'points':>8}")
    pairs = {what: (fentry.get(what, 0.0), kprobe.get(what, 0.0)) for what in fentry | kprobe}
    for what, (one, other) in sorted(pairs.items(), key=lambda pair: -abs(pair[1][0] - pair[1][1]))[
        :12
    ]:
        print(f"{what[0]:<24}{what[1]:<12}{one:>8.1f}{other:>8.1f}{abs(one - other):>8.1f}")


if __name__ == "__main__":
    sys.exit(main())
