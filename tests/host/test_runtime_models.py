"""The tests' own model files, and their reader of strace, before a guest has to believe them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from tests.guest.runtimes import models
from tests.guest.runtimes.said import said
from tests.guest.runtimes.table import BUFFERED, DIRECT, MAPPED, NAMES, POPULATED, RUNS

MIB = 1 << 20


@pytest.mark.parametrize("format", models.FORMATS)
def test_no_page_is_a_hole(tmp_path: Path, format: str) -> None:
    path = tmp_path / "model"
    models.FORMATS[format](str(path), MIB)  # the smallest there is
    files = [each for each in tmp_path.iterdir() if each.stat().st_size > MIB]
    (weights,) = files
    data = weights.read_bytes()
    empty = bytes(4096)
    assert not any(data[at : at + 4096] == empty for at in range(0, len(data) - 4096, 4096))
    assert weights.stat().st_blocks * 512 >= len(data)


def test_safetensors_offsets(tmp_path: Path) -> None:
    path = tmp_path / "model"
    models.safetensors(str(path), 32 * MIB)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    ends = sorted(tensor["data_offsets"] for tensor in header.values())
    assert [end for _, end in ends] == [16 * MIB, 32 * MIB]
    assert len(data) == 8 + length + 32 * MIB


def test_gguf_tensors_fill_the_file(tmp_path: Path) -> None:
    """The last tensor ends where the file does, and each begins at a multiple of 32."""
    path = tmp_path / "model"
    models.gguf(str(path), MIB)
    data = path.read_bytes()
    magic, version, tensors, pairs = struct.unpack("<4sIQQ", data[:24])
    assert (magic, version, pairs) == (b"GGUF", 3, 17)
    name = b"output_norm.weight"
    at = data.index(struct.pack("<Q", len(name)) + name) + 8 + len(name)
    dimensions, length, kind, offset = struct.unpack("<IQIQ", data[at : at + 24])
    assert (dimensions, kind, offset % 32) == (1, 0, 0)
    start = -(-(at + 24) // 32) * 32  # it is the last of the headers, too
    assert start + offset + 4 * length == len(data)
    assert tensors == 2 + 10


_STRACE = """\
7 openat(AT_FDCWD</>, "/data/m", O_RDONLY) = 3</data/m>
7 read(3</data/m>, ""..., 4096) = 4096
7 mmap(NULL, 12288, PROT_READ, MAP_SHARED|MAP_POPULATE, 3</data/m>, 0) = 0x7f0000000000
8 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 9</lib/x>, 0) = 0x7e0000000000
7 read(3</data/m>,  <unfinished ...>
8 read(5</data/other>, ""..., 77) = 77
7 <... read resumed>""..., 8192) = 5000
7 read(3</data/m>, 0x7ff, 10) = -1 EINTR (Interrupted system call)
7 openat(AT_FDCWD</>, "/data/m", O_RDONLY|O_DIRECT) = 3</data/m>
7 pread64(3</data/m>, ""..., 65536, 0) = 65536
7 +++ exited with 0 +++
"""


def test_what_strace_said() -> None:
    found = said(_STRACE.splitlines(), "/data/m")
    assert (found.buffered, found.direct, found.mapped) == (9096, 65536, 12288)
    assert found.reads == [4096, 5000, 65536]
    assert found.populated
    assert found.way(70000) == DIRECT
    assert found.way(1 << 20) == ""
    assert said(_STRACE.splitlines(), "/data/other").way(77) == BUFFERED
    assert said(_STRACE.splitlines(), "/lib/x").way(4096) == MAPPED


def test_willneed_populates() -> None:
    lines = [
        "7 mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, 3</m>, 0) = 0x7f0000000000",
        "7 madvise(0x7e0000000000, 8192, MADV_WILLNEED) = 0",
    ]
    assert said(lines, "/m").way(8192) == MAPPED
    lines.append("7 madvise(0x7f0000001000, 4096, MADV_WILLNEED) = 0")
    assert said(lines, "/m").way(8192) == POPULATED


def test_every_run_has_a_format_and_a_program() -> None:
    for run in RUNS.values():
        assert run.format in models.FORMATS
        assert run.format in NAMES
        assert run.file.startswith(run.model)
        assert "{model}" not in " ".join(run.argv())
