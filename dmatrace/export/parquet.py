"""A table as Parquet (zstd), with each column's unit and meaning as Arrow field metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

from dmatrace.analysis.columns import TABLES
from dmatrace.analysis.recorded_columns import Column

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def write_table(frame: pd.DataFrame, out: BinaryIO, name: str = "") -> None:
    """``frame``, the table ``name``, as Parquet to ``out``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    odd: dict[str, Any] = {
        column: [_text(value) for value in frame[column].tolist()]
        for column in frame.columns
        if frame[column].dtype.kind == "O"
    }
    table = pa.Table.from_pandas(frame.assign(**odd), preserve_index=False)
    known = {column.name: column for column in TABLES[name].columns} if name in TABLES else {}
    fields = []
    for field in table.schema:
        # A column of nulls alone has no type, which some readers refuse.
        if pa.types.is_null(field.type):
            field = field.with_type(pa.string())
        fields.append(_described(field, known.get(field.name)))
    layout = pa.schema(fields, metadata=table.schema.metadata)
    pq.write_table(table.cast(layout), out, compression="zstd")


def _described(field: pa.Field, column: Column | None) -> pa.Field:
    if column is None:
        return field
    return field.with_metadata({"unit": column.unit, "meaning": column.meaning})


def _text(value: Any) -> str | None:
    """A string that is UTF-8: a damaged meta.json may hold anything."""
    if value is None:
        return None
    return str(value).encode("utf-8", "backslashreplace").decode()
