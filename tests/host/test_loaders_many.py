"""One file into many buffers: every byte in its place, whatever the size, and the sums of times."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmatrace.session.runner import LoadFailed, Runner
from dmatrace_loaders import kernel
from dmatrace_loaders.errors import LoadError
from dmatrace_loaders.many import ranges
from dmatrace_loaders.needs import memory
from dmatrace_loaders.table import strategies

# Nothing of the machine but memory: what runs on any host.
PLAIN = [name for name, strategy in strategies().items() if strategy.needs == (memory,)]
ODD = (3 << 20) + 4097
BLOCK = 1 << 16


@given(
    size=st.integers(1, 1 << 40),
    buffers=st.integers(1, 64),
    unit=st.sampled_from([512, 4096, 1 << 21]),
)
def test_ranges_cover_a_file_once(size: int, buffers: int, unit: int) -> None:
    found = ranges(size, buffers, unit)
    assert 1 <= len(found) <= buffers
    at = 0
    for start, length in found:
        assert start == at
        assert length > 0
        at += length
    assert at == size
    assert {length for _, length in found[:-1]} <= {found[0][1]}
    assert all(length % unit == 0 for _, length in found[:-1])


def test_thirty_two_of_thirty_two() -> None:
    found = ranges(1 << 30, 32, 4096)
    assert len(found) == 32
    assert {length for _, length in found} == {32 << 20}


@pytest.fixture
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()


@pytest.fixture
def file(disk: Path) -> Path:
    path = disk / "data"
    path.write_bytes(random.Random(7).randbytes(ODD))
    return path


def _prepare(runner: Runner, file: Path, strategy: str, buffers: int, jobs: int = 1) -> None:
    runner.ask(
        "prepare", load_id=1, strategy=strategy, file=str(file), block=BLOCK,
        buffers=buffers, jobs=jobs, verify="full",
    )  # fmt: skip
    assert runner.wait("prepared")["bytes"] == ODD


def _verify(runner: Runner) -> tuple[bool, str]:
    runner.ask("verify")
    answer = runner.wait("verified")
    return answer["verified"], answer["why"]


@pytest.mark.parametrize(("buffers", "jobs"), [(2, 3), (5, 1), (2000, 1)])
@pytest.mark.parametrize("strategy", PLAIN)
def test_every_byte(runner: Runner, file: Path, strategy: str, buffers: int, jobs: int) -> None:
    _prepare(runner, file, strategy, buffers, jobs)
    runner.ask("go")
    loaded = runner.wait("loaded")
    (window,) = [thread for thread in loaded["threads"] if thread["tid"] == runner.pid]
    assert loaded["create_ns"] + loaded["io_ns"] == window["end_ns"] - window["start_ns"]
    assert _verify(runner) == (True, "")
    runner.ask("close")
    runner.wait("closed")


def test_a_difference_is_found_in_any_buffer(runner: Runner, file: Path) -> None:
    """The file changes behind the loaded buffers' back, near its end."""
    _prepare(runner, file, "memfd-bio", 4)
    runner.ask("go")
    runner.wait("loaded")
    at = ODD - 5000
    with file.open("r+b") as data:
        data.seek(at)
        old = data.read(1)
        data.seek(at)
        data.write(bytes([old[0] ^ 1]))
    assert _verify(runner) == (False, f"byte {at} of {ODD} differs")


def test_a_file_that_shrinks_fails_and_frees(runner: Runner, file: Path) -> None:
    _prepare(runner, file, "memfd-bio", 4)
    with file.open("r+b") as data:
        data.truncate(ODD // 2)
    runner.ask("go")
    with pytest.raises(LoadFailed, match=rf"ended at {ODD // 2} of \d+ bytes"):
        runner.wait("loaded")
    fds = Path(f"/proc/{runner.pid}/fd")
    assert not [link for link in fds.iterdir() if "memfd" in str(link.readlink())]


def test_each_buffer_meets_a_limit_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """udmabuf's limit is one of a buffer, memory is needed by all of them."""
    asked: dict[str, int] = {}

    def limited(size: int) -> None:
        asked["each"] = size

    def enough(size: int) -> None:
        asked["all"] = size
        raise LoadError("too little", code=3)

    monkeypatch.setattr("dmatrace_loaders.needs.OF_ALL", frozenset({enough}))
    strategy = replace(strategies()["memfd-bio"], needs=(limited, enough))
    with pytest.raises(LoadError):
        strategy.check(1 << 30, 32)
    assert asked == {"each": 32 << 20, "all": kernel.page_round(1 << 30)}
