"""Comparing a buffer with its file finds what it should, and leaves the page cache alone."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dmatrace_loaders import kernel, verify
from dmatrace_loaders.verify import blocks, difference

MIB = 1 << 20
SMALL = 2 * MIB + 12345
LARGE = 40 * MIB + 777  # more blocks than are sampled


@pytest.fixture(scope="module")
def contents() -> dict[int, bytes]:
    return {size: random.Random(size).randbytes(size) for size in (SMALL, LARGE)}


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, contents: dict[int, bytes]
) -> Iterator[dict[int, Path]]:
    found = {}
    for size, content in contents.items():
        found[size] = tmp_path_factory.mktemp("verify") / f"{size}.bin"
        found[size].write_bytes(content)
    yield found
    for path in found.values():
        path.unlink()


def _buffer(content: bytes, size: int) -> bytearray:
    """As a loader's: padded with zeros to whole pages."""
    return bytearray(content).ljust(kernel.page_round(size), b"\0")


@pytest.mark.parametrize("how", ["full", "sampled"])
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_what_is_equal(
    files: dict[int, Path], contents: dict[int, bytes], size: int, how: str
) -> None:
    buffer = _buffer(contents[size], size)
    assert difference(str(files[size]), size, memoryview(buffer), how) is None


@settings(max_examples=25, deadline=None)
@given(at=st.integers(0, SMALL - 1), bit=st.integers(0, 7))
@example(at=0, bit=0)
@example(at=MIB - 1, bit=7)
@example(at=MIB, bit=0)
@example(at=SMALL - 1, bit=3)
def test_full_finds_any_flipped_bit(
    files: dict[int, Path], contents: dict[int, bytes], at: int, bit: int
) -> None:
    buffer = _buffer(contents[SMALL], SMALL)
    buffer[at] ^= 1 << bit
    said = difference(str(files[SMALL]), SMALL, memoryview(buffer), "full")
    assert said == f"byte {at} of {SMALL} differs"


@settings(max_examples=15, deadline=None)
@given(data=st.data(), bit=st.integers(0, 7))
def test_sampled_finds_it_in_every_sampled_block(
    files: dict[int, Path], contents: dict[int, bytes], data: st.DataObject, bit: int
) -> None:
    offset = data.draw(st.sampled_from(blocks(LARGE, "sampled")))
    at = offset + data.draw(st.integers(0, min(MIB, LARGE - offset) - 1))
    buffer = _buffer(contents[LARGE], LARGE)
    buffer[at] ^= 1 << bit
    said = difference(str(files[LARGE]), LARGE, memoryview(buffer), "sampled")
    assert said == f"byte {at} of {LARGE} differs"


def test_sampled_reads_no_more_than_its_samples(
    files: dict[int, Path], contents: dict[int, bytes]
) -> None:
    missed = sorted(set(blocks(LARGE, "full")) - set(blocks(LARGE, "sampled")))
    assert missed
    buffer = _buffer(contents[LARGE], LARGE)
    buffer[missed[0]] ^= 1
    assert difference(str(files[LARGE]), LARGE, memoryview(buffer), "sampled") is None
    assert difference(str(files[LARGE]), LARGE, memoryview(buffer), "full")


