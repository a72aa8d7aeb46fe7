"""A fleet of recordings, made from a few by scaling, with outliers and damage that are known.

Each device model has its own speed and each recording some noise; all times of a
recording are scaled alike, so that it still adds up.  Every outlier differs in
one thing, which the analysis has to name: a phase it was blocked in, or what it
left in the page cache.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dmatrace.recording import TABLES
from dmatrace.recording.schema import META, arrow_schema

DEVICES = {"Phone A1": 1.0, "Phone B2": 1.6, "Board C3": 2.5, "Tablet D4": 0.7}
KERNELS = ("6.6.30-android15", "6.12.23-android16", "6.1.75-android14")
NOISE = 0.02


@dataclass
class Fleet:
    """What was made: {recording's name: what is odd about it}."""

    outliers: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    count: int = 0
    loads: int = 0


class Source:
    """One recording's tables, in memory."""

    def __init__(self, path: Path, loads: int = 0) -> None:
        """Of ``path``; of its loads only the first so many, or (0) all."""
        self.meta = json.loads((path / META).read_text())
        self.tables = {}
        for name in TABLES:
            layout = arrow_schema(name)
            file = path / f"{name}.parquet"
            found = layout.empty_table()
            if file.exists():  # an older recorder has fewer tables
                found = pq.ParquetFile(file).read()
            columns = []
            for item in TABLES[name]:
                kind = layout.field(item.name).type
                if item.name in found.column_names:
                    columns.append(found.column(item.name).combine_chunks().cast(kind))
                else:  # made by an older recorder
                    columns.append(pa.array([item.default] * found.num_rows, kind))
            self.tables[name] = pa.Table.from_arrays(columns, schema=layout)
        if loads:
            kept = list(dict.fromkeys(self.tables["loads"].column("load_id").to_pylist()))[:loads]
            for name, table in self.tables.items():
                if "load_id" in table.column_names:
                    mine = pc.is_in(table.column("load_id"), pa.array(kept))
                    self.tables[name] = table.filter(mine)
        self.loads = self.tables["loads"].to_pylist()


def make(
    sources: Sequence[Path],
    out: Path,
    count: int,
    *,
    seed: int = 7,
    odd: int = 250,
    damage: int = 500,
    loads: int = 0,
) -> Fleet:
    """``count`` recordings below ``out``; of every ``odd`` one is an outlier, of ``damage`` broken.

    The same arguments make the same files.  What all have alike, such as empty tables, is one
    file with many names.  ``loads``: of each source only the first so many, 0: all.
    """
    random = np.random.default_rng(seed)
    read = [Source(path, loads) for path in sources]
    written: dict[tuple[int, str], Path] = {}
    fleet = Fleet(count=count)
    fleet.loads = max(len({row["load_id"] for row in source.loads}) for source in read)
    models = list(DEVICES)
    for number in range(count):
        source = read[number % len(read)]
        device = models[number % len(models)]
        kernel = KERNELS[(number // len(models)) % len(KERNELS)]
        name = f"{number:06d}.dmt"
        factor = DEVICES[device] * float(np.exp(random.normal(0, NOISE)))
        tables = {key: _scaled(table, factor) for key, table in source.tables.items()}
        if number % odd == odd // 2:
            fleet.outliers[name] = _spoil(tables, source, number // odd)
        where = out / f"{number // 1000:03d}" / name
        where.mkdir(parents=True)
        for key, table in tables.items():
            alike = (number % len(read), key) if table is source.tables[key] else None
            if alike in written:
                os.link(written[alike], where / f"{key}.parquet")
                continue
            if alike:
                written[alike] = where / f"{key}.parquet"
            pq.write_table(table, where / f"{key}.parquet", compression="none",
                           use_dictionary=False, write_statistics=False)  # fmt: skip
        meta = {**source.meta, "device": device, "kernel": kernel}
        (where / META).write_text(json.dumps(meta))
        if number % damage == damage // 3:
            fleet.damaged[name] = _break(where, number // damage)
    return fleet


def _scaled(table: pa.Table, factor: float) -> pa.Table:
    """All times by ``factor``; from integers to integers, so that a cell's share stays.

    The table itself, if it has none.
    """
    if not table.num_rows:
        return table
    for at, name in enumerate(table.column_names):
        if name.endswith("_ns"):
            values = np.rint(table.column(at).to_numpy() * factor).astype(np.int64)
            table = table.set_column(at, table.schema.field(at), pa.array(values))
    return table


def _spoil(tables: dict[str, pa.Table], source: Source, which: int) -> str:
    """Change all rounds of the first strategy; returns the figure that they differ in."""
    strategy = source.loads[0]["strategy"]
    # The last row of a load holds.
    last = {row["load_id"]: at for at, row in enumerate(source.loads)}
    for load_id, at in last.items():
        load = source.loads[at]
        if load["strategy"] != strategy:
            continue
        if which % 2:
            added = load["page_cache_added"] + 2 * load["bytes"]
            _set(tables, "loads", "page_cache_added", at, added)
            continue
        extra = tables["loads"].column("wall_ns")[at].as_py()  # twice as slow
        for name in ("wall_ns", "io_ns"):
            _set(tables, "loads", name, at, tables["loads"].column(name)[at].as_py() + extra)
        _block(tables, load_id, "submit", extra)
    return "page_cache_added" if which % 2 else "submit"


def _block(tables: dict[str, pa.Table], load_id: int, phase: str, extra: int) -> None:
    """Let the first thread of a load be blocked in ``phase`` before its last marker."""
    rows = tables["snapshots"].to_pylist()
    last = max(
        (row for row in rows if row["load_id"] == load_id and row["kind"] == "end"),
        key=lambda row: row["t_ns"],
    )
    key = ("load_id", "tid", "t_ns", "window", "kind")
    same = [row for row in rows if all(row[name] == last[name] for name in key)]
    mine = next((row for row in same if row["phase"] == phase), None)
    if mine is None:
        mine = {**last, "phase": phase, "cpu_ns": 0, "blocked_ns": 0, "runnable_ns": 0, "count": 1}
        rows.insert(rows.index(same[-1]) + 1, mine)
    mine["blocked_ns"] += extra
    tables["snapshots"] = pa.Table.from_pylist(rows, schema=arrow_schema("snapshots"))


def _set(tables: dict[str, pa.Table], table: str, name: str, at: int, value: int) -> None:
    found = tables[table]
    index = found.column_names.index(name)
    values: list[Any] = found.column(index).to_pylist()
    values[at] = value
    column = pa.array(values, found.schema.field(index).type)
    tables[table] = found.set_column(index, found.schema.field(index), column)


def _break(where: Path, which: int) -> str:
    """Damage one recording, in one of several ways; returns which."""
    file = where / "loads.parquet"
    if which % 4 == 0:
        file.write_bytes(file.read_bytes()[:-20])
        return "truncated"
    if which % 4 == 1:
        (where / META).write_text('{"schema": 99}')
        return "newer"
    if which % 4 == 2:
        (where / META).unlink()
        return "no meta"
    (where / META).write_bytes(b"\x1b[2J\xff\x00")
    return "not text"
