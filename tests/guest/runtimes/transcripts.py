"""The command that makes docs/runtimes.md (`make runtimes-docs`): nothing there is typed in.

python -m tests.guest.runtimes.transcripts [--kernel 6.12] [--run NAME]... [-o FILE]
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmatrace.lab import kernels, places
from dmatrace.lab.guest import Guest
from dmatrace.sizes import short_size
from tests.guest.lab import Lab
from tests.guest.runtimes.table import RUNS, Run
from tests.guest.runtimes.watched import (
    IMAGE,
    Watched,
    broken,
    driven,
    kept,
    kept_calls,
    recorded,
    traced,
    under_way,
)

_INTRO = """\
# Real runtimes

What dmatrace says of processes that it did not start and knows nothing about, while they
load a model of 256 MiB: llama.cpp (Debian's), ONNX Runtime, safetensors and ncnn (of PyPI).
Made by `make runtimes-docs` in an emulated guest; nothing here is typed in. Ratios
within a run mean something there, times do not. The models are written on the spot
(`tests/guest/runtimes/models.py`), the runtimes come by `make runtimes` (its versions are in
`tests/guest/runtimes/wheels.lock`), and `tests/guest/test_runtimes.py` holds what the
tables below show, on every kernel: `make test-long`.

One run by hand, on a machine of yours:

    sudo dmatrace record -p "$(pgrep -n llama)" -o llama.dmt     # before it loads, or meanwhile
    dmatrace report llama.dmt
"""
_BEFORE = """\
## Attached before the load

The runtime waits at a gate until dmatrace follows it. strace is of another run of the same
command: bytes that read(2) and its like returned of the file with the weights, with and
without O_DIRECT, and what was mapped of it. *Disk* and *page cache* are dmatrace's of that
file, beside fincore(1); *all reads* are the process's, beside `rchar` of /proc/PID/io, which
also counts pipes and proc. The last column is how many of the statements of the test did
not hold.
"""
_DURING = """\
## Attached in mid-load

The disk is slow (2 MiB a second, by io.max of a control group) until dmatrace follows, then
as it is. What had come before is not dmatrace's to know; from there on its figures stand
beside the change of /proc/PID/io and fincore(1). A read(2) under way at that moment
counts as a whole when it returns, there as here.
"""
_EACH = """\
## Each run

As it was printed: the recording's messages, and the report.
"""


_READY = "prepared.json"


@dataclass(frozen=True)
class Shown:
    """One run, attached before its load and, unless that was left out, during it."""

    before: Watched
    during: Watched | None

    @property
    def not_before(self) -> list[str]:
        """What does not hold of it."""
        return list(broken(self.before))

    @property
    def not_during(self) -> list[str]:
        """The same of the other."""
        return list(under_way(self.during)) if self.during else []


def main() -> int:
    """Make the page; exit 1 if something in it does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernel", default=kernels.DEFAULT.name)
    parser.add_argument("--run", action="append", choices=RUNS, help="these alone (repeatable)")
    parser.add_argument("--before", action="store_true", help="do not attach in mid-load")
    parser.add_argument("-o", "--output", default="-", metavar="FILE", help="default: stdout")
    parser.add_argument(
        "--kept",
        type=Path,
        default=places.checkout() / "build" / "transcripts",
        metavar="DIR",
        help="below the checkout; what is there already is not made again",
    )
    args = parser.parse_args()
    if not IMAGE.exists():
        parser.error(f"there is no {IMAGE}: make runtimes")
    kept_in: Path = args.kept.absolute()
    kept_in.mkdir(parents=True, exist_ok=True)
    runs = [RUNS[name] for name in args.run or RUNS]
    missing = [run for run in runs if not _there(kept_in, run, args.before)]
    if missing:
        make(kept_in, kernels.find(args.kernel), missing, args.before)
    shown = [show(kept_in, run) for run in runs]
    ready = json.loads((kept_in / _READY).read_text())
    facts = f"Linux {shown[0].before.document['kernel']}; llama.cpp {ready['llama']}."
    text = "\n".join(page(shown, facts)) + "\n"
    if args.output == "-":
        sys.stdout.write(text)
    else:
        Path(args.output).write_text(text)
    wrong = [line for one in shown for line in (*one.not_before, *one.not_during)]
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


def _whens(before: bool) -> tuple[str, ...]:
    return ("before",) if before else ("before", "during")


def _there(where: Path, run: Run, before: bool) -> bool:
    names = [f"{run.name}.strace", *(f"{run.name}-{when}.json" for when in _whens(before))]
    return all((where / name).exists() for name in names)


def make(where: Path, kernel: kernels.Kernel, runs: Sequence[Run], before: bool) -> None:
    """Run and record in the guest."""
    with Guest(kernel, progress=lambda text: print(text, file=sys.stderr)) as guest:
        lab = Lab(guest, where)
        (where / _READY).write_text(json.dumps(driven(lab, "prepare", str(IMAGE))))
        for run in runs:
            print(f"runtimes: {run.name}", file=sys.stderr)
            for when in _whens(before):
                shutil.rmtree(where / f"{run.name}-{when}.dmt", ignore_errors=True)
            calls = traced(lab, run)
            for when in _whens(before):
                recorded(lab, run, calls, when)


def show(where: Path, run: Run) -> Shown:
    """The recordings of a run that are there."""
    calls = kept_calls(where, run)
    there = (where / f"{run.name}-during.json").exists()
    during = kept(where, run, calls, "during") if there else None
    return Shown(kept(where, run, calls, "before"), during)


def page(shown: Sequence[Shown], facts: str) -> Iterator[str]:
    """The lines."""
    yield _INTRO
    yield f"{facts}\n"
    yield _BEFORE
    yield from _table(
        ("runtime, mode", "strace: read", "direct", "mapped", "so it is", "dmatrace says",
         "read", "direct", "verdict", "disk", "page cache", "fincore", "all reads", "rchar",
         "broken"),
        [_before(one) for one in shown],
    )  # fmt: skip
    yield _DURING
    yield from _table(
        ("runtime, mode", "dmatrace says", "disk asked before", "disk after: dmatrace",
         "/proc/PID/io", "page cache: dmatrace", "fincore", "reads: dmatrace", "rchar", "broken"),
        [_during(one, one.during) for one in shown if one.during],
    )  # fmt: skip
    for line in (line for one in shown for line in (*one.not_before, *one.not_during)):
        yield f"- does not hold: {line}"
    absent = ", ".join(name for name in RUNS if name not in {one.before.run.name for one in shown})
    if absent:
        yield f"Not run for this page: {absent}.\n"
    absent = ", ".join(one.before.run.name for one in shown if not one.during)
    if absent:
        yield f"Not attached in mid-load for this page: {absent}.\n"
    yield _EACH
    for one in shown:
        yield from _transcript(one)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _before(one: Shown) -> list[str]:
    seen = one.before
    calls, file = seen.calls, seen.file
    return [
        f"{seen.run.runtime}, {seen.run.mode}",
        *(f"{size:,}" for size in (calls.buffered, calls.direct, calls.mapped)),
        calls.way(seen.size) or "?",
        seen.verdict or "-",
        *(f"{size:,}" for size in (file["copied_bytes"], file["direct_bytes"])),
        file["verdict"],
        short_size(file["disk"]["read_bytes"]),
        short_size(seen.pages["added"]),
        short_size(seen.added),
        f"{seen.load['bytes']:,}",
        f"{seen.grown('rchar'):,}",
        str(len(one.not_before)),
    ]


def _during(one: Shown, seen: Watched) -> list[str]:
    return [
        f"{seen.run.runtime}, {seen.run.mode}",
        seen.verdict or "-",
        *(
            short_size(size)
            for size in (
                seen.facts["attach"]["io"]["read_bytes"],
                seen.load["block"]["read_bytes"],
                seen.grown("read_bytes"),
                seen.pages["added"],
                seen.added,
                seen.load["bytes"],
                seen.grown("rchar"),
            )
        ),
        str(len(one.not_during)),
    ]


def _transcript(one: Shown) -> Iterator[str]:
    run = one.before.run
    yield f"### {run.runtime}, {run.mode}\n"
    yield f"    {shlex.join(run.argv()[2:])}\n"
    for seen in filter(None, (one.before, one.during)):
        said = seen.facts["dmatrace"]
        out = Path(said["argv"][-1])
        yield "```"
        yield f"# dmatrace record -p {seen.facts['pid']} -o {out.name}"
        yield from said["err"]
        yield out.name
        yield f"# dmatrace report {out.name}"
        lines = _report(out).splitlines()
        # Of the second its time by phase alone: the rest is as before.
        yield from lines if seen is one.before else lines[: _second_gap(lines)]
        yield "```"
        yield ""


def _second_gap(lines: Sequence[str]) -> int:
    gaps = [number for number, line in enumerate(lines) if not line]
    return gaps[2] if len(gaps) > 2 else len(lines)


def _report(recording: Path) -> str:
    command = [sys.executable, "-m", "dmatrace", "report", str(recording)]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
