"""The memory ledger over time: samples of the kernel's maps, /proc/pressure and /proc/vmstat.

Whoever records makes one, calls ``begin()`` when tracing starts to count,
``sample()`` as often as it likes (it looks at the clock itself) and ``end()``.
Rows are written where a value changed, and in full at begin and end, so that a
reader knows every value at both.  Times are CLOCK_MONOTONIC ns, amounts bytes.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from dmatrace.bpf import layout
from dmatrace.session.pagecounts import Key, PageCounts, gone
from dmatrace_loaders import kernel

INTERVAL_S = 0.1
_NAMES_S = 1.0  # paths of files are looked for this often while one is not known
_TRIES = 8  # for two looks at a file between which nothing changed
_QUIET = 3  # such pairs of looks, of which the least says what was cached
_PAUSE_S = 0.002  # between them: longer than a folio takes from the cache to its count

Row = dict[str, Any]

# Counters of /proc/vmstat that say what reclaim did; those a kernel lacks are left out.
VMSTAT = (
    "pgscan_kswapd", "pgscan_direct", "pgscan_anon", "pgscan_file",
    "pgsteal_kswapd", "pgsteal_direct", "pgsteal_anon", "pgsteal_file",
    "workingset_refault_anon", "workingset_refault_file",
    "pswpin", "pswpout", "pgmajfault", "drop_pagecache",
)  # fmt: skip
_VMSTAT = frozenset(VMSTAT)
PRESSURE = ("memory", "io")


class Source(Protocol):
    """What the ledger asks of a tracer."""

    load_id: int
    pages: PageCounts

    def elsewhere(self) -> dict[str, int]: ...
    def pinned(self) -> dict[str, int]: ...


class Sink(Protocol):
    """What it asks of a recording's writer."""

    def append(self, table: str, rows: list[Row]) -> None: ...
    def update_meta(self, /, **values: Any) -> None: ...


