"""``--try``: strategies on the file that a target loaded, right after it, in its recording.

What is tried is measured with the same probes on the same file, with the page cache as
the target found it: cold if most of the file came from the disk, else warm.  The analysis
compares the times; nothing is said of a strategy that did not run.

The target itself may run on with its own copy of the file: what it does then is not
recorded, and memory for one more copy must be there.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmatrace.errors import CannotHere, DmatraceError
from dmatrace.session import files, preflight, source
from dmatrace.session.delays import Delays
from dmatrace.session.plan import raised
from dmatrace.session.progress import Progress
from dmatrace.session.rows import Row
from dmatrace.session.strategies import Recorder, Request
from dmatrace.session.traced import Traced
from dmatrace.sizes import format_size

LEAST = 1 << 20  # bytes: what is smaller is nobody's model
_SPARE = 256 << 20  # bytes of memory that a try leaves to everything else
_ENOUGH = 0.5  # of the file, for a way to be the one it came by

#: How most of the file came -> what to try: the same by our loader, then what avoids its cost.
SUGGESTED: Mapping[str, tuple[str, ...]] = {
    "mapped": ("filemap-bio", "anon-dio", "udmabuf-dio"),
    "buffered": ("anon-bio", "anon-dio", "udmabuf-dio"),
    "direct": ("anon-dio", "udmabuf-dio", "udmabuf-uring-dio"),
}


@dataclass(frozen=True)
class Wanted:
    """What the user asked for: strategies by name, none of them for the suggested ones."""

    strategies: tuple[str, ...] = ()
    raise_limits: bool = False


@dataclass(frozen=True)
class Loaded:
    """The file that a target took most bytes of; sizes in bytes."""

    path: str
    key: files.File
    size: int
    way: str  # a key of SUGGESTED
    cold: bool


def loaded(
    reads: Sequence[Row], added: Mapping[files.File, int], named: Mapping[files.File, str]
) -> Loaded:
    """The file to try on: the one of which most came, by calls or into the page cache.

    ``reads`` are the kernel's rows per file, ``added`` what each file's page cache gained.
    Raises DmatraceError when there is none, or it cannot be opened by its name any more.
    """
    calls = {(row["dev"], row["ino"]): row for row in reads}
    none: Row = {"direct": 0, "buffered": 0, "spliced": 0}

    def direct(key: files.File) -> int:
        return int(calls.get(key, none)["direct"])

    def copied(key: files.File) -> int:
        row = calls.get(key, none)
        return int(row["buffered"]) + int(row["spliced"])

    def taken(key: files.File) -> int:
        return max(direct(key) + copied(key), added.get(key, 0))

    def once(key: files.File) -> int:
        """The same, but of what was read again and again no more than there is."""
        try:
            return min(taken(key), os.stat(named.get(key, "")).st_size)
        except OSError:
            return taken(key)

    # A device by itself has inode 0: its pages are a file system's metadata.
    ranked = sorted((key for key in {*calls, *added} if key[1]), key=once, reverse=True)
    key = next(iter(ranked), None)
    if key is None or taken(key) < LEAST:
        raise DmatraceError(
            f"the target was not seen to load a file of {format_size(LEAST)} or more",
            do="attach before or while it loads; dmatrace report lists the files it read",
        )
    path = named.get(key, "")
    size = _opened_by_name(path, key)
    if size < LEAST:
        raise DmatraceError(
            f"{path} has {format_size(size)}, which is too small to compare", do="try a larger one"
        )
    if direct(key) >= _ENOUGH * taken(key):
        way = "direct"
    else:
        way = "buffered" if copied(key) >= _ENOUGH * taken(key) else "mapped"
    cold = direct(key) + added.get(key, 0) >= _ENOUGH * min(size, taken(key))
    return Loaded(path, key, size, way, cold)


def _opened_by_name(path: str, key: files.File) -> int:
    """The size of the file; DmatraceError unless the name leads to that very file."""
    if not path:
        raise DmatraceError(
            "the file that the target loaded has no name that is known: it was closed at once",
            do="record --strategy NAME --file PATH loads it by itself",
        )
    try:
        found = os.stat(path)
    except OSError as error:
        raise DmatraceError(
            f"cannot open {path}, which the target loaded: {error.strerror}",
            do="a deleted file, or one of another mount namespace, cannot be tried",
        ) from None
    if not stat.S_ISREG(found.st_mode) or files.file_key(found) != key:
        raise DmatraceError(
            f"{path} is not the file that the target loaded any more",
            do="it was replaced, or the target sees another one there (mount namespace)",
        )
    return found.st_size


def available() -> int:
    """MemAvailable of proc_meminfo(5), in bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields["MemAvailable"].split()[0]) * 1024


