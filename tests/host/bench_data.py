"""Benches that nobody ran: measurements with known figures, for tests."""

from __future__ import annotations

from collections.abc import Callable

from dmatrace.analysis.bench import Cell, Entry, Measurements, Sample
from dmatrace.literature import TABLES

MIB, GIB = 1 << 20, 1 << 30
MACHINE = (("kernel", "6.12.0-test x86_64"), ("machine", "emulated (QEMU without KVM)"))
SPLIT = {"alloc_ns": 100_000_000, "vmap_ns": 20_000_000, "read_ns": 300_000_000}

#: (row, size, eaten, round) -> its load
Make = Callable[[int, int, int, int], Sample]


def load(row: int, size: int, eaten: int, number: int) -> Sample:
    """Row n creates in n ms, reads in 10 n ms a round and closes in 1 ms; twice under pressure."""
    slow = 2 if eaten else 1
    return Sample(
        number,
        create_ns=row * 1_000_000 * slow,
        io_ns=row * 10_000_000 * number * slow,
        close_ns=1_000_000,
        verified=True,
    )


def measurements(
    table: str = "H3",
    sizes: tuple[int, ...] = (GIB,),
    pressures: tuple[int, ...] = (0,),
    rounds: int = 3,
    make: Make = load,
    names: tuple[str, ...] = ("dmabuf-bio", "dmabuf-dio", "anon-dio"),
) -> Measurements:
    """Every row at every place; ``names`` are the rows where there is no table."""
    published = TABLES.get(table)
    rows = (
        tuple(Entry(row.number, row.label, row.strategy) for row in published.rows)
        if published
        else tuple(Entry(n, name, name) for n, name in enumerate(names, start=1))
    )
    cells = tuple(
        Cell(
            row.number,
            size,
            eaten,
            tuple(make(row.number, size, eaten, n) for n in range(1, rounds + 1)),
        )
        for size in sizes
        for eaten in pressures
        for row in rows
    )
    return Measurements(
        dmatrace="0.1.0",
        started="2026-01-02T03:04:05+00:00",
        table=table,
        rows=rows,
        sizes=sizes,
        pressures=pressures,
        rounds=rounds,
        buffers=published.buffers if published else 1,
        block=32 * MIB,
        jobs=1,
        depth=1,
        gather=128 * MIB,
        file="",
        machine=MACHINE,
        emulated=True,
        cells=cells,
    )
