"""A recording whose tables are redacted as its document is, for exports that read them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dmatrace.analysis.redact import Names
from dmatrace.recording import schema
from dmatrace.recording.reader import Recording

if TYPE_CHECKING:
    import pandas as pd

# Tables and columns that hold a path by itself.
_PATHS = {"loads": "file", "file_reads": "path", "files": "path", "ways": "path", "calls": "path"}


class Redacted(Recording):
    """``recording`` without paths, command lines and host names, by ``names``.

    Its path and the rest of its meta.json, which nothing here needs, are left out.
    """

    def __init__(self, recording: Recording, names: Names) -> None:
        super().__init__(Path("redacted"), {"complete": recording.complete})
        self._original = recording
        self._names = names
        for table, column in _PATHS.items():
            found = recording.table(table)[column].unique().tolist()
            # "path" is what the value of either is, whatever the column is called.
            names.collect({"path": [str(path) for path in found]})

    def _read(self, name: str) -> pd.DataFrame:
        frame = self._original.table(name).copy()
        for column in schema.TABLES[name]:
            if column.kind == "str":
                values = frame[column.name].unique().tolist()
                clean = {value: self._names.clean(value, column.name) for value in values}
                frame[column.name] = frame[column.name].map(clean)
        self.torn = self._original.torn
        return frame
