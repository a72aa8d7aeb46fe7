"""Every dma-buf of the machine, and which processes hold it.

The list comes from the best source this kernel has and this user may read, and
is named: the BPF iterator over dma-bufs, else the kernel's own list in debugfs,
else what the processes' files in /proc show.  Who holds a buffer is always read
from /proc: a descriptor (/proc/PID/fdinfo) or a mapping (/proc/PID/maps) keeps
it alive.  One that no process holds is kept by a device that is attached to it,
or by a message that carries its descriptor.

Nothing stops meanwhile: a buffer that comes or goes during the look may be
missing or without holders.  Descriptors of a thread that shares its files with
no other (CLONE_FILES unset) are not seen.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmatrace.bpf import dmabufs
from dmatrace.errors import CannotHere

PROC, DEBUGFS = "proc", "debugfs"
_BUFINFO = "sys/kernel/debug/dma_buf/bufinfo"
# dmabuffs_dname() of drivers/dma-buf/dma-buf.c: "/dmabuf:" and the buffer's name.
_PATH = "/dmabuf:"
# dma_buf_debug_show(): size, flags, mode, count, exporter, inode number, name.
_LINE = re.compile(r"(\d+)\t[0-9a-f]+\t[0-9a-f]+\t(-?\d+)\t([^\t]*)\t(\d+)\t(.*)")
_NO_NAME = "<none>"


@dataclass(frozen=True)
class Holder:
    """A process that keeps a buffer alive: its descriptors, and the bytes it maps."""

    pid: int
    comm: str
    fds: tuple[int, ...]
    mapped: int


@dataclass(frozen=True)
class Buffer:
    """A dma-buf: inode number (its identity), bytes, exporter, the name a user gave it.

    ``size`` None and ``exporter`` "" are not known, ``devices`` None is not seen:
    those of an attached device are in debugfs alone.
    """

    ino: int
    size: int | None
    exporter: str
    name: str
    holders: tuple[Holder, ...]
    devices: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Inventory:
    """The buffers, where the list is from, and how many processes this user may not look at.

    ``complete``: the list has every buffer, also those that no process holds.
    """

    buffers: tuple[Buffer, ...]
    source: str
    complete: bool
    unseen: int


@dataclass
class _Found:
    """What is known of a buffer so far."""

    size: int | None = None
    exporter: str = ""
    name: str = ""
    devices: tuple[str, ...] | None = None
    fds: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    mapped: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))


def buffers(root: Path = Path("/")) -> list[Buffer]:
    """Every dma-buf this user may see, oldest first."""
    return list(take(root).buffers)


def take(
    root: Path = Path("/"), listed: Callable[[], list[dmabufs.Listed]] = dmabufs.listed
) -> Inventory:
    """The inventory now; ``root`` is where /proc and /sys are."""
    found: defaultdict[int, _Found] = defaultdict(_Found)
    source = PROC
    text = _read(root / _BUFINFO)
    if text is not None:
        source = DEBUGFS
        for ino, said in parse_bufinfo(text):
            found[ino] = said
    # The iterator is the interface that is meant for this; debugfs adds the devices.
    with contextlib.suppress(CannotHere, OSError):
        for each in listed():
            known = found[each.ino]
            known.size, known.exporter, known.name = each.size, each.exporter, each.name
        source = dmabufs.SOURCE
    complete = source != PROC
    # Where the kernel lists every buffer, and has none, nobody holds one.
    names, unseen = _processes(root / "proc", found) if found or not complete else ({}, 0)
    result = tuple(_buffer(ino, found[ino], names) for ino in sorted(found))
    return Inventory(result, source, complete, unseen)


def rows(held: Inventory, load_id: int, now: int) -> list[dict[str, Any]]:
    """The inventory as rows of a recording's table, taken at ``now`` (ns)."""
    nobody = Holder(0, "", (), 0)
    return [
        {
            "t_ns": now,
            "load_id": load_id,
            "ino": each.ino,
            "size": -1 if each.size is None else each.size,
            "exporter": each.exporter,
            "name": each.name,
            "pid": holder.pid,
            "comm": holder.comm,
            "fds": len(holder.fds),
            "mapped": holder.mapped,
            "devices": "" if each.devices is None else json.dumps(each.devices),
        }
        for each in held.buffers
        for holder in each.holders or (nobody,)
    ]


