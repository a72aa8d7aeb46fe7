"""A command that forks in mid-load, starts threads and becomes another program."""

from __future__ import annotations

import json
from typing import Any

from tests.accuracy import clocks
from tests.accuracy.row import Lacks, Row, Said, lost
from tests.guest import reading
from tests.guest.lab import Lab, report

MIB = 1 << 20
_WHERE = "/data/commands"
_COUNT = "the process's own count"


def rows(lab: Lab) -> Said:
    """As tests/guest/reading.py reads."""
    out = lab.shared / "command.dmt"
    lab.must(
        f"mkdir {_WHERE} && cd {_WHERE} && head -c 11M /dev/urandom >cached"
        # The first read of a file writes its atime (relatime), and for that reads its inode.
        " && head -c 13M /dev/urandom >direct && cat * >/dev/null && sync"
    )
    try:
        done = lab.shell(
            f"dmatrace record -o {out} -- python3 {reading.__file__} {_WHERE}/cached"
            f" {_WHERE}/direct </dev/null"
        )
    finally:
        lab.must(f"rm -rf {_WHERE}")
    if done.code != reading.CODE:
        raise ValueError(f"the command ended with {done.code}: {done.err}")
    said, document = json.loads(done.out), report(out)
    by_pid = {load["pid"]: load for load in document["loads"]}

    def load(who: str) -> dict[str, Any]:
        found: dict[str, Any] = by_pid[said[who]]
        return found

    def row(figure: str, what: str, ours: float, theirs: float, **more: Any) -> Row:
        oracle = more.pop("oracle", _COUNT)
        return Row(figure, what, oracle, more.pop("unit", "bytes"), ours, theirs, **more)

    yield row("loads", "the command and its three children", len(by_pid), 4, unit="processes")
    what = "a child that reads 11 MiB of a file"
    child = load("buffered")
    yield row("bytes", what, child["bytes"], 11 * MIB)
    yield row("copies.cpu_bytes", what, child["copies"]["cpu_bytes"], 11 * MIB)
    yield row("direct.buffered_bytes", what, child["direct"]["buffered_bytes"], 11 * MIB)
    yield row("memory.page_cache_added", what, child["memory"]["page_cache_added"], 11 * MIB)
    yield row("block.read_bytes", what, child["block"]["read_bytes"], 11 * MIB)
    what = "a child that reads 11 MiB by O_DIRECT"
    child = load("direct")
    yield row("bytes", what, child["bytes"], 11 * MIB)
    yield row("direct.direct_bytes", what, child["direct"]["direct_bytes"], 11 * MIB)
    yield row("memory.page_cache_added", what, child["memory"]["page_cache_added"], 0)
    yield row("block.read_bytes", what, child["block"]["read_bytes"], 11 * MIB)
    what = "a thread that becomes dd: 3 MiB by O_DIRECT"
    yield row("direct.direct_bytes", what, load("dd")["direct"]["direct_bytes"], 3 * MIB)
    what = "a process and 3 threads: 13 MiB and 5 MiB each by O_DIRECT"
    yield row("direct.direct_bytes", what, load("pid")["direct"]["direct_bytes"], 28 * MIB)
    yield row("threads", what, len(load("pid")["threads"]), 4, unit="threads")
    yield from lost("all of it", document)
    for who in ("pid", "buffered", "direct", "dd"):
        what = {"pid": "the process and its threads", "dd": "dd"}.get(who, f"the {who} child")
        yield from clocks.schedstat(what, load(who)["threads"])
        yield from _delays(what, load(who)["threads"])


def _delays(what: str, threads: clocks.Threads) -> Said:
    """Waiting for a CPU, as taskstats has it; delays that began late are of more time than ours."""
    figure, full = "threads.delays.cpu.ns", []
    for thread in threads:
        delays = thread["delays"]
        if delays and delays["full"] and "cpu" in delays and thread["sched_wait_ns"] is not None:
            full.append(thread)
    if len(full) < len(threads):
        yield Lacks(what, "a thread ended before the kernel was asked for its delays", figure)
        return
    ours = sum(thread["delays"]["cpu"]["ns"] for thread in full)
    theirs = sum(thread["sched_wait_ns"] for thread in full)
    yield Row(figure, what, "schedstat, wait time", "ns", ours, theirs,
              floor=clocks.allowed(full), rule=clocks.OF_WALL)  # fmt: skip
