"""The command that makes docs/ACCURACY.md."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from dmatrace.lab import kernels, places
from dmatrace.lab.guest import Guest
from tests.accuracy.row import Row
from tests.accuracy.workloads import WORKLOADS
from tests.guest.lab import Lab

#: {(section, figure, workload, oracle): {kernel: its row}}
Table = dict[tuple[str, str, str, str], dict[str, Row]]


def main() -> int:
    """Run the workloads and write the table; exit 1 if a row is not within its tolerance."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.accuracy", description="Every figure beside an independent one."
    )
    parser.add_argument("--kernel", action="append", choices=[k.name for k in kernels.KERNELS])
    parser.add_argument("-o", "--output", default="-", metavar="FILE", help="default: stdout")
    args = parser.parse_args()
    names = args.kernel or [kernel.name for kernel in kernels.KERNELS]
    table: Table = {}
    releases: dict[str, str] = {}
    failed: list[str] = []
    for name in names:
        releases[name] = measure(name, table, failed)
    text = rendered(table, releases, failed)
    if args.output == "-":
        sys.stdout.write(text)
    else:
        Path(args.output).write_text(text)
    bad = [row for rows in table.values() for row in rows.values() if not row.good]
    for row in bad:
        print(f"{row.workload}: {row.figure} {row.ours:g}, {row.theirs:g} by {row.oracle}",
              file=sys.stderr)  # fmt: skip
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if bad or failed else 0


def measure(name: str, table: Table, failed: list[str]) -> str:
    """Add a kernel's rows to ``table``; its release."""
    shared = places.checkout() / "build" / "accuracy" / name
    shutil.rmtree(shared, ignore_errors=True)
    shared.mkdir(parents=True)
    with Guest(
        kernels.find(name), frozen=True, progress=lambda text: print(text, file=sys.stderr)
    ) as guest:
        lab = Lab(guest, shared)
        for section, workload in WORKLOADS:
            print(f"{name}: {section}", file=sys.stderr)
            try:
                for row in workload(lab):
                    key = (section, row.figure, row.workload, row.oracle)
                    table.setdefault(key, {})[name] = row
            except (AssertionError, KeyError, ValueError) as error:
                said = str(error).strip().splitlines() or [type(error).__name__]
                failed.append(f"{name}: {section} did not run to its end: {said[0]}")
        return lab.must("uname -r").strip()


def rendered(table: Table, releases: dict[str, str], failed: list[str]) -> str:
    """The page."""
    kernels_used = "; ".join(f"{name} is {release}" for name, release in releases.items())
    good = sum(row.good for rows in table.values() for row in rows.values())
    total = sum(len(rows) for rows in table.values())
    lines = [
        "# Accuracy",
        "",
        "Figures that dmatrace prints, each beside one that does not come from it. Made by",
        "`make accuracy` in emulated guests; nothing here is typed in. The difference is",
        "ours less theirs, as a share of theirs; `-` is what that kernel cannot do or tell.",
        "",
        f"{good} of {total} are within their tolerance. Kernels: {kernels_used}.",
    ]
    lines += [f"- {line}" for line in failed]
    section = ""
    for key, rows in table.items():
        if key[0] != section:
            section = key[0]
            lines += ["", f"## {section}", ""]
            lines.append(
                "| figure | workload | by whom | tolerance | " + " | ".join(releases) + " |"
            )
            lines.append("|---" * (4 + len(releases)) + "|")
        cells = []
        for name in releases:
            row = rows.get(name)
            cells.append("-" if row is None else f"{_said(row)}{'' if row.good else ' **no**'}")
        first = next(iter(rows.values()))
        lines.append(
            f"| {key[1]} | {key[2]} | {key[3]} | {first.tolerance} | {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


def _said(row: Row) -> str:
    if row.difference == 0:
        return "equal"
    return f"{100 * row.difference:+.3f} %"


if __name__ == "__main__":
    sys.exit(main())
