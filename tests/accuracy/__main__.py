"""The command that makes docs/ACCURACY.md."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
import traceback
from pathlib import Path

from dmatrace.lab import kernels, places
from dmatrace.lab.guest import Guest
from tests.accuracy.kept import kept, restore
from tests.accuracy.page import Part, Table, rendered
from tests.accuracy.row import Row
from tests.accuracy.sections import SECTIONS
from tests.guest.lab import Lab

AGAIN = 2  # times
#: What was measured so far: hours of emulation, perhaps.
KEPT = places.checkout() / "build" / "accuracy.json"


def main() -> int:
    """Run the workloads and write the table; exit 1 if a row is not within its tolerance."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.accuracy", description="Every figure beside an independent one."
    )
    parser.add_argument("--kernel", action="append", choices=[k.name for k in kernels.KERNELS])
    parser.add_argument(
        "--section", action="append", choices=list(SECTIONS), help="default: all of them"
    )
    parser.add_argument("-o", "--output", default="-", metavar="FILE", help="default: stdout")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with a run that was interrupted: what it has measured is not measured again",
    )
    args = parser.parse_args()
    table = Table(args.section or list(SECTIONS))
    if args.resume and KEPT.exists():
        restore(table, KEPT.read_text())
    try:
        for name in args.kernel or [kernel.name for kernel in kernels.KERNELS]:
            measure(name, table)
    except KeyboardInterrupt:  # what was measured by then is hours of emulation, perhaps
        table.failed.append("interrupted: what is missing was not measured")
    text = rendered(table)
    if args.output == "-":
        sys.stdout.write(text)
    else:
        Path(args.output).write_text(text)
    bad = table.bad()
    for line in bad:
        print(line, file=sys.stderr)
    return 1 if bad else 0


def measure(name: str, table: Table) -> None:
    """Add what a kernel's guest says to ``table``."""
    left = [section for section in table.sections if name not in table.part(section).ended]
    if not left:
        return
    shared = places.checkout() / "build" / "accuracy" / name
    shutil.rmtree(shared, ignore_errors=True)
    shared.mkdir(parents=True)
    with Guest(kernels.find(name), frozen=True, progress=_say) as guest:
        lab = Lab(guest, shared)
        table.releases[name] = lab.must("uname -r").strip()
        for section in left:
            began = time.monotonic()
            part = table.part(section)
            part.forget(name)
            try:
                for said in SECTIONS[section](lab):
                    part.add(name, said)
                again(lab, name, section, part)
                part.ended.add(name)
            except Exception as error:  # the other sections are worth having all the same
                traceback.print_exc()
                lines = str(error).strip().splitlines() or [type(error).__name__]
                table.failed.append(f"{name}: {section} did not run to its end: {lines[0]}")
            KEPT.write_text(kept(table))
            _say(f"{name}: {section}: {time.monotonic() - began:.0f} s")


def again(lab: Lab, name: str, section: str, part: Part) -> None:
    """Measure once more, at most twice, what was too far apart in time alone.

    The host may take an emulated CPU away between two clocks that are read one after the
    other; that does not repeat.  What dmatrace gets wrong does.
    """
    for _ in range(AGAIN):
        late = part.late(name)
        if not late:
            return
        _say(f"{name}: {section}: {len(late)} times are apart, measured again")
        shared = lab.shared / f"again-{len(list(lab.shared.glob('again-*')))}"
        shared.mkdir()
        for said in SECTIONS[section](Lab(lab.guest, shared)):
            if isinstance(said, Row):
                part.remeasured(name, said, late)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