@given(size=st.integers(1, 1 << 36))
def test_samples(size: int) -> None:
    chosen = blocks(size, "sampled")
    last = (size - 1) // MIB * MIB
    assert chosen[0] == 0
    assert chosen[-1] == last
    assert chosen == sorted(set(chosen))
    assert all(offset % MIB == 0 and offset <= last for offset in chosen)
    assert len(chosen) == min(18, last // MIB + 1)
    assert blocks(size, "sampled") == chosen  # the same ones in the next round


def test_full_is_every_block() -> None:
    assert blocks(3 * MIB, "full") == [0, MIB, 2 * MIB]
    assert blocks(3 * MIB + 1, "full") == [0, MIB, 2 * MIB, 3 * MIB]


@pytest.mark.parametrize("how", ["full", "sampled"])
def test_what_lies_behind_the_end(
    files: dict[int, Path], contents: dict[int, bytes], how: str
) -> None:
    size = SMALL
    padding = kernel.page_round(size) - size
    for at in (0, padding // 2, padding - 1):
        buffer = _buffer(contents[size], size)
        buffer[size + at] = 1
        said = difference(str(files[size]), size, memoryview(buffer), how)
        assert said == f"the {padding} bytes behind the end of the file are not zero"


@pytest.mark.parametrize("missing", [1, SMALL - 2 * MIB, MIB, SMALL])
def test_a_short_buffer(files: dict[int, Path], contents: dict[int, bytes], missing: int) -> None:
    view = memoryview(contents[SMALL])[: SMALL - missing]
    said = difference(str(files[SMALL]), SMALL, view, "full")
    assert said == f"the buffer holds {SMALL - missing} of {SMALL} bytes"


@pytest.mark.parametrize("direct", [True, False], ids=["dio", "bio"])
@pytest.mark.parametrize("left", [0, 1, MIB, MIB + 512, MIB + 4097, SMALL - 1])
def test_a_file_that_has_shrunk(
    disk: Path,
    contents: dict[int, bytes],
    monkeypatch: pytest.MonkeyPatch,
    left: int,
    direct: bool,
) -> None:
    """It must not be called verified when half of it could not be compared."""
    path = disk / "shrunk"
    path.write_bytes(contents[SMALL][:left])
    if not direct:
        monkeypatch.setattr(verify, "_open", lambda path: os.open(path, os.O_RDONLY))
    view = memoryview(_buffer(contents[SMALL], SMALL))
    said = difference(str(path), SMALL, view, "full")
    assert said is not None
    assert said.startswith("the file ends at")
    assert int(said.split()[4]) == left


@pytest.mark.parametrize("how", ["full", "sampled"])
def test_a_one_byte_file(disk: Path, how: str) -> None:
    path = disk / "one"
    path.write_bytes(b"x")
    buffer = bytearray(4096)
    assert difference(str(path), 1, memoryview(buffer), how) == "byte 0 of 1 differs"
    buffer[0] = ord("x")
    assert difference(str(path), 1, memoryview(buffer), how) is None


def _cached(path: Path) -> int:
    """Cached bytes, by cachestat(2) where the kernel has it, else by fincore(1)'s way."""
    fd = os.open(path, os.O_RDONLY)
    try:
        found = kernel.cachestat(fd)
        if found is not None:
            return found["cached"]
        return _by_mincore(fd, path.stat().st_size)
    finally:
        os.close(fd)


def _by_mincore(fd: int, size: int) -> int:
    import ctypes
    import mmap

    libc = ctypes.CDLL(None, use_errno=True)
    pages = (ctypes.c_ubyte * (kernel.page_round(size) // mmap.PAGESIZE))()
    with mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as at:
        address = ctypes.c_char.from_buffer(at)
        assert libc.mincore(ctypes.byref(address), ctypes.c_size_t(size), pages) == 0
        del address
    return sum(page & 1 for page in pages) * mmap.PAGESIZE


def _drop(path: Path) -> None:
    """Out of the page cache, this file alone."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def test_both_ways_to_count_cached_pages_agree(disk: Path) -> None:
    path = disk / "data"
    path.write_bytes(bytes(MIB))
    fd = os.open(path, os.O_RDONLY)
    assert _by_mincore(fd, MIB) == _cached(path) == MIB
    os.close(fd)
    _drop(path)
    assert _cached(path) == 0


@pytest.mark.parametrize("how", ["full", "sampled"])
def test_comparing_adds_nothing_to_the_page_cache(
    disk: Path, contents: dict[int, bytes], how: str
) -> None:
    path = disk / "data"
    path.write_bytes(contents[LARGE])
    _drop(path)
    assert _cached(path) == 0
    buffer = memoryview(_buffer(contents[LARGE], LARGE))
    assert difference(str(path), LARGE, buffer, how) is None
    assert _cached(path) == 0
    path.read_bytes()  # what is cached can be seen
    assert _cached(path) == kernel.page_round(LARGE)


def test_without_direct_io_it_still_compares(memory: Path) -> None:
    path = memory / "data"
    content = random.Random(7).randbytes(MIB + 5)
    path.write_bytes(content)
    buffer = _buffer(content, len(content))
    assert difference(str(path), len(content), memoryview(buffer), "full") is None
    buffer[MIB] ^= 1
    assert difference(str(path), len(content), memoryview(buffer), "full")


@pytest.mark.parametrize("offset", [0, 2 * MIB], ids=["none", "larger-than-a-block"])
def test_an_alignment_that_does_not_suit_is_read_buffered(
    disk: Path, contents: dict[int, bytes], monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    path = disk / "data"
    path.write_bytes(contents[SMALL])
    _drop(path)
    monkeypatch.setattr(kernel, "dio_alignment", lambda _: kernel.DirectIo(512, offset, True))
    fds = os.listdir("/proc/self/fd")
    buffer = memoryview(_buffer(contents[SMALL], SMALL))
    assert difference(str(path), SMALL, buffer, "full") is None
    assert _cached(path) > 0
    assert os.listdir("/proc/self/fd") == fds
