"""A table as CSV: a header line, commas, UTF-8, "" where a value is null.

Times are ns and sizes bytes, as integers.  Each record is one line: control characters
in names are written as escapes (``\\x1b``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from dmatrace.safe import escaped

if TYPE_CHECKING:
    import pandas as pd

_AT_ONCE = 1 << 16  # rows


def write_table(frame: pd.DataFrame, out: BinaryIO, name: str = "") -> None:
    """``frame``, the table ``name``, as CSV to ``out``."""
    for start in range(0, max(len(frame), 1), _AT_ONCE):
        part = frame.iloc[start : start + _AT_ONCE].copy()
        for column in part.columns:
            if part[column].dtype.kind == "O" or part[column].dtype.name in ("str", "category"):
                part[column] = [
                    escaped(value) if isinstance(value, str) else value
                    for value in part[column].tolist()
                ]
        text = part.to_csv(index=False, header=start == 0, lineterminator="\n")
        out.write(text.encode("utf-8", "backslashreplace"))
