"""What is on the screen, as files: the snapshot as JSON, the picture as SVG."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from dmatrace import __version__
from dmatrace.errors import DmatraceError
from dmatrace.tui.model import Snapshot

SCHEMA = 1


def document(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as plain values: times in ns, sizes in bytes, null for what is not known."""
    found = dataclasses.asdict(snapshot)
    found["hidden"] = sorted(snapshot.hidden)
    for load, row in zip(snapshot.loads, found["loads"], strict=True):
        for thread, theirs in zip(load.threads, row["threads"], strict=True):
            theirs["phases"] = [times._asdict() for times in thread.phases]
    return {"schema": SCHEMA, "dmatrace": __version__, **found}


def write(directory: Path, snapshot: Snapshot, svg: str) -> tuple[Path, Path]:
    """The two files, under a number that no file there has; DmatraceError if they cannot be."""
    # What is hidden is a set, which JSON has not.
    text = json.dumps(document(snapshot), indent=1, default=sorted) + "\n"
    try:
        for number in range(1, 10_000):
            made = tuple(directory / f"dmatrace-top-{number}.{end}" for end in ("json", "svg"))
            if not any(os.path.lexists(file) for file in made):
                break
        for file, content in zip(made, (text, svg), strict=True):
            with file.open("x", encoding="utf-8") as out:
                out.write(content)
            _give(file)
    except OSError as error:
        raise DmatraceError(
            f"cannot write to {directory}: {error.strerror}", do="start top where you may write"
        ) from None
    return made[0], made[1]


def _give(file: Path) -> None:
    """What is written is theirs who typed sudo."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.geteuid() == 0 and uid.isdigit() and gid.isdigit():
        os.chown(file, int(uid), int(gid))
