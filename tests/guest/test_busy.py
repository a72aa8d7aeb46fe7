"""Targets that do very much: 64 threads that read in small pieces, and 500 attachments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dmatrace.analysis import law
from dmatrace.lab.guest import Guest
from tests.guest.lab import ATTACHED, Lab, report

SOURCE = Path(__file__).with_name("busy.c")
THREADS, READS, SIZE = 64, 10_000, 4096
CYCLES = int(os.environ.get("DMATRACE_CYCLES", "500"))
MIB = 1 << 20


@pytest.fixture(scope="module")
def busy(lab: Lab) -> str:
    """The program and its file, as arguments."""
    program = lab.program(SOURCE)
    lab.must("head -c 16M /dev/urandom >/data/busy && cat /data/busy >/dev/null")
    return f"{program} /data/busy"


@pytest.mark.long
def test_640000_reads_of_64_threads(lab: Lab, busy: str) -> None:
    """Every one is counted, and what is lost would be."""
    out = lab.fresh("busy")
    done = lab.shell(f"dmatrace record -o {out} -- {busy} {THREADS} {READS} {SIZE}")
    assert done.code == 0, done.err
    reads, size, ns = map(int, done.out.split())
    document = report(out)
    (load,) = document["loads"]
    lost = document["lost_events"]
    text = subprocess.run(
        [sys.executable, "-m", "dmatrace", "report", str(out)],
        capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    print(f"{reads / ns * 1e9:.0f} reads a second under the tracer, lost events: {lost}")
    assert f"Lost events: {lost}" in text
    assert reads == THREADS * READS
    if not lost:
        (own,) = (file for file in load["files"] if file["path"] == "/data/busy")
        assert own["copied_bytes"] == size
        assert len(load["threads"]) == THREADS + 1
    # exec(2) reads the program's head.
    assert 0 <= load["bytes"] - size < 64 << 10
    assert 0 <= load["copies"]["cpu_bytes"] - size < 64 << 10
    assert law.closure(document) == []


_CYCLES = """
import gc, json, os, subprocess, sys, time
from pathlib import Path
from dmatrace.session.tracer import Tracer

pid, cycles = int(sys.argv[1]), int(sys.argv[2])
attached = sys.argv[3]

def count():
    return int(Path("/tmp/cycles.count").read_text() or 0)

def rate():
    # Over what a loop of ours does meanwhile: of a busy host both have as much.
    before, until, turns = count(), time.monotonic() + 10, 0
    while time.monotonic() < until:
        turns += 1
    return 1e6 * (count() - before) / turns

def looks():
    # What of the kernel's hangs on anything, by name: a link's number changes each time.
    said = subprocess.run(["bash", "-c", attached], capture_output=True, text=True).stdout
    return sorted(line.split(" name ")[1].split()[0] for line in said.splitlines()
                  if " name " in line), said.count("\\n")

def maps():
    said = subprocess.run(["bpftool", "-j", "map", "list"], capture_output=True, text=True).stdout
    return len(json.loads(said or "[]"))

def mine():
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(os.listdir("/proc/self/fd")), pages * 4096

before = rate(), looks(), maps()
held, hooks, seen = [], set(), []
for number in range(cycles):
    tracer = Tracer()
    try:
        tracer.follow(pid)
        time.sleep(0.2)
        tracer.poll_threads()
        rows = tracer.take()
        seen.append(sum(r["value"] for r in rows["counters"] if r["counter"] == "copy_read_bytes"))
        hooks.add(json.dumps(tracer.hooks))
        lost = tracer.lost
    finally:
        tracer.close()
    held.append(mine())
    print(number, held[-1], seen[-1], lost, file=sys.stderr, flush=True)
after = rate(), looks(), maps()
json.dump({"before": before, "after": after, "held": held, "hooks": len(hooks), "seen": seen},
          sys.stdout)
"""

_TARGET = """
import os, struct, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
out = os.open("/tmp/cycles.count", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
done = 0
while True:
    for at in range(0, 16 << 20, 65536):
        os.pread(fd, 65536, at)
    done += 1
    os.pwrite(out, str(done).encode(), 0)
"""


@pytest.fixture
def steady(lab: Lab) -> Iterator[Lab]:
    """A guest of one CPU: with two, QEMU loses track of code that is patched (docs/lab.md)."""
    with Guest(lab.guest.kernel, frozen=True, cpus=1) as guest:
        own = Lab(guest, lab.shared)
        own.must("head -c 16M /dev/urandom >/data/busy && cat /data/busy >/dev/null")
        yield own


@pytest.mark.long
@pytest.mark.timeout(6 * 3600)
def test_attached_again_and_again(steady: Lab) -> None:
    """One recorder, a busy process: nothing stays, nothing is missing, nothing grows."""
    lab = steady
    (lab.shared / "target.py").write_text(_TARGET)
    (lab.shared / "cycles.py").write_text(_CYCLES)
    # Nice: else it has half of the only CPU while programs are checked.
    done = lab.shell(
        f"nice -n 19 python3 {lab.shared}/target.py /data/busy & pid=$!; sleep 2;"
        f" PYTHONPATH=$PWD:$PWD/loaders python3 -P {lab.shared}/cycles.py $pid {CYCLES}"
        f" '{ATTACHED}'; code=$?; kill $pid; exit $code"
    )
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    (rate, looks, maps), (rate_after, looks_after, maps_after) = found["before"], found["after"]
    print(f"{CYCLES} cycles: rate after over before {rate_after / rate:.3f},"
          f" fds and bytes {found['held'][0]} -> {found['held'][-1]}")  # fmt: skip
    assert (looks_after, maps_after) == (looks, maps)
    assert found["hooks"] == 1  # the same ones, attached in the same way, each time
    assert all(found["seen"])
    fds = [fds for fds, _ in found["held"]]
    assert fds[-1] == fds[0]
    resident = [pages for _, pages in found["held"]]
    early = max(resident[: max(1, CYCLES // 10)])
    assert resident[-1] <= early + 4 * MIB, resident[:: max(1, CYCLES // 20)]
