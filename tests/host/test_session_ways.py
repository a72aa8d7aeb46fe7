"""What a process had mapped and open before it was followed, and rows of the kernel's sums."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
from pathlib import Path
from typing import Any

from dmatrace.bpf import layout
from dmatrace.recording.schema import TABLES
from dmatrace.session import ways
from dmatrace.session.ways import Ways, held, mapped, way_row

MIB = 1 << 20


class _Map(dict[Any, Any]):
    """A map of bytes, as bpf.maps.Map is one of ctypes."""

    Leaf = layout.Regions

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(bytes(key), value)


class _Program:
    def __init__(self) -> None:
        self.maps = {"ways": _Map(), "regions": _Map()}

    def table(self, name: str) -> Any:
        return self.maps[name]


class _Recorded:
    """A program's maps, and what is written of them."""

    def __init__(self) -> None:
        self.program = _Program()
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.ways = Ways(self.program, self._append, lambda pid: pid + 1)

    def _append(self, table: str, rows: list[dict[str, Any]]) -> None:
        names = {column.name for column in TABLES[table]}
        assert all(set(row) == names for row in rows)
        self.rows.setdefault(table, []).extend(rows)


def test_this_process_as_proc_shows_it(tmp_path: Path) -> None:
    """A memfd mapped for sharing takes reads; a file mapped privately does not, but is told."""
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF" + bytes(2 * MIB))
    recorded = _Recorded()
    fd = os.memfd_create("buffer")
    os.truncate(fd, MIB)
    private = {"flags": mmap.MAP_PRIVATE, "prot": mmap.PROT_READ}
    with (
        mmap.mmap(fd, MIB),
        mmap.mmap(-1, MIB),
        model.open("rb") as file,
        mmap.mmap(file.fileno(), 0, **private),
    ):
        recorded.ways.expect(os.getpid())
        assert recorded.rows == {}
        before = list(map(bytes, recorded.program.maps["regions"].values()))
        recorded.program.maps["regions"].clear()
        recorded.ways.follow(os.getpid())
        # Nothing changed: what the kernel keeps by now is not written over.
        assert not recorded.program.maps["regions"]
        recorded.ways.follow(os.getpid())
        assert list(map(bytes, recorded.program.maps["regions"].values())) == before
    rows = recorded.rows["calls"]
    assert {row["load_id"] for row in rows} == {os.getpid() + 1}
    status, memfd = model.stat(), os.fstat(fd)
    assert len(rows) % 2 == 0
    rows = rows[: len(rows) // 2]
    (mine,) = (r for r in rows if r["what"] == "mapped" and r["path"] == str(model))
    assert (mine["target"], mine["ino"], mine["prot"]) == ("file", status.st_ino, mmap.PROT_READ)
    assert (mine["flags"], mine["length"]) == (mmap.MAP_PRIVATE, 2 * MIB + mmap.PAGESIZE)
    assert mine["dev"] == layout.kernel_dev(os.major(status.st_dev), os.minor(status.st_dev))
    # Python's mmap keeps a descriptor of its own.
    opened = next(r for r in rows if r["what"] == "held" and r["path"] == str(model))
    assert (opened["size"], opened["ino"]) == (status.st_size, status.st_ino)
    (shared,) = (r for r in rows if r["what"] == "mapped" and r["target"] == "shmem")
    assert (shared["ino"], shared["length"]) == (memfd.st_ino, MIB)
    (regions,) = recorded.program.maps["regions"].values()
    assert [(r.ino, r.end - r.start) for r in regions.at if r.end] == [(memfd.st_ino, MIB)]
    assert layout.TARGETS[regions.at[0].kind] == "shmem"
    os.close(fd)


def test_a_process_that_has_ended_has_nothing() -> None:
    assert list(mapped(4_000_000)) == list(held(4_000_000)) == []
    recorded = _Recorded()
    recorded.ways.follow(4_000_000)
    assert recorded.rows == {}


def _way(tgid: int, status: os.stat_result, **more: int) -> tuple[bytes, bytes]:
    dev = layout.kernel_dev(os.major(status.st_dev), os.minor(status.st_dev))
    key = layout.WayKey(
        file=layout.FileKey(ino=status.st_ino, dev=dev), tgid=tgid, call=17, path=1, kind=1,
        flags=layout.WAY_DONTCACHE,
    )  # fmt: skip
    return bytes(key), bytes(layout.Way(**{"calls": 2, "bytes": MIB, "size": MIB} | more))


def test_a_row_for_each_way_that_changed(tmp_path: Path) -> None:
    """With its path from the open call, and its format from the file's own bytes."""
    model = tmp_path / "weights"
    model.write_bytes(b"GGUF" + bytes(MIB - 4))
    recorded = _Recorded()
    table = recorded.program.maps["ways"]
    key, value = _way(os.getpid(), model.stat())
    table[key] = value
    call = layout.Call(what=1, kind=5, tgid=os.getpid(), path=str(model).encode())
    call.ino = model.stat().st_ino
    call.dev = layout.WayKey.from_buffer_copy(key).file.dev
    ways.learned(recorded.ways, [ways.call_row(bytes(call), 1)])
    recorded.ways.sample({}, last=True)
    recorded.ways.sample({}, last=True)
    (row,) = recorded.rows["ways"]
    assert (row["path"], row["format"], row["load_id"]) == (str(model), "GGUF", os.getpid() + 1)
    assert (row["way"], row["call"], row["target"]) == ("buffered", "pread64", "anonymous")
    assert (row["dontcache"], row["o_direct"], row["bytes"]) == (True, False, MIB)
    table[key] = _way(os.getpid(), model.stat(), calls=3)[1]
    recorded.ways.sample({})  # too early
    recorded.ways.sample({}, last=True)
    assert [row["calls"] for row in recorded.rows["ways"]] == [2, 3]


def test_a_relative_name_and_another_file_at_that_path(tmp_path: Path) -> None:
    """The format is that of the file that was read, not of one that has its name now."""
    model = tmp_path / "model.gguf"
    model.write_bytes(b"x" * 100)
    gone = model.stat()
    recorded = _Recorded()
    key, value = _way(4_000_000, gone)
    recorded.program.maps["ways"][key] = value
    model.unlink()
    (tmp_path / "other").write_bytes(b"x")
    model.write_bytes(b"TFL3" * 100)
    dev = layout.WayKey.from_buffer_copy(key).file.dev
    recorded.ways.sample({(dev, gone.st_ino): str(model)}, last=True)
    (row,) = recorded.rows["ways"]
    assert row["path"] == str(model)
    if model.stat().st_ino != gone.st_ino:
        assert row["format"] == "GGUF (by name)"
    os.chdir(tmp_path)
    said = {"path": "other", "target": "file", "tgid": os.getpid(), "dev": 1, "ino": 2}
    recorded.ways.learn(said)
    recorded.program.maps["ways"].clear()
    odd = layout.WayKey(file=layout.FileKey(ino=2, dev=1), call=layout.NO_CALL, path=4)
    recorded.program.maps["ways"][bytes(odd)] = value
    recorded.ways.sample({}, last=True)
    assert recorded.rows["ways"][-1]["path"] == str(tmp_path / "other")
    assert recorded.rows["ways"][-1]["call"] == ""


def test_names_of_calls_and_sizes() -> None:
    worker = layout.WayKey(call=layout.NO_CALL, flags=layout.WAY_WORKER)
    sizes = (ctypes.c_uint32 * layout.SIZES_MAX)(*range(layout.SIZES_MAX))
    row = way_row(worker, layout.Way(sizes=sizes))
    assert row["call"] == "worker"
    assert json.loads(row["sizes"]) == list(range(layout.SIZES_MAX))
    assert way_row(layout.WayKey(call=999), layout.Way())["call"] == "system call 999"
