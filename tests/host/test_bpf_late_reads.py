"""Reads that were under way when their thread was first followed."""

from __future__ import annotations

import os
from typing import Any

import pytest
from bpf_process import CALLS, EXT4, MIB, TGID, TID, TMPFS, Process

from dmatrace.bpf import layout
from dmatrace.bpf.constants import hook_number
from dmatrace.bpf.hooks import HOOKS
from dmatrace.phases import PHASE_ID
from dmatrace.session import follow

_PHASED = [hook for hook in HOOKS if hook.phase in PHASE_ID]
pytestmark = pytest.mark.skipif(
    __import__("platform").machine() != "x86_64", reason="kernel lacks: x86's call numbers"
)


def _late(process: Process, *frames: str) -> Any:
    """The thread, as if it were first followed now, in read(2) and behind these functions."""
    thread = layout.Thread(type=layout.EV_SNAPSHOT, tid=TID, tgid=TGID, last=process.clock)
    thread.call = CALLS["read"]
    known = {hook.name: (hook_number(hook.name), PHASE_ID[str(hook.phase)]) for hook in _PHASED}
    follow.open_frames(thread, True, frames, known)
    process.machine.follow(thread)
    return process.machine.thread(TID)


@pytest.mark.parametrize("frames", [(), ("filemap_read",)])
def test_a_read_that_was_under_way(frames: tuple[str, ...]) -> None:
    """All of it counts once, whether or not a hook saw its end; the next read is as any other."""
    process = Process()
    model = process.file(50, "file", size=8 * MIB)
    fd = process.open(model)
    thread = _late(process, *frames)
    process.at(5000)
    if frames:
        process.unhook("filemap_read", 4 * MIB)
    process.end(process.registers(fd, 0x10000, 4 * MIB), 4 * MIB)
    process.read(model, 0x10000, 1000, call="read")
    assert thread.counters[layout.COUNTERS.index("copy_read_bytes")] == 4 * MIB + 1000
    late, next_one = sorted(process.ways(), key=lambda row: not row["late"])
    assert (late["late"], late["bytes"], late["calls"], late["call"]) == (1, 4 * MIB, 1, "read")
    assert (late["way"], late["target"], late["ino"]) == ("buffered", "anonymous", 50)
    assert (late["first_ns"], late["last_ns"], late["largest"]) == (1000, 5000, 4 * MIB)
    assert (late["begun"], late["depth"], late["deepest"]) == (1, 1, 1)
    assert (next_one["late"], next_one["bytes"]) == (0, 1000)
    io = process.machine.file_io(50, 1)
    assert io is not None
    assert (io.buffered, io.direct) == (4 * MIB + 1000, 0)


def test_a_direct_read_that_was_under_way() -> None:
    process = Process()
    model = process.file(50, "file", size=8 * MIB, f_flags=os.O_DIRECT)
    fd = process.open(model)
    process.mmap(process.open(process.file(61, "file", magic=TMPFS)), 0x100000, MIB)
    thread = _late(process)
    process.end(process.registers(fd, 0x100000, MIB), MIB)
    (late,) = process.ways()
    assert (late["way"], late["o_direct"], late["late"]) == ("direct", True, 1)
    assert (late["target"], late["to_ino"], late["bytes"]) == ("shmem", 61, MIB)
    assert thread.counters[layout.COUNTERS.index("dio_bytes")] == MIB
    io = process.machine.file_io(50, 1)
    assert io is not None
    assert (io.buffered, io.direct) == (0, MIB)


@pytest.mark.parametrize(
    ("kind", "magic", "returned", "counter"),
    [
        ("file", TMPFS, 4096, "copy_shmem_read_bytes"),
        ("file", EXT4, 4096, "copy_read_bytes"),  # too small a file for a way of its own
        ("file", EXT4, -5, ""),
        ("fifo", EXT4, 4096, ""),
        ("device", TMPFS, 4096, ""),
    ],
)
def test_what_else_was_under_way(kind: str, magic: int, returned: int, counter: str) -> None:
    process = Process()
    fd = process.open(process.file(50, kind, magic=magic, size=4096))
    thread = _late(process)
    process.end(process.registers(fd, 0x10000, 4096), returned)
    assert process.ways() == []
    counted = {
        name: thread.counters[layout.COUNTERS.index(name)]
        for name in ("copy_read_bytes", "copy_shmem_read_bytes", "dio_bytes")
    }
    assert {name for name, value in counted.items() if value} == ({counter} if counter else set())
