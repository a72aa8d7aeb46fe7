#!/usr/bin/env python3
"""``report`` on a recording of 10 million requests, beside plain pandas and DuckDB.

All three read the same recording and print the same summary of its block reads
(requests, bytes, percentiles of the latency, per load); the report does all else
that a report holds as well.  Each is a process of its own, whose wall time and
peak memory (ru_maxrss) are taken; how they relate is what counts.  The answers
must agree, and the report must stay under 1 GiB.

    make bench-report
    .venv/bin/python benchmarks/report_size.py --rows 10000000 --loads 100
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/host"))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import synthetic

from dmatrace.recording import Writer
from dmatrace.recording.schema import arrow_schema

LIMIT = 1 << 30
_GROUP = 1 << 16  # rows of a row group, as the recorder writes them

_PANDAS = """
import json, math, sys
import pandas as pd
frame = pd.read_parquet(sys.argv[1])
frame = frame[(frame["op"] == "read") & (frame["complete_ns"] > 0)]
out = []
for load_id, part in frame.groupby("load_id"):
    latency = (part["complete_ns"] - part["issue_ns"]).sort_values().tolist()
    out.append([int(load_id), len(part), int(part["bytes"].sum()),
                *(latency[-(-len(latency) * p // 100) - 1] for p in (50, 90, 99, 100))])
print(json.dumps(out))
"""

_DUCKDB = """
import json, sys
import duckdb
duckdb.sql("set enable_progress_bar = false")
rows = duckdb.sql(f'''
    select load_id, count(*), sum(bytes)::bigint,
           quantile_disc(complete_ns - issue_ns, [0.5, 0.9, 0.99, 1.0])
    from '{sys.argv[1]}' where op = 'read' and complete_ns > 0 group by load_id order by load_id
''').fetchall()
print(json.dumps([[a, b, int(c), *d] for a, b, c, d in rows]))
"""

_REPORT = """
import sys
from dmatrace.cli import main
sys.exit(main(["report", sys.argv[1], "-f", "json"]))
"""


def main() -> int:
    """Make the recording and measure; exit 1 if answers differ or memory is above the limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000, metavar="N")
    parser.add_argument("--loads", type=int, default=100, metavar="N", help="default: 100")
    parser.add_argument("--dir", default="/var/tmp", help="where it is made (default: /var/tmp)")
    args = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="dmatrace-report-", dir=args.dir))
    try:
        return _measure(_recording(place / "large.dmt", args.rows, args.loads), args)
    finally:
        shutil.rmtree(place)


def _recording(out: Path, rows: int, loads: int) -> Path:
    """A recording whose requests table has ``rows`` rows; all else is as always."""
    with Writer.create(out, synthetic.META) as writer:
        for load_id in range(1, loads + 1):
            synthetic.write_load(writer, load_id, "udmabuf-dio", load_id)
    random = np.random.default_rng(1)
    layout = arrow_schema("requests")
    with pq.ParquetWriter(str(out / "requests.parquet"), layout, compression="zstd") as file:
        done = 0
        for load_id in range(1, loads + 1):
            left = rows * load_id // loads - done
            done += left
            clock = 1_000_000 * load_id
            while left:
                count = min(left, _GROUP)
                left -= count
                issue = clock + np.cumsum(random.integers(1_000, 20_000, count))
                clock = int(issue[-1])
                columns = {
                    "load_id": np.full(count, load_id), "tid": np.full(count, 100),
                    "tgid": np.full(count, 100), "dev": np.full(count, synthetic.DEV),
                    "sector": random.integers(0, 1 << 31, count) * 8,
                    "bytes": random.choice([4096, 65536, 131072, 524288], count),
                    "op": random.choice(["read", "read", "read", "write"], count),
                    "queue_ns": issue - random.integers(100, 9_000, count), "issue_ns": issue,
                    "complete_ns": issue + random.integers(20_000, 4_000_000, count),
                }  # fmt: skip
                for name in layout.names:
                    if name not in columns:  # of a later schema
                        kind = layout.field(name).type
                        blank = "" if kind == pa.string() else 0
                        columns[name] = np.full(count, blank)
                arrays = [pa.array(columns[name], layout.field(name).type) for name in layout.names]
                file.write_table(pa.Table.from_arrays(arrays, schema=layout))
    return out


def _measure(out: Path, args: argparse.Namespace) -> int:
    table = str(out / "requests.parquet")
    size = os.stat(table).st_size >> 20
    print(f"{args.rows} requests of {args.loads} loads, {size} MiB of Parquet")
    runs = {
        "pandas": (_PANDAS, table),
        "duckdb": (_DUCKDB, table),
        "dmatrace report": (_REPORT, str(out)),
    }
    figures: dict[str, tuple[float, int]] = {}
    answers: dict[str, list[list[int]]] = {}
    for name, (program, argument) in runs.items():
        seconds, peak, text = _run(program, argument)
        figures[name] = seconds, peak
        found = json.loads(text)
        answers[name] = _blocks(found) if isinstance(found, dict) else found
    print(f"  {'':<18}{'wall':>8}{'x':>7}{'peak':>10}{'x':>7}")
    base = figures["dmatrace report"]
    for name, (seconds, peak) in figures.items():
        print(
            f"  {name:<18}{seconds:>6.1f} s{seconds / base[0]:>7.2f}{peak >> 20:>6} MiB"
            f"{peak / base[1]:>7.2f}"
        )
    same = answers["pandas"] == answers["duckdb"] == answers["dmatrace report"]
    within = base[1] < LIMIT
    print(f"  the same answers: {'yes' if same else 'NO'}")
    print(f"  under 1 GiB: {'yes' if within else 'NO'}")
    return 0 if same and within else 1


def _run(program: str, argument: str) -> tuple[float, int, str]:
    """(wall seconds, peak bytes, stdout) of a Python program."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", program, argument], stdout=subprocess.PIPE)
    assert process.stdout is not None
    text = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        raise SystemExit(f"it failed: {program.strip().splitlines()[1]}")
    return time.monotonic() - began, usage.ru_maxrss * 1024, text


def _blocks(document: dict) -> list[list[int]]:  # type: ignore[type-arg]
    return [
        [load["load_id"], load["block"]["requests"], load["block"]["read_bytes"],
         *load["block"]["latency_ns"].values()]
        for load in document["loads"]
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
