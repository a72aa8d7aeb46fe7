"""How traced processes take the bytes of large files: the kernel side's sums, as rows.

The BPF program sums reads by process, file and way (map ``ways``), knows by
their addresses what they go into (map ``regions``), and reports the system calls
that prepare a load.  What a process had mapped and open before it was followed is
in /proc.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import platform
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dmatrace import formats
from dmatrace.bpf import layout
from dmatrace.bpf.maps import Map
from dmatrace.bpf.offsets import call_name
from dmatrace.session.machine import mounted_as

Row = dict[str, Any]
Key = tuple[int, int]  # (dev, ino), dev the kernel's dev_t

SCALE = 1 << 20  # bytes, as in bpf/ways.c: smaller files are not loaded at scale
_SAMPLE_S = 0.5
_MACHINE = platform.machine()
_INT64 = (1 << 63) - 1


class Source(Protocol):
    """What is asked of a loaded program."""

    def table(self, name: str) -> Map | None: ...


def call_row(data: bytes, load_id: int) -> Row:
    """A row of table ``calls`` from an EV_CALL record."""
    call = layout.Call.from_buffer_copy(data)
    return {
        "t_ns": call.at,
        "load_id": load_id,
        "tid": call.tid,
        "tgid": call.tgid,
        "what": layout.CALLS[call.what],
        "target": layout.TARGETS[call.kind],
        "dev": call.dev,
        "ino": call.ino,
        "size": min(call.size, _INT64),
        "address": call.address,
        "length": min(call.length, _INT64),
        "flags": call.flags,
        "prot": call.prot,
        "fd": call.fd,
        "exporter": call.exporter.decode(errors="replace"),
        "other": call.other,
        "other_dev": call.other_dev,
        "path": call.path.decode(errors="surrogateescape"),
    }


def way_row(key: layout.WayKey, way: layout.Way) -> Row:
    """A row of table ``ways`` without time and load; ``sizes`` counts calls by size class."""
    return {
        "tgid": key.tgid,
        "dev": key.file.dev,
        "ino": key.file.ino,
        "size": min(way.size, _INT64),
        "way": layout.WAY_PATHS[key.path],
        "call": _call(key),
        "target": layout.TARGETS[key.kind],
        "to_dev": key.to_dev,
        "to_ino": key.to,
        "o_direct": bool(key.flags & layout.WAY_O_DIRECT),
        "dontcache": bool(key.flags & layout.WAY_DONTCACHE),
        "fixed": bool(key.flags & layout.WAY_FIXED),
        "worker": bool(key.flags & layout.WAY_WORKER),
        "late": int(bool(key.flags & layout.WAY_LATE)),
        "calls": way.calls,
        "bytes": way.bytes,
        "first_ns": way.first,
        "last_ns": way.last,
        "begun": way.begun,
        "depth": way.depth,
        "deepest": way.deepest,
        "largest": way.largest,
        "sizes": json.dumps(list(way.sizes)),
    }


def _call(key: layout.WayKey) -> str:
    """The system call's name, "worker" of a kernel thread's, "" where there was none."""
    if key.flags & layout.WAY_WORKER:
        return "worker"
    if key.call == layout.NO_CALL:
        return ""
    return call_name(_MACHINE, key.call) or f"system call {key.call}"


@dataclass
class _File:
    """What is known of a file, beside its reads."""

    path: str = ""
    opened: str = ""  # by what it can be opened
    format: str | None = None


class Ways:
    """The rows of one recording: ``expect`` and ``follow`` each process, ``sample`` now and then.

    ``append`` is a writer's; ``load_of`` says whose a process's rows are.
    """

    def __init__(
        self,
        program: Source,
        append: Callable[[str, list[Row]], None],
        load_of: Callable[[int], int],
        root: Path = Path("/"),
    ) -> None:
        self._program = program
        self._append = append
        self._load_of = load_of
        self._root = root
        self._sampled = 0.0
        self._known: dict[int, bytes] = {}
        self._last: dict[bytes, tuple[bytes, int, str]] = {}
        self._files: dict[Key, _File] = {}
        self._touched: dict[int, set[Key]] = {}

    def touched(self, load_id: int) -> set[Key]:
        """The files that one has read, written or mapped, as far as they were sampled."""
        return self._touched.get(load_id, set())

    @property
    def paths(self) -> dict[Key, str]:
        """Paths of files as they were opened, which is known of one that was open for a moment."""
        found = ((key, file.path) for key, file in self._files.items())
        return {key: path for key, path in found if path.startswith("/")}

    def expect(self, pid: int) -> None:
        """Before process ``pid`` is followed: its reads are counted from the first event on."""
        self._know(pid, self._mapped(pid))

    def _mapped(self, pid: int) -> list[Row]:
        found = mapped(pid, self._root)
        return [row for row in found if row["target"] != "file" or row["length"] >= SCALE]

    def _know(self, pid: int, found: list[Row]) -> None:
        """What reads may go into; not anew where nothing changed: it is kept in the kernel now."""
        regions = layout.Regions()
        free = 0
        for row in found:
            if not row["flags"] & mmap.MAP_SHARED:
                continue
            if free == layout.REGIONS_MAX:
                regions.missed += 1
                continue
            region = regions.at[free]
            region.start, region.end = row["address"], row["address"] + row["length"]
            region.ino, region.dev = row["ino"], row["dev"]
            region.kind = layout.TARGETS.index(row["target"])
            free += 1
        table = self._program.table("regions")
        if table is not None and self._known.pop(pid, None) != bytes(regions):
            table[ctypes.c_uint32(pid)] = table.Leaf.from_buffer_copy(regions)
            self._known[pid] = bytes(regions)

    def follow(self, pid: int) -> None:
        """What process ``pid``, which is followed now, has mapped and open already.

        Nothing if it has ended.
        """
        now = time.monotonic_ns()
        head = {"t_ns": now, "load_id": self._load_of(pid), "tid": pid, "tgid": pid}
        found = self._mapped(pid)
        self._know(pid, found)
        self._known.pop(pid, None)
        rows: list[Row] = [{**head, "what": "mapped", **each} for each in found]
        rows += [{**head, "what": "held", **found} for found in held(pid, self._root)]
        for row in rows:
            self.learn(row)
        if rows:
            self._append("calls", rows)

    def learn(self, row: Row) -> None:
        """Take note of the path that a row of table ``calls`` names."""
        path = row.get("path", "")
        if not path or row["target"] != "file":
            return
        if not path.startswith("/"):
            with contextlib.suppress(OSError):
                path = os.path.join(os.readlink(self._root / f"proc/{row['tgid']}/cwd"), path)
        file = self._files.setdefault((row["dev"], row["ino"]), _File())
        file.path = file.path or path

    def sample(self, named: Mapping[Key, str], *, last: bool = False) -> None:
        """Write the ways that changed, every half second, or now where it is the ``last`` time."""
        if not last and time.monotonic() - self._sampled < _SAMPLE_S:
            return
        self._sampled = time.monotonic()
        table = self._program.table("ways")
        if table is None:
            return
        head = {"t_ns": time.monotonic_ns()}
        rows = []
        for raw_key, raw in table.items():
            key, value = bytes(raw_key), bytes(raw)
            way = layout.WayKey.from_buffer_copy(key)
            load_id = self._load_of(way.tgid)
            self._touched.setdefault(load_id, set()).add((way.file.dev, way.file.ino))
            file = self._described((way.file.dev, way.file.ino), way.tgid, named)
            # Its birth and its file's name may come to us after its first reads.
            now = value, load_id, file["path"]
            if load_id < 0 or self._last.get(key) == now:
                continue
            self._last[key] = now
            row = way_row(way, layout.Way.from_buffer_copy(value))
            rows.append({**head, "load_id": load_id, **row, **file})
        if rows:
            self._append("ways", rows)

    def forget(self) -> None:
        """Let the sums start at nothing: for a recorder of one load after the other."""
        table = self._program.table("ways")
        if table is not None:
            table.clear()
        self._last.clear()

    def _described(self, key: Key, pid: int, named: Mapping[Key, str]) -> Row:
        file = self._files.setdefault(key, _File())
        file.path = file.path or named.get(key, "")
        if file.format is None and file.path:
            # As the process sees it, if it is there; it may live in another mount namespace.
            for path in (f"{self._root}/proc/{pid}/root{file.path}", file.path):
                head = _head(path, key)
                if head is not None:
                    file.format = formats.recognised(file.path, head)
                    break
        return {"path": file.path, "format": file.format or formats.recognised(file.path, b"")}


def _head(path: str, key: Key) -> bytes | None:
    """The first bytes of a regular file, past the page cache where that can be; None: not it."""
    fd = -1
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or _key(status) != key:
            return None
        with mmap.mmap(-1, mmap.PAGESIZE) as page, contextlib.suppress(OSError):
            direct = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
            try:
                if os.preadv(direct, [page], 0) >= formats.HEAD:
                    return page[: formats.HEAD]
            finally:
                os.close(direct)
        # One page, not a readahead window of them.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        return os.pread(fd, formats.HEAD, 0)
    except OSError:
        return None
    finally:
        os.close(fd)


def mapped(pid: int, root: Path = Path("/")) -> Iterator[Row]:
    """What a process has mapped of files, dma-bufs and devices; proc_pid_maps(5)."""
    try:
        lines = (root / f"proc/{pid}/maps").read_text(errors="replace").splitlines()
    except OSError:
        return
    kinds: dict[str, str] = {}  # of a library there are five mappings
    for line in lines:
        place, perms, offset, dev, inode, *path = line.split(maxsplit=5)
        name = path[0] if path else ""
        if inode == "0" or name.startswith("/dev/zero"):
            continue  # anonymous, shared memory without a name too
        start, end = (int(address, 16) for address in place.split("-"))
        major, minor = (int(number, 16) for number in dev.split(":"))
        # Addresses there have no leading zeros.
        target = kinds.get(name)
        if target is None:
            target = kinds[name] = _kind(name, root / f"proc/{pid}/map_files/{start:x}-{end:x}")
        if not target:
            continue
        yield {
            "target": target, "dev": layout.kernel_dev(major, minor), "ino": int(inode),
            "size": 0, "address": start, "length": end - start, "path": name,
            "flags": mmap.MAP_SHARED if perms[3] == "s" else mmap.MAP_PRIVATE,
            "prot": sum(bit for bit, char in zip((1, 2, 4), perms, strict=False) if char != "-"),
            "fd": -1, "exporter": "", "other": int(offset, 16), "other_dev": 0,
        }  # fmt: skip


def _kind(name: str, link: Path) -> str:
    """What a mapping's file is, a name of TARGETS; "" where it is of no concern."""
    if name.startswith("/dmabuf:"):
        return "dmabuf"
    if name.startswith(("/memfd:", "/SYSV", "/dev/shm/")):
        return "shmem"
    if not name.startswith("/"):
        return ""
    with contextlib.suppress(OSError):
        if stat.S_ISCHR(os.stat(link).st_mode):
            return "device"
    kind = mounted_as(name).partition(" ")[0]
    return "shmem" if kind in ("tmpfs", "hugetlbfs", "devtmpfs") else "file"