class Ledger:
    """Samples what a tracer counts into a recording, ``interval`` seconds apart.

    ``pids`` names the traced processes: their open and mapped files give the
    ledger's files a path, and what was cached of them before.
    """

    def __init__(
        self,
        tracer: Source,
        writer: Sink,
        interval: float = INTERVAL_S,
        pids: Callable[[], Iterable[int]] = tuple,
        root: Path = Path("/"),
    ) -> None:
        self.interval = interval
        self._tracer = tracer
        self._writer = writer
        self._pids = pids
        self._root = root
        self._active = False
        self._sampled = self._named = 0.0
        self._last: dict[tuple[str, str], int] = {}
        self._pages: dict[Key, bytes] = {}
        self._base: dict[Key, int] = {}
        self._going: dict[Key, bytes] = {}  # gone, as the last sample found it
        self._retired: set[Key] = set()
        self._looked_for: set[Key] = set()
        self._paths: dict[Key, str] = {}
        writer.update_meta(
            ledger={"interval_ns": int(interval * 1e9), "unavailable": self._unavailable()}
        )

    def _unavailable(self) -> dict[str, str]:
        """What this kernel does not say, and why."""
        found = {}
        for name in PRESSURE:
            try:
                _pressure(self._root, name)
            except OSError as error:
                found[f"psi {name}"] = (
                    f"/proc/pressure/{name}: {error.strerror}; boot with psi=1, on a kernel with"
                    " CONFIG_PSI=y"
                )
        if not _vmstat(self._root):
            found["vmstat"] = "/proc/vmstat has none of the counters of reclaim"
        if not self._tracer.pages.traced:
            found["page cache"] = "the page-cache ledger is not attached"
        return found

    def begin(self, cached: Mapping[Key, int] | None = None) -> None:
        """Start counting: everything is written once.

        ``cached``: what the page cache had of files at this moment, where the
        caller knows it and the file's count starts at zero now.
        """
        self._tracer.pages.forget_retired()
        for key in self._retired:
            self._base.pop(key, None)
        self._retired.clear()
        self._base.update(cached or {})
        self._looked_for.clear()
        self._last.clear()
        self._pages.clear()
        self._active = True
        self._sample(mark=1)

    def sample(self) -> None:
        """Write what changed, if the interval has passed since the last time."""
        if self._active and time.monotonic() - self._sampled >= self.interval:
            self._sample(mark=0)

    def end(self) -> None:
        """The last sample, in full."""
        if not self._active:
            return
        self._active = False
        self._last.clear()
        self._pages.clear()
        self._sample(mark=1)

    def current(self, key: Key) -> int | None:
        """Bytes of a file that were cached when its count began, if that is known."""
        return self._base.get(key)

    def _sample(self, mark: int) -> None:
        self._sampled = time.monotonic()
        load_id = self._tracer.load_id
        pages = self._tracer.pages.live()
        now = time.monotonic_ns()
        values = {("sample", "mark"): mark}
        values |= {("pinned", name): value for name, value in self._tracer.pinned().items()}
        values |= {("elsewhere", how): n for how, n in self._tracer.elsewhere().items()}
        values |= {("vmstat", name): n for name, n in _vmstat(self._root).items()}
        for resource in PRESSURE:
            with contextlib.suppress(OSError):
                for kind, ns in _pressure(self._root, resource).items():
                    values["psi", f"{resource}.{kind}"] = ns
        head = {"t_ns": now, "load_id": load_id}
        # The mark is in every sample: readers know by it when there was one.
        self._append(
            "ledger",
            [
                {**head, "what": what, "name": name, "value": _int64(value)}
                for (what, name), value in values.items()
                if what == "sample" or self._last.get((what, name)) != value
            ],
        )
        self._last = values
        self._find(pages, head, last=bool(mark))
        self._append("page_cache", list(self._changed(pages, head)))
        self._retire(pages)

    def _retire(self, pages: Mapping[Key, layout.FilePages]) -> None:
        """Forget files that are gone, once nothing has changed of them since the last sample."""
        going = {
            key: bytes(found) for key, found in pages.items() if gone(found, self._base.get(key, 0))
        }
        for key in (key for key, raw in going.items() if self._going.get(key) == raw):
            if self._tracer.pages.retire(*key):
                self._retired.add(key)
                self._paths.pop(key, None)  # of a file that gets its number
                self._pages.pop(key, None)
        self._going = going

    def _changed(self, pages: Mapping[Key, layout.FilePages], head: Row) -> Iterator[Row]:
        for key, found in pages.items():
            raw = bytes(found)
            if self._pages.get(key) == raw:
                continue
            self._pages[key] = raw
            yield {**head, **page_cache_row(key, found, self._base.get(key))}

    def _find(self, pages: Mapping[Key, layout.FilePages], head: Row, *, last: bool) -> None:
        """Paths of files seen for the first time, and what was cached of them before."""
        wanted = {key for key, f in pages.items() if key not in self._paths and (f.added or last)}
        if not wanted:
            return
        # One that was not open when it appeared may be opened again.
        known = wanted <= self._looked_for and not last
        if known and time.monotonic() - self._named < _NAMES_S:
            return
        self._named = time.monotonic()
        self._looked_for |= wanted
        rows = []
        for pid in self._pids():
            for key, path, opened in _files_of(pid, self._root):
                if key not in wanted or key in self._paths:
                    continue
                self._paths[key] = path
                rows.append({**head, "dev": key[0], "ino": key[1], "path": path})
                if key not in self._base:
                    self._measure(key, opened)
        self._append("files", rows)

    def _measure(self, key: Key, opened: str) -> None:
        """What was cached of a file before its count began: by cachestat(2), less its count.

        A file that is being read changes between the two: they are taken again until it did
        not, or what it changed by is the uncertainty.  What is on its way in is cached before
        it is counted (__filemap_add_folio; shmem's when shmem_alloc_and_add_folio returns), and
        what is on its way out is counted before it is gone (__filemap_remove_folio): a quiet
        look may say too much and never too little, so the least of several is kept.
        """
        quiet: list[int] = []
        with contextlib.suppress(OSError):
            fd = os.open(opened, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                for _ in range(_TRIES):
                    before = self._tracer.pages.file(*key)
                    found = kernel.cachestat(fd)
                    counted = self._tracer.pages.file(*key)
                    if found is None or before is None or counted is None:
                        return
                    base = max(0, found["cached"] - counted.added + counted.removed)
                    if (before.added, before.removed) == (counted.added, counted.removed):
                        quiet.append(base)
                    self._base[key] = min(quiet, default=base)
                    if len(quiet) == _QUIET or 0 in quiet:
                        return
                    if quiet:
                        time.sleep(_PAUSE_S)
            finally:
                os.close(fd)

    def _append(self, table: str, rows: list[Row]) -> None:
        if rows:
            self._writer.append(table, rows)


def page_cache_row(key: Key, found: layout.FilePages, base: int | None) -> Row:
    """A file's columns of table page_cache; ``base`` is what was cached before, if known."""
    row: Row = {
        "dev": key[0],
        "ino": key[1],
        "kind": "shmem" if found.shmem else "file",
        "based": base is not None or bool(found.shmem),
        "current": (base or 0) + found.added - found.removed,
        "peak": (base or 0) + found.peak,
    }
    for name in ("added", "removed", "removed_self", "added_self", "readahead", "refaulted"):
        row[name] = getattr(found, name)
    for number, how in enumerate(layout.REMOVALS):
        if how != "other":
            row[f"removed_{how}"] = found.by[number]
            row[f"self_{how}"] = found.self_by[number]
    return row


def _int64(value: int) -> int:
    return min(value, (1 << 63) - 1)


def _vmstat(root: Path) -> dict[str, int]:
    # Ten times a second: of 180 lines those of a dozen are worth a look.
    found = {}
    with contextlib.suppress(OSError), open(os.path.join(root, "proc/vmstat")) as lines:
        for line in lines:
            name, _, value = line.partition(" ")
            if name in _VMSTAT:
                found[name] = int(value)
    return found


def _pressure(root: Path, name: str) -> dict[str, int]:
    """{some|full: ns so far}; Documentation/accounting/psi.rst, whose total is in us.

    Raises OSError where the kernel has none (ENOENT) or it is off (EOPNOTSUPP).
    """
    found = {}
    with open(os.path.join(root, "proc/pressure", name)) as lines:
        for line in lines:
            kind, *fields = line.split()
            for field in fields:
                if field.startswith("total="):
                    found[kind] = int(field.removeprefix("total=")) * 1000
    return found


def _files_of(pid: int, root: Path) -> Iterator[tuple[Key, str, str]]:
    """(file, its path, what to open it by) of what a process has open or mapped."""
    directory = root / f"proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            with contextlib.suppress(OSError):
                link = directory / name
                status = os.stat(link)
                if stat.S_ISREG(status.st_mode):
                    yield _key(status), os.readlink(link), str(link)
    with contextlib.suppress(OSError):
        seen = set()
        for line in (root / f"proc/{pid}/maps").read_text(errors="replace").splitlines():
            place, _, _, _, inode, *path = line.split(maxsplit=5)
            if inode == "0" or not path or path[0] in seen:
                continue
            seen.add(path[0])
            with contextlib.suppress(OSError):
                # Also of a file that is deleted or in another mount namespace.
                opened = str(root / f"proc/{pid}/map_files/{_range(place)}")
                yield _key(os.stat(opened)), path[0], opened


def _range(place: str) -> str:
    """A map's addresses as map_files names them: without leading zeros."""
    return "-".join(f"{int(address, 16):x}" for address in place.split("-"))


def _key(status: os.stat_result) -> Key:
    return layout.kernel_dev(os.major(status.st_dev), os.minor(status.st_dev)), status.st_ino
