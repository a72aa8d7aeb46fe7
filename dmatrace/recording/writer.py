"""Write a recording so that a killed recorder leaves a readable prefix.

While recording, each table is an Arrow IPC stream: every ``append`` is one
batch, handed to the kernel before it returns, so SIGKILL loses at most the
batch being written.  Nothing is fsynced in between: that would be I/O on the
machine whose I/O is being measured.  ``close`` turns each stream into Parquet
under a temporary name, renames it, and only then removes the stream.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dmatrace import interrupts
from dmatrace.errors import DmatraceError
from dmatrace.recording import schema

if TYPE_CHECKING:
    import pyarrow as pa

# Rows per Parquet row group: streams have one small batch per poll, and a
# row group each would make the file larger than the data.
_ROW_GROUP = 1 << 16
_BUFFER = 1 << 18  # bytes of a batch that become one write(2)
_TEMPORARY = ".tmp"


class Writer:
    """The writing end of one recording; make it with ``create``."""

    def __init__(self, path: Path, meta: dict[str, Any], owner: tuple[int, int] | None) -> None:
        self.path = path
        self._meta = meta
        self._owner = owner
        self._streams: dict[str, tuple[Any, Any]] = {}
        self._schemas: dict[str, pa.Schema] = {}
        self._closed = False

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        meta: Mapping[str, Any],
        force: bool = False,
        *,
        owner: tuple[int, int] | None = None,
    ) -> Writer:
        """Start a recording at ``path``; ``owner`` (uid, gid) is given its files.

        Raises DmatraceError when ``path`` exists (``force`` replaces a recording,
        and nothing else: only files a recording has are removed), or cannot be made.
        """
        where = Path(path)
        check_place(where, force)
        with _writing(where):
            if os.path.lexists(where):
                _make_room(where)
            else:
                where.mkdir()
            writer = cls(where, {**meta, "schema": schema.SCHEMA, "complete": False}, owner)
            writer._give(where)
            writer._write_meta(durable=True)
            for table in schema.TABLES:
                writer._open(table)
        return writer

    @property
    def meta(self) -> dict[str, Any]:
        """The current content of meta.json; change it with ``update_meta``."""
        return dict(self._meta)

    @interrupts.held()
    def append(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add ``rows`` to ``table`` as one batch that survives this process.

        Raises ValueError for an unknown table or column and for a missing one that is
        not optional, DmatraceError when the disk refuses.
        """
        if self._closed:
            raise ValueError("the recording is closed")
        if not rows:
            return
        batch = self._batch(table, rows)
        with _writing(self.path):
            sink, stream = self._streams[table]
            stream.write_batch(batch)
            sink.flush()

    def flush(self) -> None:
        """Hand everything appended to the kernel; ``append`` has already done so."""
        with _writing(self.path):
            for sink, _ in self._streams.values():
                sink.flush()

    @interrupts.held()
    def update_meta(self, /, **values: Any) -> None:
        """Change keys of meta.json, atomically: a reader sees the old or the new file."""
        self._meta.update(values)
        with _writing(self.path):
            self._write_meta(durable=False)

    @interrupts.held()
    def close(self, complete: bool = True) -> None:
        """Turn the streams into Parquet and write the last meta.json; twice does nothing."""
        if self._closed:
            return
        self._closed = True
        with _writing(self.path):
            for sink, stream in self._streams.values():
                stream.close()
                sink.close()
            for table in schema.TABLES:
                self._finish(table)
            self._meta["complete"] = complete
            self._write_meta(durable=True)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(complete=kind is None)

    def _open(self, table: str) -> None:
        import pyarrow as pa

        self._schemas[table] = layout = schema.arrow_schema(table)
        file = self.path / (table + schema.STREAM)
        # Arrow writes a batch in many pieces; each would be a system call.
        sink = file.open("wb", buffering=_BUFFER)
        stream = pa.ipc.new_stream(sink, layout)
        self._streams[table] = (sink, stream)
        # Arrow writes the schema with the first batch: make that now.
        stream.write_batch(self._batch(table, []))
        sink.flush()
        self._give(file)

    def _batch(self, table: str, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
        import pyarrow as pa

        if table not in schema.TABLES:
            raise ValueError(f"no table {table!r}")
        arrays = []
        for column, values in zip(schema.TABLES[table], _columns(table, rows), strict=True):
            try:
                arrays.append(_array(column.kind, values))
            except (TypeError, OverflowError, ValueError) as error:
                raise ValueError(f"{table}.{column.name}: {error}") from None
        layout = self._schemas[table]
        return pa.RecordBatch.from_arrays(arrays, schema=layout)

    def _finish(self, table: str) -> None:
        import pyarrow.parquet as pq

        stream = self.path / (table + schema.STREAM)
        final = self.path / (table + schema.FINAL)
        temporary = final.with_name(final.name + _TEMPORARY)
        with pq.ParquetWriter(str(temporary), self._schemas[table], compression="zstd") as out:
            for group in _row_groups(stream, self._schemas[table]):
                out.write_table(group)
        self._give(temporary)
        temporary.replace(final)
        stream.unlink()

    def _write_meta(self, *, durable: bool) -> None:
        file = self.path / schema.META
        temporary = file.with_name(file.name + _TEMPORARY)
        with temporary.open("w", encoding="ascii") as out:
            json.dump(self._meta, out, indent=1, sort_keys=True)
            out.write("\n")
            if durable:
                # Renamed before its data is on disk, it could be empty after a power cut.
                out.flush()
                os.fsync(out.fileno())
        self._give(temporary)
        temporary.replace(file)

    def _give(self, file: Path) -> None:
        if self._owner is not None:
            os.chown(file, *self._owner)


@lru_cache
def _layout(table: str) -> tuple[dict[str, Any], Callable[[Mapping[str, Any]], tuple[Any, ...]]]:
    """What a row may leave out, and how its values are taken in the order of the columns."""
    columns = schema.TABLES[table]
    optional = {column.name: column.default for column in columns if column.optional}
    return optional, itemgetter(*(column.name for column in columns))


def _columns(table: str, rows: Sequence[Mapping[str, Any]]) -> Iterable[Sequence[Any]]:
    """The rows' values, column by column.  A request is one row: there are thousands a second."""
    columns = schema.TABLES[table]
    if not rows:
        return [()] * len(columns)
    optional, values = _layout(table)
    found = []
    for row in rows:
        whole = {**optional, **row} if len(row) < len(columns) else row
        try:
            found.append(values(whole))
        except KeyError:
            whole = {}
        if len(whole) != len(columns):
            names = {column.name for column in columns}
            odd = sorted(row.keys() - names) + sorted(names - optional.keys() - row.keys())
            raise ValueError(f"{table}: unknown or missing columns: {', '.join(odd)}")
    return zip(*found, strict=True)


def _row_groups(stream: Path, layout: pa.Schema) -> Iterator[pa.Table]:
    import pyarrow as pa

    pending: list[pa.RecordBatch] = []
    rows = 0
    with schema.stream_bytes(stream) as source, pa.ipc.open_stream(source) as batches:
        for batch in batches:
            pending.append(batch)
            rows += batch.num_rows
            if rows >= _ROW_GROUP:
                yield pa.Table.from_batches(pending, layout)
                pending, rows = [], 0
    if rows:
        yield pa.Table.from_batches(pending, layout)


def _array(kind: str, values: Sequence[Any]) -> pa.Array:
    """An Arrow array of plain Python values; None is allowed for bool alone.

    Not pa.array(): that imports pandas to ask whether it was given a pandas object, which
    costs a recorder half a second and 100 MB.
    """
    import pyarrow as pa

    if kind == "str":
        builder = pa.lib.StringBuilder()
        words = {value: _text(value) for value in set(values)}  # a few, over and over
        builder.append_values([words[value] for value in values])
        return builder.finish()
    if kind == "bool":
        bitmaps = [
            sum(bit << n for n, bit in enumerate(bits)).to_bytes(-(-len(values) // 8), "little")
            for bits in ([v is not None for v in values], [v is True for v in values])
        ]
        buffers = [pa.py_buffer(bitmap) for bitmap in bitmaps]
        return pa.Array.from_buffers(pa.bool_(), len(values), buffers)
    code, width = {"int64": ("q", pa.int64()), "uint64": ("Q", pa.uint64())}[kind]
    data = pa.py_buffer(array.array(code, values))
    return pa.Array.from_buffers(width, len(values), [None, data])


def _text(value: Any) -> str:
    """A str Arrow accepts: file names and comms may hold bytes that are no UTF-8."""
    if not isinstance(value, str):
        raise ValueError(f"not a string: {value!r}")
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


def check_place(where: Path, force: bool) -> None:
    """Raise DmatraceError unless a recording can be made at ``where``; changes nothing."""
    with _writing(where):
        parent = where.absolute().parent
        if not parent.is_dir():
            raise DmatraceError(f"there is no directory {parent}", do=f"mkdir -p {parent}")
        if not os.path.lexists(where):
            if not os.access(parent, os.W_OK | os.X_OK):
                raise DmatraceError(f"{parent} cannot be written to", do="name another with -o")
            return
        if not force:
            raise DmatraceError(f"{where} exists", do="name another with -o, or add --force")
        if not where.is_dir():
            raise DmatraceError(f"{where} exists and is no recording", do="name another with -o")
        if not (where / schema.META).is_file() and any(where.iterdir()):
            raise DmatraceError(
                f"{where} is a directory with something else in it", do="name another with -o"
            )


def _make_room(where: Path) -> None:
    for name in (
        schema.META,
        *(table + end for table in schema.TABLES for end in (schema.STREAM, schema.FINAL)),
    ):
        for file in (where / name, where / (name + _TEMPORARY)):
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """OSError (from Python or Arrow) as one line with a next step."""
    try:
        yield
    except DmatraceError:
        raise
    except OSError as error:
        raise DmatraceError(
            f"cannot write {path}: {error.strerror or error}",
            do="name a directory with room that you may write to with -o",
        ) from error
