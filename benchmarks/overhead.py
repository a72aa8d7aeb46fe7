#!/usr/bin/env python3
"""What the tracer costs: the wall time of a load with it, over the same load without.

The loads of a pair run one after the other in one session on one machine, and
which goes first alternates; a ratio is taken within a pair, never across
machines or runs.  "Without" means that nothing is attached anywhere.  Run it on
a machine with nothing else to do.

    make bench                                          in the lab's guest
    sudo .venv/bin/python benchmarks/overhead.py --here on this machine
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from recorded import OUT, recorded

_AIM = 1.02


def main() -> int:
    """Record, and print each strategy's ratios; exit 1 if the recording failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--strategy", default="udmabuf-dio,dmabuf-bio", metavar="NAME[,NAME...]")
    parser.add_argument("--size", default="256M", help="bytes of the file (default: 256M)")
    parser.add_argument("--pairs", type=int, default=7, metavar="N", help="default: 7")
    parser.add_argument("--cache", choices=("cold", "warm"), default="cold")
    parser.add_argument("--detail", choices=("exact", "sampled"), default="exact")
    parser.add_argument("--here", action="store_true", help="not in the lab's guest")
    args = parser.parse_args()

    document = recorded(
        ["--strategy", args.strategy, "--size", args.size, "--cache", args.cache,
         "--raise-limits", "--detail", args.detail, "--ab", str(args.pairs)],
        OUT / "overhead.dmt",
        here=args.here,
    )  # fmt: skip
    if document is None:
        return 1
    _print(document, args)
    return 0


def _print(document: dict[str, Any], args: argparse.Namespace) -> None:
    print(f"{document['kernel']}, {document['machine']}; {args.cache} loads of {args.size}")
    print(f"detail: {document['detail']}")
    print("wall time with the tracer / without, over interleaved pairs:")
    for row in document["self"]["ab"]:
        ratio = row["ratio"]
        print(
            f"  {row['strategy']:<22} median {ratio['median']:.3f}"
            f"  (min {ratio['min']:.3f}, max {ratio['max']:.3f}, {row['pairs']} pairs,"
            f" aim {_AIM})"
        )


if __name__ == "__main__":
    sys.exit(main())
