"""Every operation, and every byte that it writes or must leave alone."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from dmatrace_loaders import kernel, native
from tests.guest.native.harness import (
    DATA,
    MIB,
    OLD,
    PAGE,
    TARGETS,
    content,
    device,
    fill,
    need_feature,
    opened,
    pattern,
    refusal,
    same,
    shell,
    write_file,
)

CASES: dict[str, Callable[[], None]] = {}

ODD = 2 * MIB + 4321
#: Size of the file, where to read from, how much, where to, and bytes of a chunk (0: default).
RANGES = {
    "whole": (4 * MIB, 0, 4 * MIB, 0, 0),
    "one_byte": (1, 0, 1, 0, 0),
    "page_minus_1": (PAGE - 1, 0, PAGE - 1, PAGE, 0),
    "odd_tail": (ODD, 0, ODD, 0, 0),
    "odd_tail_chunks": (ODD, 0, ODD, 8 * PAGE, 16 * PAGE),
    "middle": (4 * MIB, MIB + PAGE, 2 * MIB, 3 * PAGE, 5 * PAGE),
    "end_of_odd": (ODD, MIB, ODD - MIB, PAGE, 0),
    "past_end": (ODD, MIB, 4 * MIB, PAGE, 0),
    "at_end": (2 * MIB, 2 * MIB, MIB, 0, 0),
}
#: Only buffered reads take these.
UNALIGNED = {
    "unaligned": (4 * MIB, 4321, MIB + 17, 777, 0),
    "unaligned_chunks": (ODD, 1, ODD - 1, PAGE - 1, PAGE),
}


def _rw(folder: Path, target: str, direct: bool, sizes: tuple[int, ...]) -> None:
    size, file_offset, length, buffer_offset, chunk = sizes
    data = pattern(size)
    path = write_file(folder / "rw", data)
    room = kernel.page_round(buffer_offset + length) + PAGE
    with device() as found, TARGETS[target](found, room) as buffer, opened(path) as file:
        fill(buffer, room)
        cached = kernel.cachestat(file)
        done = found.rw_file(
            file,
            buffer,
            length,
            file_offset=file_offset,
            buffer_offset=buffer_offset,
            direct=direct,
            chunk=chunk,
        )
        got = content(buffer, room)
        after = kernel.cachestat(file)
        wanted = data[file_offset : file_offset + length]
        assert done.bytes == len(wanted)
        assert done.total_ns >= done.map_ns + done.read_ns
        expected = bytes([OLD]) * buffer_offset + wanted
        expected += bytes([OLD]) * (room - len(expected))
        same(got, expected, "buffer")
        if cached is not None and after is not None:
            if direct:
                assert after["nr_cache"] == cached["nr_cache"] == 0, after
            else:
                assert after["nr_cache"] * PAGE >= len(wanted)


for _target, _direct in itertools.product(TARGETS, (False, True)):
    _ranges = RANGES if _direct else RANGES | UNALIGNED
    for _name, _sizes in _ranges.items():
        _title = f"rw-{_target}-{'direct' if _direct else 'buffered'}-{_name}"
        CASES[_title] = partial(_rw, DATA, _target, _direct, _sizes)


def _xfs() -> Path:
    """An XFS on a loop device, mounted once."""
    where = Path("/mnt/native-xfs")
    if not where.is_mount():
        shell(
            f"mkdir -p {where} {DATA}; modprobe loop; modprobe xfs; cd {DATA};"
            " truncate -s 400M xfs.img; mkfs.xfs -q -f xfs.img;"
            f" mount -o loop xfs.img {where}"
        )
    return where


def _on_xfs(target: str, direct: bool, sizes: tuple[int, ...]) -> None:
    _rw(_xfs(), target, direct, sizes)


for _target, _direct in itertools.product(("system", "memfd"), (False, True)):
    for _name in ("odd_tail", "middle", "past_end"):
        _title = f"rw-xfs-{_target}-{'direct' if _direct else 'buffered'}-{_name}"
        CASES[_title] = partial(_on_xfs, _target, _direct, RANGES[_name])


def _rw_o_direct_fd() -> None:
    """An O_DIRECT fd asks for direct reads by itself."""
    data = pattern(ODD)
    path = write_file(DATA / "rw", data)
    with device() as found, TARGETS["own"](found, ODD) as buffer:
        with opened(path, os.O_RDONLY | os.O_DIRECT) as file:
            assert found.rw_file(file, buffer, ODD).bytes == ODD
            cached = kernel.cachestat(file)
        same(content(buffer, ODD), data, "buffer")
        assert cached is None or cached["nr_cache"] == 0


CASES["rw-o_direct_fd"] = _rw_o_direct_fd


def _rw_block_device() -> None:
    """A block device is read like a file."""
    data = pattern(8 * MIB)
    path = write_file(DATA / "disk", data)
    loop = shell(f"modprobe loop; losetup --show -f -r {path}").strip()
    try:
        with device() as found, TARGETS["own"](found, MIB) as buffer, opened(loop) as file:
            for direct in (False, True):
                done = found.rw_file(file, buffer, MIB, file_offset=3 * MIB, direct=direct)
                assert done.bytes == MIB
                same(content(buffer, MIB), data[3 * MIB : 4 * MIB], "buffer")
                fill(buffer, MIB)
    finally:
        shell(f"losetup -d {loop}")


CASES["rw-block_device"] = _rw_block_device


def _rw_no_size() -> None:
    """Files without a size, as procfs has them, are read as empty."""
    with device() as found, TARGETS["own"](found, PAGE) as buffer, opened("/proc/meminfo") as file:
        assert found.rw_file(file, buffer, PAGE).bytes == 0
        same(content(buffer, PAGE), bytes(PAGE), "buffer")


CASES["rw-no_size"] = _rw_no_size


# -- ALLOC_READ ---------------------------------------------------------------

READS: dict[str, dict[str, Any]] = {
    "sync": {},
    "sync_chunks": {"chunk": 64 * PAGE},
    "nozero": {"zero": False},
    "vmap": {"vmap": True},
    "gather": {"gather": MIB},
    "gather_default": {"gather": 0},
    "gather_jobs": {"gather": MIB, "jobs": 3, "chunk": 32 * PAGE},
    "gather_vmap": {"gather": MIB, "vmap": True, "jobs": 2},
    "gather_nozero": {"gather": MIB, "zero": False},
}
#: Size of the file, first byte, bytes asked for (0: to the end).
LOADS = {
    "one_byte": (1, 0, 0),
    "page_minus_1": (PAGE - 1, 0, 0),
    "odd": (5 * MIB + 4321, 0, 0),
    "middle": (5 * MIB, MIB + PAGE, 3 * MIB),
    "past_end": (3 * MIB + 100, MIB, 6 * MIB),
}


def _load(direct: bool, options: dict[str, Any], sizes: tuple[int, int, int]) -> None:
    size, offset, length = sizes
    data = pattern(size, seed=2)
    path = write_file(DATA / "load", data)
    with device() as found, opened(path) as file:
        if direct and options.get("vmap"):
            need_feature(found, native.Feature.VMAP_DIRECT)
        done = found.alloc_read(file, file_offset=offset, length=length, direct=direct, **options)
        try:
            wanted = data[offset : offset + length] if length else data[offset:]
            room = kernel.page_round(length or len(wanted))
            assert (done.bytes, done.buffer_length) == (len(wanted), room)
            same(content(done.fd, room), wanted.ljust(room, b"\0"), "buffer")
            after = kernel.cachestat(file)
            if after is not None:
                assert after["nr_cache"] == 0 if direct else after["nr_cache"] * PAGE >= len(wanted)
            _plausible(done, options)
        finally:
            os.close(done.fd)


def _plausible(done: native.Loaded, options: dict[str, Any]) -> None:
    """What must hold between the times, however long each took."""
    assert 0 < done.alloc_ns < done.total_ns
    assert 0 < done.read_ns < done.total_ns
    assert (done.vmap_ns > 0) == ("vmap" in options)
    if "gather" in options:
        assert done.batches == -(-done.buffer_length // (options["gather"] or 128 * MIB))
        assert done.overlap_ns <= min(done.alloc_ns, done.read_ns)
        assert done.alloc_ns + done.read_ns - done.overlap_ns <= done.total_ns
        # The first batch is allocated before there is anything to read.
        assert done.batches > 1 or done.overlap_ns == 0
    else:
        assert (done.batches, done.overlap_ns, done.wait_ns) == (1, 0, 0)
        parts = done.alloc_ns + done.read_ns + done.vmap_ns + done.zero_ns
        assert parts <= done.total_ns


for _direct, (_how, _options), (_name, _load_sizes) in itertools.product(
    (False, True), READS.items(), LOADS.items()
):
    _title = f"load-{_how}-{'direct' if _direct else 'buffered'}-{_name}"
    CASES[_title] = partial(_load, _direct, _options, _load_sizes)


# -- STREAM -------------------------------------------------------------------


def _stream(target: str, how: str) -> None:
    data = pattern(ODD, seed=7)
    path = write_file(DATA / "stream", data)
    room = kernel.page_round(ODD) + 2 * PAGE
    flags = os.O_RDONLY | (os.O_DIRECT if how.endswith("direct") else 0)
    with device() as found, TARGETS[target](found, room) as buffer, opened(path, flags) as file:
        fill(buffer, room)
        stream = found.stream(buffer, offset=PAGE, length=ODD)
        try:
            _copy(how, stream, file, data)
            with refusal(errno.ENOSPC, "write at the end of the stream"):
                os.pwrite(stream, b"x", ODD)
        finally:
            os.close(stream)
        wanted = bytes([OLD]) * PAGE + data
        wanted += bytes([OLD]) * (room - len(wanted))
        same(content(buffer, room), wanted, "buffer")


def _copy(how: str, stream: int, file: int, data: bytes) -> None:
    done = 0
    if how == "write":
        while done < len(data):
            done += os.write(stream, data[done : done + 300_001])
    elif how == "pwrite":
        for start in reversed(range(0, len(data), 200_003)):
            assert os.pwrite(stream, data[start : start + 200_003], start)
        assert os.lseek(stream, 0, os.SEEK_END) == len(data)
    elif how.startswith("sendfile"):
        while done < len(data):
            # An O_DIRECT file wants whole blocks, also where its end is in the last one.
            done += os.sendfile(stream, file, None, kernel.page_round(len(data) - done))
    else:
        reader, writer = os.pipe()
        while done < len(data):
            moved = os.splice(file, writer, 64 * 1024)
            while moved:
                part = os.splice(reader, stream, moved)
                moved -= part
                done += part
        os.close(reader)
        os.close(writer)


for _target, _how in itertools.product(
    ("system", "udmabuf", "udmabuf_huge", "own"),
    ("write", "pwrite", "sendfile", "sendfile_direct", "splice", "splice_direct"),
):
    CASES[f"stream-{_target}-{_how}"] = partial(_stream, _target, _how)


def _stream_short() -> None:
    """A write across the end is short, and nothing is written beyond it."""
    with device() as found, TARGETS["own"](found, 2 * PAGE) as buffer:
        fill(buffer, 2 * PAGE)
        stream = found.stream(buffer, length=PAGE)
        assert os.pwrite(stream, b"y" * 200, PAGE - 100) == 100
        os.close(stream)
        wanted = bytes([OLD]) * (PAGE - 100) + b"y" * 100 + bytes([OLD]) * PAGE
        same(content(buffer, 2 * PAGE), wanted, "buffer")


CASES["stream-short"] = _stream_short
