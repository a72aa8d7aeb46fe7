"""Map entries that another CPU makes between a look-up that found none and what follows it."""

from __future__ import annotations

import pytest
from bpf_process import MIB, TGID, TMPFS, Process

pytestmark = pytest.mark.skipif(
    __import__("platform").machine() != "x86_64", reason="kernel lacks: x86's call numbers"
)


@pytest.mark.parametrize("name", ["file_ios", "ways"])
def test_two_first_reads_of_a_file(name: str) -> None:
    process = Process()
    model = process.file(50, "file", size=8 * MIB)
    process.read(model, 0x10000, 1000, call="read")
    process.machine.blind(name)
    process.read(model, 0x10000, 10, call="read")
    io = process.machine.file_io(50, 1)
    assert io is not None
    assert io.buffered == 1010
    assert [(way["bytes"], way["calls"]) for way in process.ways()] == [(1010, 2)]


def test_two_first_mappings_of_a_process() -> None:
    process = Process()
    process.mmap(process.open(process.file(61, "file", magic=TMPFS)), 0x100000, MIB)
    process.machine.blind("regions", 2)  # mmap(2) looks for what it replaces first
    process.mmap(process.open(process.file(62, "file", magic=TMPFS)), 0x300000, MIB)
    regions = process.machine.regions(TGID)
    assert regions is not None
    assert [region.start for region in regions.at if region.end] == [0x100000, 0x300000]
