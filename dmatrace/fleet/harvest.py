"""What a fleet's analysis needs of a recording: a row per strategy, size and cache state.

A row's figures are medians over its rounds, by the names of ``compare``; times in
ns, sizes in bytes, NaN what was not measured.  A recording that cannot be read is
one row with its ``error``.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from dmatrace.analysis.comparison.loads import groups, loads
from dmatrace.analysis.comparison.measures import known
from dmatrace.analysis.document import figured
from dmatrace.errors import DmatraceError
from dmatrace.recording.reader import Recording

if TYPE_CHECKING:
    import pandas as pd

TEXTS = ("recording", "error", "device", "kernel", "strategy", "cache")
COUNTS = ("bytes", "rounds", "left_out")
FIGURES = tuple(known())


def frame(paths: Iterable[str]) -> pd.DataFrame:
    """The rows of all recordings at ``paths``; nothing that one of them holds is fatal."""
    import pandas as pd

    found = [row for path in paths for row in rows(path)]
    columns: dict[str, Any] = {}
    for name in TEXTS:
        columns[name] = pd.Series([row.get(name, "") for row in found], dtype=object)
    for name in COUNTS:
        columns[name] = pd.Series([row.get(name, 0) for row in found], dtype="int64")
    for name in FIGURES:
        columns[name] = pd.Series([row.get(name) for row in found], dtype="float64")
    return pd.DataFrame(columns)


def rows(path: str) -> list[dict[str, Any]]:
    """One recording's rows; a single one with ``error`` if it cannot be read."""
    try:
        found = figured(Recording.open(path))
        result = [
            {
                "recording": path,
                "device": found["device"] or found["machine"] or "not known",
                "kernel": found["kernel"],
                "strategy": str(group.where["strategy"]),
                "cache": str(group.where["cache"]),
                "bytes": int(group.where["bytes"]),
                "rounds": len(group.loads),
                "left_out": group.left_out,
                **{name: _median(group.values(name)) for name in FIGURES},
            }
            for group in groups(loads([(path, found)]), ("strategy", "bytes", "cache"))
        ]
    except DmatraceError as error:
        return [{"recording": path, "error": str(error)}]
    except Exception as error:
        # Whatever one device sent, the other thousands are still worth an answer.
        return [{"recording": path, "error": f"cannot be read: {type(error).__name__}: {error}"}]
    return result or [{"recording": path, "error": "no load in it"}]


def _median(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return float(statistics.median(found)) if found else None
