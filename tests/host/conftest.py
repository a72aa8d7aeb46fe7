"""What several host tests share: a directory whose file system does direct I/O."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmatrace_loaders import kernel

_CHECKOUT = Path(__file__).parents[2]


def _direct(directory: Path) -> bool:
    probe = directory / "probe"
    probe.write_bytes(bytes(4096))
    try:
        fd = os.open(probe, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        return False
    try:
        return not kernel.in_memory_only(fd)
    finally:
        os.close(fd)
        probe.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty directory on a file system with direct I/O: tmp_path, or one elsewhere."""
    if _direct(tmp_path):
        yield tmp_path
        return
    places = [os.environ.get("DMATRACE_DATA"), "/var/tmp", str(_CHECKOUT)]
    for place in filter(None, places):
        with tempfile.TemporaryDirectory(prefix="dmatrace-test-", dir=place) as name:
            if _direct(Path(name)):
                yield Path(name)
                return
    pytest.skip("no directory with direct I/O here: set DMATRACE_DATA to one on a disk")


@pytest.fixture
def memory() -> Iterator[Path]:
    """An empty directory on tmpfs."""
    if not os.path.ismount("/dev/shm"):
        pytest.skip("no tmpfs at /dev/shm: mount it")
    with tempfile.TemporaryDirectory(prefix="dmatrace-test-", dir="/dev/shm") as name:
        yield Path(name)
