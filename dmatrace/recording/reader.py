"""Read a recording, finished or not.

A finished table is Parquet.  One whose recorder was killed is an Arrow
stream with a torn tail: every batch before the tear is read, the rest is
dropped, and ``torn`` names the table.
"""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmatrace.errors import DmatraceError
from dmatrace.recording import schema
from dmatrace.recording.check import damage

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

# A table of more rows is not held as a whole: 10 million requests are a gigabyte.
_WHOLE = 1 << 20
#: (column, "==" or ">", value)
Condition = tuple[str, str, int | str]
# Tables of no more rows are read without Arrow's threads, whose start took longer than they.
_THREADS = 10_000
_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {"==": operator.eq, ">": operator.gt}


class Recording:
    """The reading end of one recording; make it with ``open``."""

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.path = path
        self.meta = meta
        self.torn: set[str] = set()
        self._tables: dict[str, pd.DataFrame] = {}
        self._places: dict[str, dict[int, np.ndarray[Any, Any]]] = {}
        self._large: dict[str, pq.ParquetFile | None] = {}

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
        why = damage(meta)
        if why:
            raise DmatraceError(f"{where / schema.META} is damaged: {why}", do="record again")
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

    def part(
        self,
        name: str,
        load_id: int,
        columns: Sequence[str] = (),
        *,
        where: Sequence[Condition] = (),
        categories: bool = False,
    ) -> pd.DataFrame:
        """The rows of table ``name`` that belong to one load, in their order.

        ``columns`` are the ones wanted (default: all), and of the rows those for which every
        condition of ``where`` holds, ("op", "==", "read") for instance.  Of a table of
        millions of rows only the load's row groups and these columns are read, and nothing
        is kept; with ``categories`` its strings are categories, not an object each.  Raises
        as table() does.
        """
        wanted = list(columns) or [column.name for column in schema.TABLES[name]]
        if name not in self._large:
            self._large[name] = None if name in self._tables else self._open_large(name)
        large = self._large[name]
        if large is not None:
            parts = _parts_of(large, name, load_id, wanted, where)
            if categories:
                return _filled(parts, name, wanted, large.metadata.num_rows)
            layout = schema.arrow_schema(name).empty_table().select(wanted)
            return _pandas(_joined([layout, *parts]))
        frame = self.table(name)
        if name not in self._places:
            self._places[name] = _places(frame["load_id"].to_numpy())
        mine = self._places[name].get(load_id)
        if mine is None:
            frame = _empty(name)
        elif len(mine) < len(frame):
            frame = frame.iloc[mine]
        kept = [_COMPARE[sign](frame[column], value) for column, sign, value in where]
        frame = frame[wanted] if columns else frame
        return frame[reduce(operator.and_, kept)] if kept and len(frame) else frame

    def _open_large(self, name: str) -> pq.ParquetFile | None:
        """The table's file, if it is too large to be held and can be read by parts."""
        final = self.path / (name + schema.FINAL)
        if not final.exists():
            return None
        opened = _opened(final)
        if opened.metadata.num_rows > _WHOLE and "load_id" in opened.schema_arrow.names:
            return opened
        with opened:
            self._tables[name] = _frame(_whole(opened, final), name)
        return None

    def _read(self, name: str) -> pd.DataFrame:
        layout = schema.arrow_schema(name)
        final = self.path / (name + schema.FINAL)
        stream = self.path / (name + schema.STREAM)
        if final.exists():
            with _opened(final) as opened:
                table = _whole(opened, final)
        elif stream.exists():
            table, whole = _prefix(stream, layout)
            if not whole:
                self.torn.add(name)
        else:
            table = layout.empty_table()
        return _frame(table, name)


def _places(values: np.ndarray[Any, Any]) -> dict[int, np.ndarray[Any, Any]]:
    """{value: where it is, in order}; what pandas' groupby takes milliseconds for."""
    import numpy as np

    order = np.argsort(values, kind="stable")
    found, first = np.unique(values[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, first[1:]), strict=bool(len(found))))


def _opened(file: Path) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # ParquetFile, not read_table: that would look for a data set around the file.
        opened = pq.ParquetFile(str(file))
        schema.decoded(opened.schema_arrow)
    except PermissionError as error:
        raise DmatraceError(
            f"cannot read {file}: {_reason(error)}", do="check its permissions"
        ) from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(file, error) from error
    return opened


def _whole(opened: pq.ParquetFile, file: Path) -> pa.Table:
    import pyarrow as pa

    if not opened.metadata.num_rows:
        return opened.schema_arrow.empty_table()
    try:
        table = opened.read(use_threads=opened.metadata.num_rows > _THREADS)
        # What Parquet calls a string may hold any bytes.
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(file, error) from error
    return table


def _frame(table: pa.Table, name: str) -> pd.DataFrame:
    """``table`` as a frame of the schema's columns."""
    # Half of a recording's tables are empty, and pandas takes a while to say so.
    return _pandas(_conform(table, name)) if table.num_rows else _empty(name)


@lru_cache
def _empty(name: str) -> pd.DataFrame:
    return _pandas(schema.arrow_schema(name).empty_table())


