"""Read a recording, finished or not.

A finished table is Parquet.  One whose recorder was killed is an Arrow
stream with a torn tail: every batch before the tear is read, the rest is
dropped, and ``torn`` names the table.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmatrace.errors import DmatraceError
from dmatrace.recording import schema

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class Recording:
    """The reading end of one recording; make it with ``open``."""

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.path = path
        self.meta = meta
        self.torn: set[str] = set()
        self._tables: dict[str, pd.DataFrame] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Recording:
        """The recording at ``path``.

        Raises DmatraceError when there is none, its meta.json is damaged, or a newer
        dmatrace wrote it.
        """
        where = Path(path)
        do = "name the directory that `dmatrace record` wrote"
        if not os.path.exists(where):  # False, too, where Path.exists raises
            raise DmatraceError(f"{where}: no such recording", do=do)
        try:
            text = (where / schema.META).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise DmatraceError(f"{where} is not a dmatrace recording", do=do) from None
        except (OSError, UnicodeDecodeError) as error:
            raise DmatraceError(
                f"cannot read {where / schema.META}: {_reason(error)}", do="check its permissions"
            ) from error
        try:
            meta = json.loads(text)
        except (ValueError, RecursionError):
            raise DmatraceError(
                f"{where / schema.META} is damaged: not JSON", do="record again"
            ) from None
        number = meta.get("schema") if isinstance(meta, dict) else None
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise DmatraceError(f"{where} is not a dmatrace recording", do=do)
        if number > schema.SCHEMA:
            raise DmatraceError(
                f"{where} has schema {number}, this dmatrace reads up to {schema.SCHEMA}",
                do="install a newer dmatrace",
            )
        return cls(where, meta)

    @property
    def complete(self) -> bool:
        """Whether the recorder closed the recording itself."""
        return self.meta.get("complete") is True

    def tables(self) -> list[str]:
        """The names of all tables; each can be read, if only as an empty one."""
        return list(schema.TABLES)

    def table(self, name: str) -> pd.DataFrame:
        """Table ``name`` with exactly the schema's columns; it is shared, do not change it.

        Raises KeyError for an unknown name, DmatraceError when its file is damaged.
        """
        if name not in self._tables:
            self._tables[name] = self._read(name)
        return self._tables[name]

    def _read(self, name: str) -> pd.DataFrame:
        layout = schema.arrow_schema(name)
        final = self.path / (name + schema.FINAL)
        stream = self.path / (name + schema.STREAM)
        if final.exists():
            table = _parquet(final)
        elif stream.exists():
            table, whole = _prefix(stream, layout)
            if not whole:
                self.torn.add(name)
        else:
            table = layout.empty_table()
        return _frame(table, name)


def _parquet(file: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # ParquetFile, not read_table: that would look for a data set around the file.
        with pq.ParquetFile(str(file)) as opened:
            return opened.read()
    except (pa.ArrowException, OSError) as error:
        raise DmatraceError(f"{file} is damaged: {_reason(error)}", do="record again") from error


def _prefix(file: Path, layout: pa.Schema) -> tuple[pa.Table, bool]:
    """All whole batches of a stream, and whether it ends where a stream should.

    A tear shows as ArrowInvalid or OSError; a batch of zeroes (blocks a crashed
    machine never wrote) as one that does not validate.
    """
    import pyarrow as pa

    batches: list[pa.RecordBatch] = []
    whole = True
    found = layout
    try:
        with pa.OSFile(str(file), "rb") as source, pa.ipc.open_stream(source) as stream:
            found = stream.schema
            for batch in stream:
                batch.validate(full=True)
                batches.append(batch)
    except PermissionError as error:
        raise DmatraceError(
            f"cannot read {file}: {_reason(error)}", do="check its permissions"
        ) from error
    except (pa.ArrowException, OSError):
        whole = False
    return pa.Table.from_batches(batches, found), whole


def _frame(table: pa.Table, name: str) -> pd.DataFrame:
    """``table`` with the schema's columns in its order; absent ones take their default."""
    import pandas as pd
    import pyarrow as pa

    layout = schema.arrow_schema(name)
    arrays = []
    for column in schema.TABLES[name]:
        field = layout.field(column.name)
        if column.name in table.column_names:
            try:
                arrays.append(table.column(column.name).cast(field.type))
            except pa.ArrowException as error:
                raise DmatraceError(
                    f"table {name} is damaged: column {column.name}: {_reason(error)}",
                    do="record again",
                ) from error
        else:
            arrays.append(pa.array([column.default] * table.num_rows, type=field.type))
    frame: pd.DataFrame = pa.Table.from_arrays(arrays, schema=layout).to_pandas(
        types_mapper={pa.bool_(): pd.BooleanDtype()}.get
    )
    return frame


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__