def held(pid: int, root: Path = Path("/")) -> Iterator[Row]:
    """Large files and dma-bufs that a process has open; flags as of open(2)."""
    directory = root / f"proc/{pid}/fd"
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            path, status = os.readlink(directory / name), os.stat(directory / name)
            if path.startswith("/dmabuf:"):
                target = "dmabuf"
            elif path.startswith("/") and stat.S_ISREG(status.st_mode):
                target = "file" if not path.startswith("/memfd:") else "shmem"
            else:
                continue
            if target == "file" and status.st_size < SCALE:
                continue
            info = (root / f"proc/{pid}/fdinfo/{name}").read_text()
            fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
            dev, ino = _key(status)
            yield {
                "target": target, "dev": dev, "ino": ino,
                "size": int(fields.get("size", status.st_size)), "address": 0, "length": 0,
                "path": path, "flags": int(fields["flags"], 8), "prot": 0, "fd": int(name),
                "exporter": fields.get("exp_name", "").strip(), "other": 0, "other_dev": 0,
            }  # fmt: skip


def _key(status: os.stat_result) -> Key:
    return layout.kernel_dev(os.major(status.st_dev), os.minor(status.st_dev)), status.st_ino


def learned(ways: Ways | None, rows: Iterable[Row]) -> None:
    """Let ``ways``, if there are any, take note of rows of table ``calls``."""
    for row in rows if ways else ():
        if row["what"] == "open":
            assert ways is not None
            ways.learn(row)
