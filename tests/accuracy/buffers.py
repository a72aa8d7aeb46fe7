"""Which dma-bufs there are, and who holds them."""

from __future__ import annotations

import json
from typing import Any

from tests.accuracy.row import Lacks, Row, Said
from tests.guest import test_buffers
from tests.guest.lab import Lab

MIB = 1 << 20
#: Label of a buffer: {process: (its descriptors, bytes it mapped)}; and its size.
_HELD = {
    "heap": (3 * MIB, {"maker": (1, 3 * MIB), "heir": (2, 0)}),
    "pinned": (5 * MIB, {"maker": (1, 0), "receiver": (1, 0), "mapper": (0, 2 * MIB)}),
    "orphan": (MIB, {}),
}
_EXACT = "what the processes did"


def rows(lab: Lab) -> Said:
    """As tests/guest/holders.py makes them."""
    missing = [path for path in ("/dev/udmabuf", "/dev/dma_heap/system")
               if lab.shell(f"test -e {path}").code]  # fmt: skip
    if missing:
        yield Lacks("", f"no {' and no '.join(missing)}")
        return
    script = test_buffers.__file__.replace("test_buffers", "holders")
    found: dict[str, Any] = json.loads(lab.must(f"python3 {script}"))
    labels = {ino: label for label, ino in found["inodes"].items()}
    names = {pid: name for name, pid in found["pids"].items()}
    buffers = {labels.get(each["ino"], ""): each for each in found["as_it_is"]["buffers"]}
    listed = _bufinfo(found["bufinfo"])
    for label, (size, holders) in _HELD.items():
        what, each = f"{label}: {size // MIB} MiB", buffers[label]
        yield Row("buffers.size", what, _EXACT, "bytes", each["size"], size)
        yield Row("buffers.size", what, "debugfs, bufinfo", "bytes", each["size"],
                  listed.get(found["inodes"][label], 0))  # fmt: skip
        yield Row("buffers.holders", what, _EXACT, "processes", len(each["holders"]), len(holders))
        for holder in each["holders"]:
            who = names.get(holder["pid"], holder["comm"])
            fds, mapped = holders.get(who, (0, 0))
            of = f"{what}, of {who}"
            yield Row("buffers.holders.fds", of, _EXACT, "descriptors", len(holder["fds"]), fds)
            yield Row("buffers.holders.mapped", of, _EXACT, "bytes", holder["mapped"], mapped)
    ours = sum(each["size"] for each in found["as_it_is"]["buffers"])
    yield Row("buffers.size, summed", "all there are", "debugfs, bufinfo", "bytes", ours,
              sum(listed.values()))  # fmt: skip


def _bufinfo(text: str) -> dict[int, int]:
    """{inode: size} of drivers/dma-buf's list: size, flags, mode, count, exporter, inode, name."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 6 and words[0].isdigit() and words[5].isdigit():
            found[int(words[5])] = int(words[0])
    return found
