"""Who holds which dma-buf: a /proc and /sys made of files, and this machine's own."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import synthetic

from dmatrace.analysis.document import document
from dmatrace.bpf import dmabufs
from dmatrace.bpf.dmabufs import Listed
from dmatrace.cli import buffers as verb
from dmatrace.errors import CannotHere
from dmatrace.recording import TABLES, Recording, Writer
from dmatrace.report import text as report_text
from dmatrace.report.layout import WIDTH, Style
from dmatrace.session import inventory
from dmatrace.session.inventory import Buffer, Holder

_FDINFO = (
    "pos:\t0\nflags:\t02\nmnt_id:\t13\nino:\t{ino}\nsize:\t{size}\ncount:\t2\nexp_name:\t{exp}\n"
)
_BUFINFO = """
Dma-buf Objects:
size    \tflags   \tmode    \tcount   \texp_name\tino     \tname
03145728\t00000002\t00080007\t00000002\tsystem\t00000007\tweights
\tAttached Devices:
\tnpu0
\tdmatrace
Total 2 devices attached

05242880\t00000002\t00080007\t00000001\tudmabuf\t00000008\t<none>
\tAttached Devices:
Total 0 devices attached


Total 2 objects, 8388608 bytes
"""


def _none() -> list[Listed]:
    raise CannotHere("this kernel has no BPF iterator over dma-bufs")


class Tree:
    """A root with processes of our making."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc").mkdir()

    def process(self, pid: int, comm: str) -> Path:
        place = self.root / "proc" / str(pid)
        for name in ("fd", "fdinfo", "map_files"):
            (place / name).mkdir(parents=True)
        (place / "comm").write_text(comm + "\n")
        (place / "maps").write_text("7f0000000000-7f0000001000 r--p 00000000 fe:01 99 /usr/a b\n")
        return place

    def fd(self, place: Path, number: int, ino: int, size: int, exporter: str, name: str) -> None:
        (place / "fd" / str(number)).symlink_to(f"/dmabuf:{name}")
        said = _FDINFO.format(ino=ino, size=size, exp=exporter)
        (place / "fdinfo" / str(number)).write_text(said + (f"name:\t{name}\n" if name else ""))

    def maps(self, place: Path, ino: int, start: int, size: int, name: str = "") -> None:
        span = f"{start:x}-{start + size:x}"
        with (place / "maps").open("a") as lines:
            lines.write(f"{span} rw-s 00000000 00:0c {ino:<10}    /dmabuf:{name}\n")
        backing = self.root / f"inode{ino}"
        if not backing.exists():
            with backing.open("wb") as file:
                file.truncate(5 << 20)
        (place / "map_files" / span).symlink_to(backing)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Process 10 holds two buffers, 11 got one of them, 12 only maps the other."""
    tree = Tree(tmp_path)
    one = tree.process(10, "maker")
    tree.fd(one, 3, 7, 3 << 20, "system", "weights")
    tree.fd(one, 5, 7, 3 << 20, "system", "weights")
    tree.fd(one, 6, 8, 5 << 20, "udmabuf", "")
    tree.maps(one, 7, 0x10000, 1 << 20, "weights")
    tree.maps(one, 7, 0x900000, 2 << 20, "weights")
    (one / "fd" / "0").symlink_to("/dev/null")
    (one / "fd" / "9").symlink_to("/dmabuf:a file that is called so")
    (one / "fdinfo" / "9").write_text("pos:\t0\nflags:\t02\nmnt_id:\t1\nino:\t4\n")
    tree.fd(tree.process(11, "heir"), 4, 7, 3 << 20, "system", "weights")
    tree.maps(tree.process(12, "mapper (x)"), 8, 0x40000000, 5 << 20)
    tree.process(13, "other")
    (tmp_path / "proc" / "self").mkdir()
    return tree


_HOLDERS = {
    7: (Holder(10, "maker", (3, 5), 3 << 20), Holder(11, "heir", (4,), 0)),
    8: (Holder(10, "maker", (6,), 0), Holder(12, "mapper (x)", (), 5 << 20)),
}


def test_by_proc_alone(tree: Tree) -> None:
    found = inventory.take(tree.root, _none)
    assert found.buffers == (
        Buffer(7, 3 << 20, "system", "weights", _HOLDERS[7]),
        Buffer(8, 5 << 20, "udmabuf", "", _HOLDERS[8]),
    )
    assert (found.source, found.complete, found.unseen) == ("proc", False, 0)
    assert inventory.buffers.__doc__


def test_a_buffer_that_is_only_mapped_has_its_inodes_size(tree: Tree) -> None:
    only = tree.process(20, "late")
    tree.maps(only, 33, 0x5000, 4096, "kv")
    found = {each.ino: each for each in inventory.take(tree.root, _none).buffers}
    assert found[33] == Buffer(33, 5 << 20, "", "kv", (Holder(20, "late", (), 4096),))
    for link in (only / "map_files").iterdir():
        link.unlink()
    again = {each.ino: each for each in inventory.take(tree.root, _none).buffers}
    assert again[33].size is None


def test_by_debugfs(tree: Tree) -> None:
    place = tree.root / "sys/kernel/debug/dma_buf"
    place.mkdir(parents=True)
    (place / "bufinfo").write_text(_BUFINFO)
    found = inventory.take(tree.root, _none)
    assert found.buffers == (
        Buffer(7, 3 << 20, "system", "weights", _HOLDERS[7], ("npu0", "dmatrace")),
        Buffer(8, 5 << 20, "udmabuf", "", _HOLDERS[8], ()),
    )
    assert (found.source, found.complete) == ("debugfs", True)


def test_by_iterator_and_one_that_no_process_holds(tree: Tree) -> None:
    listed = [Listed(7, 3 << 20, "system", "weights"), Listed(9, 1 << 30, "system", "orphan")]
    found = inventory.take(tree.root, lambda: listed)
    assert [each.ino for each in found.buffers] == [7, 8, 9]
    assert found.buffers[2] == Buffer(9, 1 << 30, "system", "orphan", ())
    assert (found.source, found.complete) == ("BPF iterator", True)


def test_an_iterator_that_is_refused(tree: Tree) -> None:
    def refused() -> list[Listed]:
        raise PermissionError(errno.EPERM, "dmt_dmabufs")

    assert inventory.take(tree.root, refused).source == "proc"


def test_a_process_that_may_not_be_read_is_counted(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., list[str]] = os.listdir

    def listdir(path: Path) -> list[str]:
        if str(path).endswith("/11/fd"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    found = inventory.take(tree.root, _none)
    assert found.unseen == 1
    assert found.buffers[0].holders == _HOLDERS[7][:1]


def test_a_process_that_ends_meanwhile(tree: Tree) -> None:
    shutil.rmtree(tree.root / "proc/11/fdinfo")
    (tree.root / "proc/11/comm").unlink()
    (tree.root / "proc/12/maps").unlink()
    found = inventory.take(tree.root, _none)
    assert found.unseen == 0
    assert [each.holders for each in found.buffers] == [_HOLDERS[7][:1], _HOLDERS[8][:1]]


def test_this_machine() -> None:
    """Whatever is here: it is read without error."""
    assert inventory.take().unseen >= 0


def test_the_iterators_records() -> None:
    record = struct.pack("=QQ32s32s", 7, 4096, b"system\0stale", b"weights")
    assert dmabufs.parsed(record * 2) == [Listed(7, 4096, "system", "weights")] * 2
    assert dmabufs.parsed(b"") == []


def test_the_iterators_program_jumps_to_its_end() -> None:
    names = ("size", "file", "exporter", "name", "inode", "ino")
    code = dmabufs.assembled(dict(zip(names, range(8, 56, 8), strict=True)))
    lines = [struct.unpack("=BBhi", code[n : n + 8]) for n in range(0, len(code), 8)]
    assert len(code) % 8 == 0
    assert lines[-1][0] == 0x95  # exit
    (at,) = (n for n, line in enumerate(lines) if line[0] == 0x15)
    assert at + 1 + lines[at][2] == len(lines) - 2  # r0 = 0
    assert [line[3] for line in lines if line[0] == 0x85] == [115, 115, 127]


def test_rows_of_a_recording(tree: Tree, tmp_path: Path) -> None:
    listed = [Listed(9, 1 << 30, "system", "orphan")]
    held = inventory.take(tree.root, lambda: listed)
    rows = inventory.rows(held, 1, 5)
    assert {name for row in rows for name in row} == {col.name for col in TABLES["inventory"]}
    with Writer.create(tmp_path / "a.dmt", synthetic.META) as writer:
        synthetic.write_load(writer, 1, "udmabuf-dio", inventory=held.source)
        synthetic.write_load(writer, 2, "memfd-dio", inventory=held.source)
        synthetic.write_load(writer, 3, "anon-bio")
        writer.append("inventory", rows)
    found = document(Recording.open(tmp_path / "a.dmt"))
    first, second, third = (load["inventory"] for load in found["loads"])
    assert first["source"] == "BPF iterator"
    assert [buffer["ino"] for buffer in first["buffers"]] == [7, 8, 9]
    assert first["buffers"][0]["holders"] == [
        {"pid": 10, "comm": "maker", "fds": 2, "mapped": 3 << 20},
        {"pid": 11, "comm": "heir", "fds": 1, "mapped": 0},
    ]
    assert first["buffers"][2]["holders"] == []
    assert second == {"source": "BPF iterator", "buffers": []}
    assert third is None
    json.dumps(found)
    text = " ".join(report_text.render(found).split())
    assert "dma-bufs at the end of a load (BPF iterator)" in text
    assert '3 MiB of system "weights": maker 10 (2 fds, maps 3 MiB), heir 11 (1 fd)' in text
    assert 'orphan": no process holds it' in text


@pytest.mark.parametrize("source", ["proc", "debugfs", "BPF iterator"])
def test_the_verbs_text(tree: Tree, source: str) -> None:
    found = inventory.take(tree.root, _none)
    long = Buffer(99, None, "a" * 40, "n" * 200, (Holder(1, "x", tuple(range(60)), 0),), ("npu",))
    held = inventory.Inventory((*found.buffers, long), source, source != "proc", 2)
    lines = list(verb.text(held, Style()))
    assert [line for line in lines if len(line) > WIDTH] == []
    text = "\n".join(lines)
    assert "maker (10): fd 3, 5; maps 3 MiB" in text
    assert "device npu is attached" in text
    assert "3 dma-bufs, 8 MiB and 1 of unknown size" in text
    assert "2 processes may not be looked at" in " ".join(text.split())
    assert ("no process holds are not among them" in " ".join(text.split())) is (source == "proc")
    assert verb.document(held)["buffers"][0]["holders"][1] == {
        "pid": 11, "comm": "heir", "fds": (4,), "mapped": 0,
    }  # fmt: skip


def test_no_buffers() -> None:
    (line,) = verb.text(inventory.Inventory((), "debugfs", True, 0), Style())
    assert line == "0 dma-bufs, 0 B; source: /sys/kernel/debug/dma_buf/bufinfo."


def test_where_the_kernel_lists_every_buffer_and_has_none_no_process_is_looked_at(
    tmp_path: Path,
) -> None:
    """There is no /proc here that could be."""
    held = inventory.take(tmp_path, listed=list)
    assert (held.buffers, held.complete, held.unseen) == ((), True, 0)
    with pytest.raises(FileNotFoundError):
        inventory.take(tmp_path, listed=_none)
