"""How much of a file is mapped into a process, as the kernel tells it."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from dmatrace.session.strategies import mapped

PAGE = mmap.PAGESIZE


@pytest.fixture
def file(disk: Path) -> Path:
    path = disk / "a file with spaces: and Rss: 7 kB"
    path.write_bytes(os.urandom(64 * PAGE))
    return path


def test_only_pages_that_are_present_count(file: Path) -> None:
    assert mapped(os.getpid(), str(file)) == 0
    with file.open("rb") as opened:
        whole = mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
        assert mapped(os.getpid(), str(file)) == 0, "mapped, but nothing of it is there"
        whole[0]
        assert PAGE <= mapped(os.getpid(), str(file)) <= 64 * PAGE  # and what is around it
        bytes(whole[:])
        assert mapped(os.getpid(), str(file)) == 64 * PAGE
        whole.close()
    assert mapped(os.getpid(), str(file)) == 0


def test_another_file_s_pages_do_not_count(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(bytes(PAGE))
    with file.open("rb") as opened:
        whole = mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)
        bytes(whole[:])
        assert mapped(os.getpid(), str(other)) == 0
        whole.close()


def test_a_process_that_is_gone(file: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises((FileNotFoundError, ProcessLookupError)):
        mapped(child, str(file))
