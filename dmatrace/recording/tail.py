"""Follow a recording while it is written: each ``poll`` reads only what is new.

A table is an Arrow IPC stream while its recorder runs, so the offset behind the
last whole batch says where the next one begins; a batch that is half written is
left for the next poll.  When the recorder closes the recording, the stream
becomes Parquet with the same rows in the same order, and what was not read yet is
read there.  Nothing here needs pandas.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmatrace.errors import DmatraceError
from dmatrace.recording import schema
from dmatrace.recording.reader import Recording

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]


class Tail:
    """One reader of one recording, from its first row on; make it with ``open``."""

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.path = path
        self.meta = meta
        self._offset: dict[str, int] = {}  # bytes read of a stream
        self._rows: dict[str, int] = {}  # rows read of a table
        self._schemas: dict[str, pa.Schema] = {}
        self._final: set[str] = set()
        self._stamp = (0, 0)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Tail:
        """The recording at ``path``; DmatraceError as ``Recording.open`` raises it."""
        recording = Recording.open(path)
        return cls(recording.path, recording.meta)

    @property
    def complete(self) -> bool:
        """Whether the recorder closed the recording itself, as of the last poll."""
        return self.meta.get("complete") is True

    def poll(self) -> dict[str, list[Row]]:
        """{table: its new rows}, without tables that have none; ``meta`` is read anew.

        Raises DmatraceError when a finished table is damaged, or a file may not be read.
        """
        # First: a recording that says it is complete has no more rows behind what we read.
        self._read_meta()
        # A load's last row is written behind all others of it: a poll that has this row has
        # those, whatever is written meanwhile.
        ended = self._new("loads")
        found = {}
        for table in schema.TABLES:
            rows = ended if table == "loads" else self._new(table)
            if rows:
                found[table] = rows
        return found

    def _read_meta(self) -> None:
        file = self.path / schema.META
        try:
            status = file.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp != self._stamp:
                meta = json.loads(file.read_text(encoding="utf-8"))
                self._stamp = stamp
                if isinstance(meta, dict):
                    self.meta = meta
        except (OSError, ValueError):
            return  # replaced at this moment, or gone: what we know stays

    def _new(self, table: str) -> list[Row]:
        if table in self._final:
            return []
        try:
            data = self._bytes(self.path / (table + schema.STREAM), self._offset.get(table, 0))
        except FileNotFoundError:
            return self._finished(table)
        except OSError as error:
            raise DmatraceError(
                f"cannot read {self.path / table}{schema.STREAM}: {error.strerror}",
                do="check its permissions",
            ) from error
        return self._batches(table, data)

    @staticmethod
    def _bytes(file: Path, offset: int) -> bytes:
        with file.open("rb") as source:
            source.seek(offset)
            return source.read()

    def _batches(self, table: str, data: bytes) -> list[Row]:
        """The rows of the whole batches at the beginning of ``data``."""
        import pyarrow as pa

        rows: list[Row] = []
        used = 0
        source = pa.BufferReader(data)
        while used < len(data):
            try:
                message = pa.ipc.read_message(source)
                if message.type == "schema":
                    self._schemas[table] = schema.decoded(pa.ipc.read_schema(message))
                else:
                    batch = pa.ipc.read_record_batch(message, self._schemas[table])
                    batch.validate(full=True)
                    rows += _rows(batch, table)
            except (EOFError, KeyError, pa.ArrowException, OSError, UnicodeDecodeError):
                break  # the rest is not written yet, or the stream ends here
            used = source.tell()
        self._offset[table] = self._offset.get(table, 0) + used
        self._rows[table] = self._rows.get(table, 0) + len(rows)
        return rows

    def _finished(self, table: str) -> list[Row]:
        """The rows of a closed table that its stream had not shown us."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = self.path / (table + schema.FINAL)
        try:
            with pq.ParquetFile(str(file)) as opened:
                whole = opened.read()
            schema.decoded(whole.schema)
        except FileNotFoundError:
            return []  # a table that this recording does not have
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DmatraceError(f"{file} is damaged: {error}", do="record again") from error
        self._final.add(table)
        return _rows(whole.slice(self._rows.get(table, 0)), table)


def _rows(found: pa.RecordBatch | pa.Table, table: str) -> list[Row]:
    """Plain Python rows with exactly the schema's columns; absent ones take their default."""
    names = set(found.schema.names)
    columns = schema.TABLES[table]
    values = [
        found.column(column.name).to_pylist()
        if column.name in names
        else [column.default] * found.num_rows
        for column in columns
    ]
    keys = [column.name for column in columns]
    return [dict(zip(keys, row, strict=True)) for row in zip(*values, strict=True)]
