"""Runs fuzz.c in the guest, and asks the kernel afterwards whether it is well."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from dmatrace.lab import places
from tests.guest.lab import Lab
from tests.guest.native.build import complaints, log_length

#: Bytes that may be gone: page tables, the guest's own daemons.
_SLACK = 16 << 20
#: What was freed comes back late (RCU, delayed works, lazily unmapped areas); a leak never does.
_SETTLES = 5
#: fuzz ends by itself when nothing goes on; this is for a guest that is no more.
_SECONDS = 3600

_SETTLE = """
sync
echo 3 > /proc/sys/vm/drop_caches
for shrink in /sys/kernel/slab/*/shrink; do echo 1 > $shrink; done
echo 1 > /proc/sys/vm/compact_memory
cat /proc/meminfo /proc/slabinfo
echo zones
cat /proc/zoneinfo
"""


@dataclass(frozen=True)
class Memory:
    """Bytes available, with those that CPUs keep to themselves; live objects by slab cache."""

    available: int
    kept: int
    objects: dict[str, int]


def _memory(lab: Lab) -> Memory:
    available = 0
    objects = {}
    before, _, zones = lab.must(_SETTLE).partition("zones\n")
    # A CPU's lists of free pages are not in MemAvailable, and since 6.7 they are as long as the
    # load has been of late (mm/page_alloc.c, nr_pcp_high), which tens of MiB are nothing to.
    kept = [int(words[1]) for words in map(str.split, zones.splitlines()) if words[0] == "count:"]
    for line in before.splitlines():
        words = line.split()
        if words[0] == "MemAvailable:":
            available = int(words[1]) << 10
        elif len(words) > 6 and words[1].isdigit():
            objects[words[0]] = int(words[1])
    assert available
    assert objects
    assert kept
    return Memory(available + sum(kept) * 4096, sum(kept) * 4096, objects)


def _grown(before: Memory, after: Memory, calls: int) -> dict[str, int]:
    """Objects more, by cache: a leak in a call that works every other time is hundreds of them."""
    more = {name: count - before.objects.get(name, 0) for name, count in after.objects.items()}
    return {name: count for name, count in more.items() if count > max(calls // 50, 300)}


def _fuzz(lab: Lab, program: str, seed: int, calls: int) -> str:
    command = [program, str(seed), str(calls), "/data/native"]
    done = lab.guest.run(command, timeout=_SECONDS)
    said = done.stdout.decode() + done.stderr.decode(errors="replace")
    assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{said}"
    return said


def _compiled(program: Path) -> str:
    """By the host's compiler, which is not emulated; with its own libc, whatever the guest has."""
    root = places.checkout()
    sources = sorted((root / "tests/guest/native").glob("fuzz*.c"))
    command = ["cc", "-O2", "-Wall", "-Werror", "-I", str(root / "native/uapi"), "-o", str(program)]
    subprocess.run([*command, *map(str, sources), "-static", "-lpthread"], check=True)
    return str(program)


def run(lab: Lab, seed: int, calls: int) -> str:
    """At least ``calls`` ioctls; what fuzz printed.  The module must be loaded, with no user."""
    program = _compiled(lab.shared / "fuzz")
    lab.must("mkdir -p /data/native")
    # What the first calls of a boot leave in caches is no leak.
    _fuzz(lab, program, seed + 1000, 500)
    since = log_length(lab)
    before = _memory(lab)
    said = _fuzz(lab, program, seed, calls)
    after = _memory(lab)
    for _ in range(_SETTLES):
        if before.available - after.available < _SLACK and not _grown(before, after, calls):
            break
        lab.must("sleep 3")
        after = _memory(lab)
    assert complaints(lab, since) == []
    assert lab.must("cat /sys/module/dmatrace_loader/refcnt") == "0\n"
    grown = _grown(before, after, calls)
    assert not grown, f"{said}more objects than before: {grown}"
    lost = before.available - after.available
    assert lost < _SLACK, f"{said}{lost} bytes fewer are available"
    moved = after.kept - before.kept
    return f"{said}available: {-lost:+d} bytes; lists of free pages of CPUs: {moved:+d}\n"