def check_room(size: int, free: int) -> None:
    """DmatraceError unless a copy of ``size`` bytes leaves some of ``free`` to others."""
    if size + _SPARE > free:
        raise DmatraceError(
            f"no memory to load {format_size(size)} once more: {format_size(free)} are available",
            do="end the target before, or record --strategy NAME --file PATH later",
        )


class Trying:
    """One try: ``run`` after the target's last row is written."""

    def __init__(self, wanted: Wanted, session: Traced, delays: Delays | None, say: Progress):
        self._wanted = wanted
        self._session = session
        self._delays = delays
        self._say = say
        self.failed: list[str] = []
        self.skipped: preflight.Skipped = {}

    def run(self, named: Mapping[files.File, str], first_id: int, interval: float) -> bool:
        """Try, and write the recording's ``tried``; whether all went as asked.

        Loads are numbered from ``first_id``.  What cannot be tried is said, and recorded.
        """
        session = self._session
        try:
            pages = session.tracer.pages.every()
            added = {key: found.added for key, found in pages.items()}
            target = loaded(session.tracer.file_reads(), added, named)
            source.check_file(target.path)
            check_room(target.size, available())
            self._on(target, first_id, interval)
        except DmatraceError as error:
            session.writer.update_meta(tried={"why": error.message, "do": error.do})
            self._say(f"nothing was tried: {error.message}; {error.do}")
            return False
        return not self.failed

    def _on(self, target: Loaded, first_id: int, interval: float) -> None:
        session, wanted, say = self._session, self._wanted, self._say
        names = wanted.strategies or SUGGESTED[target.way]
        with contextlib.ExitStack() as stack:
            if wanted.raise_limits:
                stack.enter_context(raised(names, target.size, say))
            block = Request.DEFAULTS["block"]
            self.skipped = preflight.check_strategies(names, target.size, target.path, block)
            # What the target did until its last look is written; the rest is no part of this.
            session.tracer.take()
            request = Request(
                strategies=names, file=target.path, cold=target.cold, rounds=1, verify="sampled",
                interval=interval, **Request.DEFAULTS,
            )  # fmt: skip
            recorder = Recorder(
                request, session.tracer, session.writer, say, self.skipped, self._delays
            )
            stack.callback(recorder.close)
            how = "cold: the page cache is dropped before each" if target.cold else "warm"
            say(f"trying on {target.path} ({format_size(target.size)}), {how}")
            if not target.cold:
                source.warm(target.path)
            said: dict[str, Any] = {
                "file": target.path,
                "dev": target.key[0],
                "ino": target.key[1],
                "bytes": target.size,
                "cache": request.cache,
                "way": target.way,
                "asked": bool(wanted.strategies),
            }
            # Before: Ctrl-C ends the loads.
            session.writer.update_meta(tried=said)
            for number, name in enumerate(names, first_id):
                if name in self.skipped:
                    skip = self.skipped[name]
                    say(f"{name}: skipped: {skip['why']}; {skip['do']}")
                    continue
                try:
                    row = recorder.load(name, load_id=number)
                except CannotHere as error:
                    self.skipped[name] = {"strategy": name, "why": error.message, "do": error.do}
                    say(f"{name}: skipped: {error.message}; {error.do}")
                    continue
                took = (row["create_ns"] + row["io_ns"]) / 1e9 if not row.get("failed") else 0
                say(f"{name}: {took:.2f} s" if took else f"{name}: failed: {row['failed']}")
            self.failed = recorder.failed
