"""Reads whose bytes, devices and alignment are known."""

from __future__ import annotations

from typing import Any

from tests.accuracy.row import Lacks, Row, Said
from tests.guest.known_reads import SMALL
from tests.guest.lab import Lab
from tests.guest.ledger_work import PAGE
from tests.guest.test_known_reads import read_known

MIB = 1 << 20
#: What a step of known_reads.py does.
STEPS = {
    "buffered": "8 MiB by 1 MiB, buffered",
    "direct": "8 MiB by 1 MiB, O_DIRECT",
    "refused": "unaligned and unmapped O_DIRECT reads",
    "written": "1 MiB read and written by O_DIRECT",
    "dm": "O_DIRECT on ext4 on dm-linear on loop",
    "dm buffered": "the same, buffered",
    "small": f"{SMALL} files of 4 KiB, with their metadata",
    "slow": "O_DIRECT through dm-delay",
    "journal": "O_DIRECT on ext4 with data=journal",
    "tmpfs": "O_DIRECT on tmpfs",
    "disk": "48 MiB of a block device",
}
_SECTORS, _READS = "/sys/block/*/stat, sectors", "/sys/block/*/stat, reads"


def rows(lab: Lab) -> Said:
    """As tests/guest/known_reads.py does them."""
    loads, said = read_known(lab)

    def file(step: str) -> dict[str, Any]:
        found: dict[str, Any] = loads[step]["files"][0]
        return found

    def row(figure: str, step: str, ours: float, theirs: float, **more: Any) -> Row:
        oracle = more.pop("oracle", "the reader's own count")
        return Row(figure, f"{step}: {STEPS[step]}", oracle, more.pop("unit", "bytes"), ours,
                   theirs, **more)  # fmt: skip

    yield row("files.copied_bytes", "buffered", file("buffered")["copied_bytes"], 8 * MIB)
    yield row("files.buffered_bytes", "buffered", file("buffered")["buffered_bytes"], 8 * MIB)
    yield row("files.disk.read_bytes", "buffered", file("buffered")["disk"]["read_bytes"], 8 * MIB)
    yield row("files.direct_bytes", "direct", file("direct")["direct_bytes"], 8 * MIB)
    yield row("files.direct_calls", "direct", file("direct")["direct_calls"], 9, unit="calls")
    yield row("files.disk.kinds direct", "direct", file("direct")["disk"]["kinds"]["direct"],
              8 * MIB)  # fmt: skip
    for errno, times in said["refused"]["told"].items():
        ours = file("refused")["errors"][errno]
        yield row(f"files.errors {errno}", "refused", ours, times, unit="calls")
    yield row("files.direct_bytes", "written", file("written")["direct_bytes"], MIB)
    for step in ("dm", "dm buffered"):
        device = loads[step]["block"]["devices"][0]
        theirs = 512 * said[step]["loop"][1]
        yield row("block.devices.read_bytes", step, device["read_bytes"], theirs, oracle=_SECTORS)
        yield row("block.devices.requests", step, device["requests"], said[step]["loop"][0],
                  oracle=_READS, unit="requests")  # fmt: skip
        yield row("block.queued_bytes", step, loads[step]["block"]["queued_bytes"], theirs,
                  oracle=_SECTORS)  # fmt: skip
    kinds = loads["small"]["block"]["kinds"].values()
    yield row("block.kinds, summed", "small", sum(kind["read_bytes"] for kind in kinds),
              512 * said["small"]["dm"][1], oracle=_SECTORS, floor=64 << 10,
              rule="64 KiB: whoever hears of a new mount may look at the disk too")  # fmt: skip
    yield row("block.read_bytes", "small", loads["small"]["block"]["read_bytes"], SMALL * PAGE)
    yield row("block.unseen_bytes", "slow", loads["slow"]["block"]["unseen_bytes"],
              512 * said["slow"]["slow"][1], oracle="/sys/block/*/stat of dm-delay")  # fmt: skip
    yield row("files.fallback_bytes", "journal", file("journal")["fallback_bytes"], 4 * MIB)
    if said["tmpfs"]["told"] is None:
        yield Lacks("tmpfs", "its tmpfs refuses O_DIRECT")
    else:
        yield row("files.fallback_bytes", "tmpfs", file("tmpfs")["fallback_bytes"], 2 * MIB)
    yield row("block.read_bytes", "disk", loads["disk"]["block"]["read_bytes"],
              512 * said["disk"]["dm"][1], oracle=_SECTORS)  # fmt: skip
