"""Recordings of every strategy that several tests look at, and what others saw meanwhile."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmatrace.recording import Recording
from tests.guest.lab import SIZE_LIMIT, Lab
from tests.guest.native.build import built, loaded

MIB = 1 << 20
SIZE = 24 * MIB
LIMIT_MB = 16  # udmabuf's limit meanwhile, which --raise-limits has to raise
GATHER = 4 * MIB  # six batches: the first is read while the second is allocated


@dataclass(frozen=True)
class Watched:
    """A recording of every strategy, and what others saw of it."""

    document: dict[str, Any]
    recording: Recording
    oracle: dict[str, dict[str, int]]
    disk_bytes: int
    ino: int
    #: udmabuf's size_limit_mb after it, which was LIMIT_MB before; "": there is none.
    limit: str

    def counters(self) -> dict[int, dict[str, int]]:
        """{load: {counter: what its threads counted between their marks}}."""
        found: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        signs = {"begin": -1, "work-begin": -1, "end": 1, "work-end": 1}
        for row in self.recording.table("counters").to_dict("records"):
            sign = signs.get(row["kind"], 0)
            found[row["load_id"]][row["counter"]] += sign * row["value"]
        return found

    def load(self, strategy: str) -> dict[str, Any]:
        """The load of a strategy."""
        (found,) = (load for load in self.document["loads"] if load["strategy"] == strategy)
        return found


#: What bpftrace runs beside.
ORACLE = Path(__file__).with_name("oracle.bt")


def watch(
    lab: Lab,
    model: str,
    mode: str,
    strategies: str = "all",
    rounds: int = 1,
    script: Path = ORACLE,
) -> Watched:
    """Strategies, with the loader module, and bpftrace and /proc/diskstats beside us."""
    usual = lab.must(f"cat {SIZE_LIMIT}; echo {LIMIT_MB} >{SIZE_LIMIT}").strip()
    try:
        with loaded(lab, built(lab)):
            chosen = ("--strategy", strategies, "--rounds", str(rounds), "--hooks", mode)
            name = mode if rounds == 1 else f"{mode}-{rounds}"
            return beside(lab, model, name, script, *chosen, "--raise-limits")
    finally:
        lab.must(f"echo {usual} >{SIZE_LIMIT}")


def beside(lab: Lab, model: str, name: str, script: Path, *chosen: str) -> Watched:
    """A recording called ``name`` with options ``chosen``, and the others' view of it."""
    ino = int(lab.must(f"stat -c %i {model}"))
    lab.must(
        f"setsid bpftrace -f json {script} >/tmp/oracle.json 2>/tmp/oracle.err </dev/null &"
        " for n in $(seq 900); do sleep 0.5; kill -0 $! || break;"
        " grep -q iomap_dio_complete /sys/kernel/debug/kprobes/list && exit 0; done;"
        " cat /tmp/oracle.err; exit 1"
    )
    before = _sectors(lab)
    options = (*chosen, "--file", model, "--gather", str(GATHER), "--depth", "4")
    document = lab.record(name, *options)
    after = _sectors(lab)
    lab.must("pkill -INT bpftrace; while pgrep bpftrace >/dev/null; do sleep 0.2; done")
    oracle: dict[str, dict[str, int]] = {}
    for line in lab.must("grep . /tmp/oracle.json").splitlines():
        said = json.loads(line)
        if said["type"] == "map":
            oracle.update(said["data"])
    recording = Recording.open(lab.shared / f"{name}.dmt")
    limit = lab.shell(f"cat {SIZE_LIMIT}").out.strip()
    return Watched(document, recording, oracle, (after - before) * 512, ino, limit)


def _sectors(lab: Lab) -> int:
    """Sectors read from the data disk so far; Documentation/admin-guide/iostats.rst, field 3."""
    device = lab.must("findmnt -no SOURCE /data").strip().removeprefix("/dev/")
    return int(lab.must(f"awk '$3 == \"{device}\" {{ print $6 }}' /proc/diskstats"))
