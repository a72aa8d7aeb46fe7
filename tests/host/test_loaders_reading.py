"""Reading a file into memory: where the pieces lie, what arrives, and what is refused."""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
import random
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmatrace_loaders import kernel, reading
from dmatrace_loaders.errors import LoadError
from dmatrace_loaders.reading import (
    Source,
    open_source,
    pieces,
    read_all,
    read_by_block,
    read_range,
    running,
)

PAGE = mmap.PAGESIZE
_FIXTURES_ARE_FINE = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def _take_all(blocks: Iterator[tuple[int, memoryview]]) -> None:
    for _, data in blocks:
        data.release()


def _thread(work: Callable[[], None]) -> Callable[[], None]:
    """A plain thread; ``finish`` raises what went wrong in it."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def finish() -> None:
        thread.join()
        if errors:
            raise errors[0]

    return finish


@pytest.fixture
def file(disk: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file of the given size on a file system with direct I/O."""
    path = disk / "data"

    def make(size: int) -> Path:
        path.write_bytes(_content(size))
        return path

    yield make
    path.unlink(missing_ok=True)


def _source(size: int, block: int, align: int, *, direct: bool) -> Source:
    return Source(-1, "-", size, direct, align, block)


@given(
    size=st.integers(1, 1 << 40),
    pages=st.integers(1, 4096),
    jobs=st.integers(0, 300),
)
@settings(max_examples=400, deadline=None)
def test_pieces_cover_the_file_once(size: int, pages: int, jobs: int) -> None:
    block = pages * PAGE
    parts = pieces(_source(size, block, PAGE, direct=False), jobs)
    assert 1 <= len(parts) <= max(1, jobs)
    assert parts[0][0] == 0
    assert parts[-1][1] == size
    for (_, end), (start, _) in itertools.pairwise(parts):
        assert end == start
    assert all(start < end for start, end in parts)
    assert all(start % block == 0 for start, _ in parts)
    # Nobody has more than one block more than anybody else.
    blocks = [-(-(end - start) // block) for start, end in parts]
    assert max(blocks) - min(blocks) <= 1
    assert len(parts) == max(1, min(jobs, -(-size // block)))


_SIZES = st.one_of(
    st.integers(1, 3 * PAGE),
    st.integers(1, 400_000),
    st.builds(lambda n, d: max(1, n * PAGE + d), st.integers(1, 40), st.integers(-1, 1)),
)


@_FIXTURES_ARE_FINE
@given(
    size=_SIZES,
    block=st.sampled_from([1, 512, PAGE, 3 * PAGE, 1 << 16, 1 << 20]),
    jobs=st.integers(1, 5),
    direct=st.booleans(),
)
def test_read_all(
    file: Callable[[int], Path], size: int, block: int, jobs: int, direct: bool
) -> None:
    path = file(size)
    source = open_source(str(path), direct=direct, block=block)
    try:
        assert source.size == size
        with mmap.mmap(-1, kernel.page_round(size)) as target:
            with memoryview(target) as view:
                read_all(source, view, jobs, _thread)
            assert target[:size] == _content(size)
            assert not target[size:].strip(b"\0")
    finally:
        source.close()


@_FIXTURES_ARE_FINE
@given(size=_SIZES, pages=st.integers(1, 20), direct=st.booleans())
def test_read_by_block(file: Callable[[int], Path], size: int, pages: int, direct: bool) -> None:
    source = open_source(str(file(size)), direct=direct, block=pages * PAGE)
    got, expected = b"", 0
    try:
        with mmap.mmap(-1, source.block) as bounce, memoryview(bounce) as buffer:
            for offset, data in read_by_block(source, buffer):
                with data:
                    assert offset == expected
                    assert 0 < len(data) <= source.block
                    got += bytes(data)
                    expected += len(data)
    finally:
        source.close()
    assert got == _content(size)


@pytest.mark.parametrize("direct", [False, True], ids=["bio", "dio"])
def test_short_reads_are_continued(
    file: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, direct: bool
) -> None:
    size = 10 * PAGE + 77
    source = open_source(str(file(size)), direct=direct, block=3 * PAGE)
    preadv, asked = os.preadv, []

    def short(fd: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        asked.append(len(buffers[0]))
        few = source.align if direct else 1000
        return preadv(fd, [buffers[0][:few]], offset, flags)

    monkeypatch.setattr(reading.os, "preadv", short)
    with mmap.mmap(-1, 11 * PAGE) as target:
        with memoryview(target) as view:
            read_all(source, view, 1, _thread)
        assert target[:size] == _content(size)
    if direct:
        assert all(length % source.align == 0 for length in asked)
    asked.clear()
    with mmap.mmap(-1, 3 * PAGE) as bounce, memoryview(bounce) as buffer:
        assert b"".join(bytes(data) for _, data in read_by_block(source, buffer)) == _content(size)
    source.close()


@pytest.mark.parametrize("direct", [False, True], ids=["bio", "dio"])
@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("left", [0, PAGE, 5 * PAGE, 5 * PAGE + 100, 11 * PAGE, 12 * PAGE - 1])
def test_a_file_that_shrinks(
    file: Callable[[int], Path], direct: bool, jobs: int, left: int
) -> None:
    path = file(12 * PAGE)
    source = open_source(str(path), direct=direct, block=2 * PAGE)
    os.truncate(path, left)
    with mmap.mmap(-1, 12 * PAGE) as target, memoryview(target) as view:
        with pytest.raises(LoadError, match="changed during the load") as caught:
            read_all(source, view, jobs, _thread)
        assert caught.value.code == 1
        if jobs == 1:
            assert f"ended at {left} of {12 * PAGE} bytes" in caught.value.message
    with (
        mmap.mmap(-1, source.block) as bounce,
        memoryview(bounce) as buffer,
        pytest.raises(LoadError, match=f"ended at {left} of {12 * PAGE} bytes"),
    ):
        _take_all(read_by_block(source, buffer))
    source.close()


@pytest.mark.parametrize("direct", [False, True], ids=["bio", "dio"])
def test_a_file_that_grows_is_read_to_its_old_end(
    file: Callable[[int], Path], direct: bool
) -> None:
    path = file(PAGE + 100)
    source = open_source(str(path), direct=direct, block=PAGE)
    with path.open("ab") as more:
        more.write(bytes(10 * PAGE))
    with mmap.mmap(-1, 2 * PAGE) as target:
        with memoryview(target) as view:
            read_all(source, view, 1, _thread)
        assert target[: PAGE + 100] == _content(PAGE + 100)
    source.close()


def test_all_threads_are_waited_for_when_one_cannot_start(file: Callable[[int], Path]) -> None:
    size = 8 * PAGE
    source = open_source(str(file(size)), direct=False, block=PAGE)
    started, ended = [], []

    def spawn(work: Callable[[], None]) -> Callable[[], None]:
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        started.append(work)
        finish = _thread(work)

        def wait() -> None:
            finish()
            ended.append(work)

        return wait

    with mmap.mmap(-1, size) as target, memoryview(target) as view:
        with pytest.raises(LoadError, match="8 reading threads cannot be started") as caught:
            read_all(source, view, 8, spawn)
        assert target[: 3 * PAGE] == _content(size)[: 3 * PAGE]
        assert not target[3 * PAGE :].strip(b"\0")
    assert "--jobs" in caught.value.do
    assert ended == started
    source.close()


def test_what_the_body_raises_comes_after_the_threads(file: Callable[[int], Path]) -> None:
    """As udmabuf-overlap does: UDMABUF_CREATE fails while readers fill the mapping."""
    size = 64 * PAGE
    source = open_source(str(file(size)), direct=False, block=PAGE)
    with mmap.mmap(-1, size) as target:
        with memoryview(target) as view:
            work = [partial(read_range, source, view, *part) for part in pieces(source, 4)]
            with pytest.raises(OSError, match="from the body"), running(work, _thread):
                raise OSError("from the body")
        assert target[:] == _content(size)
    source.close()


def _refused(path: Path | str, *, direct: bool = False) -> LoadError:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(LoadError) as caught:
        open_source(str(path), direct=direct, block=1 << 20)
    assert os.listdir("/proc/self/fd") == before
    error = caught.value
    assert str(path) in error.message
    assert error.do
    assert "\n" not in error.message + error.do
    return error


@pytest.mark.parametrize("direct", [False, True], ids=["bio", "dio"])
def test_what_cannot_be_opened(disk: Path, direct: bool) -> None:
    (disk / "empty").touch()
    os.mkfifo(disk / "fifo")
    (disk / "loop").symlink_to("loop")
    (disk / "file").write_bytes(b"x")
    for path, why in {
        disk / "missing": "No such file",
        disk / "file" / "below": "Not a directory",
        disk / "loop": "symbolic links",
        disk / "empty": "is empty",
        disk: "is a directory",
        disk / "fifo": "not a regular file",  # and it does not wait for a writer
        Path("/dev/null"): "not a regular file",
    }.items():
        error = _refused(path, direct=direct)
        assert why in error.message
        assert error.code == 1


def test_what_may_not_be_read(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = disk / "secret"
    path.write_bytes(b"x")
    path.chmod(0)
    if os.geteuid() == 0:
        # Root may read it all the same, so the kernel's answer to others is given here.
        def denied(*_: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(reading.os, "open", denied)
    assert "Permission denied" in _refused(path).message


def test_direct_io_needs_a_disk(memory: Path) -> None:
    path = memory / "data"
    path.write_bytes(_content(PAGE))
    error = _refused(path, direct=True)
    assert error.code == 3
    assert "without direct I/O" in error.message
    open_source(str(path), direct=False, block=PAGE).close()


@pytest.mark.parametrize(
    ("magic", "memory_only"),
    [(0x01021994, True), (0x858458F6, True), (0xEF53, False), (0x58465342, False)],
    ids=["tmpfs", "ramfs", "ext4", "xfs"],
)
def test_file_systems_in_memory(
    monkeypatch: pytest.MonkeyPatch, magic: int, memory_only: bool
) -> None:
    """By the number that fstatfs(2) answers; include/uapi/linux/magic.h has them."""

    class Libc:
        @staticmethod
        def fstatfs(_fd: int, buffer: object) -> int:
            struct.pack_into("L", buffer, 0, magic)  # type: ignore[arg-type]
            return 0

    monkeypatch.setattr(kernel, "_libc", Libc)
    assert kernel.in_memory_only(0) is memory_only


@pytest.mark.parametrize(
    ("known", "memory", "offset", "align"),
    [(True, 4, 512, 512), (True, 512, 4096, 4096), (True, 16384, 4096, 16384),
     (False, 512, 512, 512)],
)  # fmt: skip
def test_alignment_is_the_larger_of_memory_and_offset(
    file: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
    known: bool,
    memory: int,
    offset: int,
    align: int,
) -> None:
    monkeypatch.setattr(kernel, "dio_alignment", lambda _: kernel.DirectIo(memory, offset, known))
    source = open_source(str(file(PAGE)), direct=True, block=max(align, PAGE) + 1)
    assert (source.align, source.block) == (align, max(align, PAGE))
    source.close()


def test_a_file_system_that_says_no_direct_io(
    file: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "dio_alignment", lambda _: kernel.DirectIo(0, 0, True))
    assert _refused(file(PAGE), direct=True).code == 3


def test_an_open_that_refuses_o_direct(
    file: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.open

    def refuse(path: str, flags: int, *more: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return really(path, flags, *more)

    monkeypatch.setattr(reading.os, "open", refuse)
    error = _refused(file(PAGE), direct=True)
    assert error.code == 3
    assert "O_DIRECT: Invalid argument" in error.message


@given(block=st.integers(0, 1 << 30), direct=st.booleans())
@_FIXTURES_ARE_FINE
def test_blocks_are_whole_pages_and_never_none(
    file: Callable[[int], Path], block: int, direct: bool
) -> None:
    source = open_source(str(file(1)), direct=direct, block=block)
    source.close()
    assert source.block % PAGE == 0
    assert source.block == max(PAGE, block // PAGE * PAGE)


def test_a_source_is_a_direct_fd_only_if_asked(file: Callable[[int], Path]) -> None:
    for direct in (False, True):
        source = open_source(str(file(PAGE)), direct=direct, block=PAGE)
        flags = fcntl.fcntl(source.fd, fcntl.F_GETFL)
        assert bool(flags & os.O_DIRECT) is direct
        assert not flags & os.O_NONBLOCK
        assert fcntl.fcntl(source.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert stat.S_ISREG(os.fstat(source.fd).st_mode)
        source.close()
