"""The dma-bufs of the machine at the end of a load, and who held them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_BUFFER = ("ino", "exporter", "name")
_HOLDER = ("pid", "comm", "fds", "mapped")


def by_load(frame: pd.DataFrame) -> dict[int, list[dict[str, Any]]]:
    """{load_id: its rows of the table ``inventory``}."""
    found: dict[int, list[dict[str, Any]]] = {}
    for row in frame.to_dict("records"):
        found.setdefault(int(row["load_id"]), []).append({str(k): v for k, v in row.items()})
    return found


def held(rows: Iterable[Mapping[str, Any]], source: str) -> dict[str, Any] | None:
    """What the document says of a load's inventory; None where none was taken.

    Sizes in bytes; ``size`` and ``devices`` are null where they were not seen.
    """
    if not source:
        return None
    buffers: dict[int, dict[str, Any]] = {}
    for row in rows:
        buffer = buffers.setdefault(
            int(row["ino"]),
            {
                **{name: row[name] for name in _BUFFER},
                "size": None if row["size"] < 0 else int(row["size"]),
                "devices": json.loads(row["devices"]) if row["devices"] else None,
                "holders": [],
            },
        )
        if row["pid"]:
            buffer["holders"].append({name: row[name] for name in _HOLDER})
    return {"source": source, "buffers": list(buffers.values())}
