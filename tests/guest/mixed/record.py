"""Runs in the guest: records mixed workloads under the tracer.

    python3 record.py PROGRAM FILE SEED FIRST COUNT MOST OUT

Each workload becomes a load of the recording, called "mixed"; the threads' own
clocks are in its ``threads`` table as a loader's are.  On stdout: a JSON object of what the
threads say they read and wrote, by workload.
"""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from dmatrace.session.progress import Progress
from dmatrace.session.traced import traced
from dmatrace.session.tracer import Row

FIELDS = ("load_id", "tid", "start_ns", "end_ns", "mark_ns", "sched_run_ns", "sched_wait_ns")
BYTES = ("read", "direct", "written")


def main() -> None:
    """Record until the program ends."""
    program, path, *numbers, out = sys.argv[1:]
    meta = {"target": {"kind": "strategy", "strategies": ["mixed"], "file": path}}
    said: dict[int, dict[str, int]] = defaultdict(lambda: dict.fromkeys(BYTES, 0))
    rows: dict[int, list[Row]] = defaultdict(list)
    with traced(Path(out), meta, Progress(quiet=False)) as session:
        with subprocess.Popen(
            [program, path, *numbers], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdin
            assert child.stdout
            session.tracer.follow(child.pid)
            child.stdin.write("\n")
            child.stdin.flush()
            with selectors.DefaultSelector() as waiting:
                waiting.register(child.stdout, selectors.EVENT_READ)
                text = ""
                while True:
                    session.tracer.drain()
                    for table, found in session.tracer.take().items():
                        session.writer.append(table, found)
                    if not waiting.select(0.05):
                        continue
                    more = child.stdout.buffer.raw.read(1 << 16).decode()  # type: ignore[attr-defined]
                    if not more:
                        break
                    text += more
        assert child.returncode == 0, child.returncode
        for line in text.splitlines():
            numbers_said = [int(word) for word in line.split()]
            row: Row = dict(zip(FIELDS, numbers_said, strict=False))
            rows[row["load_id"]].append({**row, "window": 0, "comm": "mixed"})
            for name, value in zip(BYTES, numbers_said[len(FIELDS) :], strict=True):
                said[row["load_id"]][name] += value
        session.tracer.drain()
        for table, found in session.tracer.take().items():
            session.writer.append(table, found)
        for load_id, threads in rows.items():
            session.writer.append("threads", threads)
            session.writer.append("loads", [_load(load_id, threads)])
        session.finish([], interrupted=False)
    json.dump(said, sys.stdout)


def _load(load_id: int, threads: list[Row]) -> Row:
    start = min(thread["start_ns"] for thread in threads)
    end = max(thread["end_ns"] for thread in threads)
    return {
        "load_id": load_id,
        "strategy": "mixed",
        "round": load_id,
        "start_ns": start,
        "end_ns": end,
        "wall_ns": end - start,
    }


if __name__ == "__main__":
    main()
