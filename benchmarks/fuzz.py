#!/usr/bin/env python3
"""100,000 damaged recordings and hostile documents, to every reader, report and export.

A case is wrong if anything but an error of one line comes out, or a terminal
would obey what is shown; it is named by its number and can be run alone
(--first 1234 --cases 1).  A process that dies of a signal is named with the
cases it had.

    make fuzz
    .venv/bin/python benchmarks/fuzz.py --cases 100000 --from real.dmt
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/host"))

_CHUNK = 500


def main() -> int:
    """Run all cases; exit 1 if one was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=100_000, metavar="N")
    parser.add_argument("--first", type=int, default=0, metavar="N")
    parser.add_argument("--from", dest="real", metavar="OUT", help="a real recording as well")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    args = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="dmatrace-fuzz-", dir=_fast()))
    try:
        return _run(args, place)
    finally:
        shutil.rmtree(place)


def _fast() -> str | None:
    """tmpfs, as every case writes files."""
    return "/dev/shm" if os.path.ismount("/dev/shm") else None


def _run(args: argparse.Namespace, place: Path) -> int:
    end = args.first + args.cases
    chunks = [(at, min(at + _CHUNK, end)) for at in range(args.first, end, _CHUNK)]
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    done, began = 0, time.monotonic()
    with ProcessPoolExecutor(args.jobs) as pool:
        waiting = {pool.submit(_cases, str(place), args.real, *chunk): chunk for chunk in chunks}
        for future in as_completed(waiting):
            first, last = waiting[future]
            try:
                counts, failures = future.result()
            except BrokenProcessPool:
                wrong.append(f"a process died; cases {first} to {last - 1} were among its own")
                continue
            seen.update(counts)
            wrong += failures
            for line in failures:
                print(f"  {line}", file=sys.stderr, flush=True)
            done += last - first
            if done // 10_000 != (done - last + first) // 10_000:
                print(f"  {done} cases, {len(wrong)} wrong", file=sys.stderr, flush=True)
    print(f"{done} cases in {time.monotonic() - began:.0f} s by {args.jobs} processes:")
    for name, count in sorted(seen.items()):
        print(f"  {name:<20}{count:>8}")
    print(f"  {'wrong':<20}{len(wrong):>8}")
    for line in wrong[:20]:
        print(line)
    return 1 if wrong or done < args.cases else 0


def _cases(place: str, real: str | None, first: int, last: int) -> tuple[Counter[str], list[str]]:
    import fuzzing

    mine = Path(place) / f"{os.getpid()}-{first}"
    fuzzer = fuzzing.Fuzzer(mine, Path(real) if real else None)
    wrong = []
    for number in range(first, last):
        try:
            fuzzer.case(number)
        except Exception:
            wrong.append(f"case {number}: {traceback.format_exc()}")
    shutil.rmtree(mine)
    return fuzzer.seen, wrong


if __name__ == "__main__":
    sys.exit(main())
