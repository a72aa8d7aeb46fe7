"""A recording as a benchmark makes it: in the lab's guest or here, then read as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OUT = Path(__file__).resolve().parents[1] / "build"


def recorded(options: Sequence[str], out: Path, *, here: bool) -> dict[str, Any] | None:
    """``dmatrace record OPTIONS``'s document; None if it failed, which it has said itself."""
    program = [sys.executable, "-m", "dmatrace"]
    record = ["record", *options, "--force", "-o", str(out)]
    lab = [] if here else [*program, "lab", "run", "--", "dmatrace"]
    out.parent.mkdir(exist_ok=True)
    if subprocess.run([*(lab or program), *record], check=False).returncode:
        return None
    report = subprocess.run(
        [*program, "report", str(out), "-f", "json"], stdout=subprocess.PIPE, check=True
    )
    document: dict[str, Any] = json.loads(report.stdout)
    return document