def _damaged(file: Path, error: Exception) -> DmatraceError:
    return DmatraceError(f"{file} is damaged: {_reason(error)}", do="record again")


def _parts_of(
    file: pq.ParquetFile,
    name: str,
    load_id: int,
    columns: Sequence[str],
    where: Sequence[Condition],
) -> Iterator[pa.Table]:
    """The rows of one load; row groups whose statistics exclude it are passed over."""
    import pyarrow as pa
    import pyarrow.compute as pc

    needed = list(dict.fromkeys(["load_id", *columns, *(column for column, _, _ in where)]))
    present = [name for name in needed if name in file.schema_arrow.names]
    at = file.schema_arrow.names.index("load_id")
    try:
        for group in range(file.metadata.num_row_groups):
            stats = file.metadata.row_group(group).column(at).statistics
            if stats is not None and stats.has_min_max and not stats.min <= load_id <= stats.max:
                continue
            table = file.read_row_group(group, columns=present)
            table.validate(full=True)
            table = _conform(table, name, needed)
            mine = pc.equal(table.column("load_id"), load_id).to_numpy()
            for column, sign, value in where:
                values = table.column(column).to_pandas()
                mine = mine & _COMPARE[sign](values, value).to_numpy(dtype=bool)
            table = table.select(columns)
            yield table if mine.all() else table.filter(pa.array(mine))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DmatraceError(f"a table is damaged: {_reason(error)}", do="record again") from error


def _joined(parts: Sequence[pa.Table]) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables(parts)


def _filled(
    parts: Iterable[pa.Table], name: str, columns: Sequence[str], most: int
) -> pd.DataFrame:
    """A frame of ``parts``, which have at most so many rows; strings are categories.

    Columns are filled as parts come, so that nothing is held twice; memory that is not
    written to is none.
    """
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    layout = schema.arrow_schema(name)
    text = {column for column in columns if pa.types.is_string(layout.field(column).type)}
    filled: dict[str, np.ndarray[Any, Any]] = {
        column: np.empty(
            most, np.int32 if column in text else layout.field(column).type.to_pandas_dtype()
        )
        for column in columns
    }
    known: dict[str, dict[str, int]] = {column: {} for column in text}
    count = 0
    for part in parts:
        until = count + part.num_rows
        for column, values in filled.items():
            found = part.column(column).combine_chunks()
            if column in text:
                coded = found.dictionary_encode()
                codes = known[column]
                numbers = [codes.setdefault(x, len(codes)) for x in coded.dictionary.to_pylist()]
                values[count:until] = np.array(numbers, dtype=np.int32)[coded.indices.to_numpy()]
            else:
                values[count:until] = found.to_numpy()
        count = until
    series: dict[str, Any] = {}
    for column in columns:
        values = filled.pop(column)[:count]
        if column in text:
            names = pd.Index(list(known[column]), dtype=object)
            series[column] = pd.Categorical.from_codes(values, categories=names)
        else:
            series[column] = values
    return pd.DataFrame(series, copy=False)


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
        with schema.stream_bytes(file) as source, pa.ipc.open_stream(source) as stream:
            found = schema.decoded(stream.schema)
            for batch in stream:
                batch.validate(full=True)
                batches.append(batch)
    except PermissionError as error:
        raise DmatraceError(
            f"cannot read {file}: {_reason(error)}", do="check its permissions"
        ) from error
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        whole = False
    return pa.Table.from_batches(batches, found), whole


def _conform(table: pa.Table, name: str, columns: Sequence[str] = ()) -> pa.Table:
    """``table`` with the schema's columns in its order (or those wanted); absent ones take
    their default."""
    import pyarrow as pa

    layout = schema.arrow_schema(name)
    if columns:
        layout = pa.schema([layout.field(name) for name in columns])
    by_name = {column.name: column for column in schema.TABLES[name]}
    arrays = []
    for field in layout:
        column = by_name[field.name]
        if column.name in table.column_names:
            try:
                array = table.column(column.name)
                array = array if array.type == field.type else array.cast(field.type)
            except (pa.ArrowException, KeyError) as error:  # KeyError: it is there twice
                raise DmatraceError(
                    f"table {name} is damaged: column {column.name}: {_reason(error)}",
                    do="record again",
                ) from error
            if array.null_count and not field.nullable:
                raise DmatraceError(
                    f"table {name} is damaged: column {column.name} has empty cells",
                    do="record again",
                )
            arrays.append(array)
        else:
            value = pa.scalar(column.default, type=field.type)
            arrays.append(pa.repeat(value, table.num_rows))
    return pa.Table.from_arrays(arrays, schema=layout)


def _pandas(table: pa.Table) -> pd.DataFrame:
    """``table`` as a frame; each column is let go when it is converted, so the caller must not
    use it any more: a large table is not held twice."""
    import pandas as pd
    import pyarrow as pa

    frame: pd.DataFrame = table.to_pandas(
        types_mapper={pa.bool_(): pd.BooleanDtype()}.get, split_blocks=True, self_destruct=True
    )
    return frame


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__
