#!/usr/bin/env python3
"""A fleet of 10,000 recordings: here, by one Dask worker, and by two.

The recordings are made of --from (real ones; the same arguments make the same
files) or of synthetic ones, with outliers and damage that are known and have to
be found.  All three runs must give the same document.  Ratios are of wall times
within this run; a machine with two processors or more, and nothing else to do,
is wanted.

    make bench-fleet
    .venv/bin/python benchmarks/fleet.py --from a.dmt --from b.dmt --count 10000 --loads 2
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/host"))

import fleet_data
import synthetic

from dmatrace.fleet import engine
from dmatrace.report import fleet as text


def main() -> int:
    """Make, analyse three times and compare; exit 1 if an answer is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help="default: 10000")
    parser.add_argument("--from", dest="sources", action="append", default=[], metavar="OUT")
    parser.add_argument(
        "--loads", type=int, default=0, metavar="N", help="of each source (default: all of them)"
    )
    parser.add_argument("--dir", default="/var/tmp", help="where they are made (default: /var/tmp)")
    parser.add_argument("--only", choices=("here", "dask"), help="leave the other out")
    args = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="dmatrace-fleet-", dir=args.dir))
    try:
        return _run(args, place)
    finally:
        shutil.rmtree(place)


def _run(args: argparse.Namespace, place: Path) -> int:
    sources = [Path(name) for name in args.sources] or [synthetic.write(place / "a.dmt")]
    began = time.monotonic()
    fleet = fleet_data.make(sources, place / "in", args.count, loads=args.loads)
    print(f"{args.count} recordings of at most {fleet.loads} loads, from {len(sources)}, made in"
          f" {time.monotonic() - began:.0f} s; {os.cpu_count()} CPUs")  # fmt: skip
    paths = engine.find([str(place / "in")])
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        "here": lambda: engine.local(paths),
        "dask, 1 worker": lambda: engine.distributed(paths, workers=1),
        "dask, 2 workers": lambda: engine.distributed(paths, workers=2),
    }
    if args.only:
        runs = {name: run for name, run in runs.items() if name.startswith(args.only)}
    seconds, answers = {}, {}
    for name, run in runs.items():
        began = time.monotonic()
        answers[name] = run()
        seconds[name] = time.monotonic() - began
        print(f"  {name:<18}{seconds[name]:>8.1f} s  {len(paths) / seconds[name]:>7.1f} /s",
              flush=True)  # fmt: skip
    if len(seconds) > 1:
        one, two = (seconds[f"dask, {n} worker{'s' * (n > 1)}"] for n in (1, 2))
        print(f"  2 workers are {one / two:.2f} times as fast as 1")
        if "here" in seconds:
            print(f"  1 worker takes {one / seconds['here']:.2f} times as long as no cluster")
    return _check(fleet, answers)


def _check(fleet: fleet_data.Fleet, answers: dict[str, dict[str, Any]]) -> int:
    first, *others = answers.values()
    same = all(json.dumps(other) == json.dumps(first) for other in others)
    print(f"  same answer from all: {'yes' if same else 'NO'}")
    damaged = {Path(row["recording"]).name for row in first["damaged"]}
    wanted = {name: why for name, why in fleet.outliers.items() if name not in fleet.damaged}
    found = {Path(row["recording"]).name: row["why"][0]["name"] for row in first["outliers"]}
    right = damaged == set(fleet.damaged) and all(found.get(n) == w for n, w in wanted.items())
    print(f"  {len(damaged)} of {len(fleet.damaged)} damaged ones named;"
          f" {sum(found.get(n) == w for n, w in wanted.items())} of {len(wanted)} outliers found"
          f" for the right reason, {len(found.keys() - wanted.keys())} more by chance")  # fmt: skip
    print()
    print("\n".join(text.render(first).splitlines()[:24]))
    return 0 if same and right else 1


if __name__ == "__main__":
    sys.exit(main())
