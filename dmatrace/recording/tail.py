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
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from dmatrace.errors import DmatraceError
from dmatrace.recording import schema
from dmatrace.recording.reader import Recording

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]

_ALL: Mapping[str, Collection[str]] = {}  # columns, of all tables


class Rows(Sequence[Row]):
    """Rows that are kept column by column, and made when they are asked for."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self.columns = columns
        self._count = 0

    def add(self, found: pa.RecordBatch | pa.Table, columns: Sequence[schema.Column]) -> None:
        """What Arrow read, as plain Python values; absent columns take their default."""
        names = set(found.schema.names)
        for column in columns:
            self.columns[column.name] += (
                found.column(column.name).to_pylist()
                if column.name in names
                else [column.default] * found.num_rows
            )
        self._count += found.num_rows

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        if isinstance(place, slice):
            return [self[n] for n in range(self._count)[place]]
        return {name: values[place] for name, values in self.columns.items()}

    def __iter__(self) -> Iterator[Row]:
        for values in zip(*self.columns.values(), strict=True):
            yield dict(zip(self.columns, values, strict=True))


def prepare() -> None:
    """Import what reading takes, a tenth of a second's work, before there is anything to read."""
    import pyarrow.parquet  # noqa: F401


class Tail:
    """One reader of one recording, from its first row on; make it with ``open``.

    ``columns`` of a table are all that its rows are to have, and it comes as Rows; of other
    tables rows are whole.
    """

    def __init__(
        self, path: Path, meta: dict[str, Any], columns: Mapping[str, Collection[str]] = _ALL
    ) -> None:
        self.path = path
        self.meta = meta
        self._columns = {
            table: [c for c in all_ if c.name in columns.get(table, (c.name,))]
            for table, all_ in schema.TABLES.items()
        }
        self._whole = frozenset(schema.TABLES) - columns.keys()
        #: Streams that are open: to look for each by its name takes longer than to read it.
        self._streams: dict[str, int] = {}
        weakref.finalize(self, _close, self._streams)
        self._offset: dict[str, int] = {}  # bytes read of a stream
        self._rows: dict[str, int] = {}  # rows read of a table
        self._schemas: dict[str, pa.Schema] = {}
        self._final: set[str] = set()
        self._stamp = (0, 0)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], columns: Mapping[str, Collection[str]] = _ALL
    ) -> Tail:
        """The recording at ``path``; DmatraceError as ``Recording.open`` raises it."""
        recording = Recording.open(path)
        return cls(recording.path, recording.meta, columns)

    @property
    def complete(self) -> bool:
        """Whether the recorder closed the recording itself, as of the last poll."""
        return self.meta.get("complete") is True

    def poll(self) -> dict[str, Sequence[Row]]:
        """{table: its new rows}, without tables that have none; ``meta`` is read anew.

        Raises DmatraceError when a finished table is damaged, or a file may not be read.
        """
        # First: a recording that says it is complete has no more rows behind what we read.
        self._read_meta()
        # A load's last row is written behind all others of it: a poll that has this row has
        # those, whatever is written meanwhile.
        ended = self._new("loads")
        found: dict[str, Sequence[Row]] = {}
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

    def _new(self, table: str) -> Sequence[Row]:
        if table in self._final:
            return ()
        try:
            data = self._bytes(table)
        except FileNotFoundError:
            found = self._finished(table)
        except OSError as error:
            raise DmatraceError(
                f"cannot read {self.path / table}{schema.STREAM}: {error.strerror}",
                do="check its permissions",
            ) from error
        else:
            found = self._batches(table, data)
        return list(found) if table in self._whole else found

    def _bytes(self, table: str) -> bytes:
        """What is new in a table's stream; FileNotFoundError where it has none any more."""
        offset = self._offset.get(table, 0)
        if table not in self._streams:
            path = self.path / (table + schema.STREAM)
            self._streams[table] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        fd = self._streams[table]
        status = os.fstat(fd)
        if not status.st_nlink:
            os.close(self._streams.pop(table))
            raise FileNotFoundError
        return os.pread(fd, status.st_size - offset, offset) if status.st_size > offset else b""

    def _batches(self, table: str, data: bytes) -> Rows:
        """The rows of the whole batches at the beginning of ``data``."""
        rows = Rows({column.name: [] for column in self._columns[table]})
        if not data:
            return rows
        import pyarrow as pa

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
                    rows.add(batch, self._columns[table])
            except (EOFError, KeyError, pa.ArrowException, OSError, UnicodeDecodeError):
                break  # the rest is not written yet, or the stream ends here
            used = source.tell()
        self._offset[table] = self._offset.get(table, 0) + used
        self._rows[table] = self._rows.get(table, 0) + len(rows)
        return rows

    def _finished(self, table: str) -> Rows:
        """The rows of a closed table that its stream had not shown us."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = Rows({column.name: [] for column in self._columns[table]})
        file = self.path / (table + schema.FINAL)
        try:
            with pq.ParquetFile(str(file)) as opened:
                whole = opened.read()
            schema.decoded(whole.schema)
        except FileNotFoundError:
            return rows  # a table that this recording does not have
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DmatraceError(f"{file} is damaged: {error}", do="record again") from error
        self._final.add(table)
        rows.add(whole.slice(self._rows.get(table, 0)), self._columns[table])
        return rows


def _close(streams: Mapping[str, int]) -> None:
    for fd in streams.values():
        os.close(fd)
