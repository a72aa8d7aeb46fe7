"""A table as JSON, so that a run that was interrupted can go on."""

from __future__ import annotations

import json
from dataclasses import asdict

from tests.accuracy.page import Table
from tests.accuracy.row import Lacks, Missed, Row

_KINDS: dict[str, type[Row | Lacks]] = {kind.__name__: kind for kind in (Row, Lacks, Missed)}


def kept(table: Table) -> str:
    """Everything that was said where a section ran to its end."""
    parts = {}
    for section, part in table.parts.items():
        parts[section] = {
            kernel: [
                {"kind": type(said).__name__, **asdict(said)}
                for said in (
                    *(rows[kernel] for rows in part.rows.values() if kernel in rows),
                    *part.lacks.get(kernel, ()),
                )
            ]
            for kernel in sorted(part.ended)
        }
    return json.dumps({"releases": table.releases, "parts": parts}, indent=1) + "\n"


def restore(table: Table, text: str) -> None:
    """Add to ``table`` what a text of ``kept`` has of its sections."""
    found = json.loads(text)
    table.releases |= found["releases"]
    for section, kernels in found["parts"].items():
        if section not in table.sections:
            continue
        part = table.part(section)
        for kernel, every in kernels.items():
            for said in every:
                part.add(kernel, _KINDS[said.pop("kind")](**said))
            part.ended.add(kernel)