def _buffer(ino: int, found: _Found, names: dict[int, str]) -> Buffer:
    holders = tuple(
        Holder(pid, names[pid], tuple(sorted(found.fds.get(pid, ()))), found.mapped.get(pid, 0))
        for pid in sorted({*found.fds, *found.mapped})
        if pid in names  # else it ended meanwhile
    )
    return Buffer(ino, found.size, found.exporter, found.name, holders, found.devices)


def parse_bufinfo(text: str) -> Iterable[tuple[int, _Found]]:
    """(inode number, what it says of it) for each buffer in debugfs's dma_buf/bufinfo."""
    current: _Found | None = None
    attached: list[str] = []
    inside = False
    for line in text.splitlines():
        head = _LINE.fullmatch(line)
        if head:
            size, _count, exporter, ino, name = head.groups()
            attached, inside = [], False
            current = _Found(int(size), exporter, "" if name == _NO_NAME else name, ())
            yield int(ino), current
        elif line.strip() == "Attached Devices:":
            inside = True
        elif line.startswith("Total ") and inside:
            inside = False
        elif inside and current is not None and line.strip():
            attached.append(line.strip())
            current.devices = tuple(attached)


def _processes(proc: Path, found: defaultdict[int, _Found]) -> tuple[dict[int, str], int]:
    """Add each process's descriptors and mappings; ({pid: comm}, how many may not be read)."""
    unseen = 0
    for entry in sorted(os.listdir(proc)):
        if entry.isdecimal():
            try:
                _descriptors(f"{proc}/{entry}", int(entry), found)
                _mappings(f"{proc}/{entry}", int(entry), found)
            except PermissionError:
                unseen += 1
            except (FileNotFoundError, ProcessLookupError):  # it ended
                continue
    holding = {pid for each in found.values() for pid in (*each.fds, *each.mapped)}
    names = {pid: _read(proc / str(pid) / "comm") for pid in holding}
    return {pid: name.strip() for pid, name in names.items() if name is not None}, unseen


def _descriptors(place: str, pid: int, found: defaultdict[int, _Found]) -> None:
    # Strings, not Path: hundreds of processes have thousands of descriptors.
    for number in os.listdir(f"{place}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if not os.readlink(f"{place}/fd/{number}").startswith(_PATH):
                continue
            said = parse_fdinfo(Path(place, "fdinfo", number).read_text(errors="replace"))
            if "exp_name" not in said:  # a file that is called so
                continue
            # In fdinfo since commit 3845f256a8b5 "procfs/dmabuf: add inode number to
            # /proc/*/fdinfo" (in v5.14).
            ino = int(said["ino"]) if "ino" in said else os.stat(f"{place}/fd/{number}").st_ino
            known = found[ino]
            known.size, known.exporter = int(said["size"]), said["exp_name"]
            known.name = said.get("name", known.name)
            known.fds[pid].append(int(number))


def parse_fdinfo(text: str) -> dict[str, str]:
    """The fields of /proc/PID/fdinfo/FD (dma_buf_show_fdinfo() adds size, exp_name and name)."""
    fields = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name: value.strip() for name, value in fields}


def _mappings(place: str, pid: int, found: defaultdict[int, _Found]) -> None:
    with open(f"{place}/maps", "rb") as file:
        maps = file.read()
    if _PATH.encode() not in maps:
        return
    for line in maps.decode(errors="replace").split("\n"):
        if _PATH not in line:
            continue
        span, _mode, _offset, device, ino, path = line.split(maxsplit=5)
        # The file system of dma-bufs has no device, so no file of a disk is meant.
        if not path.startswith(_PATH) or not device.startswith("00:"):
            continue
        start, end = (int(address, 16) for address in span.split("-"))
        known = found[int(ino)]
        known.mapped[pid] += end - start
        known.name = known.name or path.removeprefix(_PATH)
        if known.size is None:
            # Followed by whoever may checkpoint processes; the inode has the buffer's size.
            with contextlib.suppress(OSError):
                known.size = os.stat(f"{place}/map_files/{span}").st_size


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None
