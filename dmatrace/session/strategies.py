"""Recording loads: one strategy after the other, each between two gates.

For every load: prepare, make the cache cold or warm, zero the ledgers, let
the loader create and read (window 0), read the ledgers while it waits, let it
verify (untimed), let it close (window 1).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from dmatrace import interrupts
from dmatrace.errors import CannotHere
from dmatrace.recording import Writer
from dmatrace.session import files, inventory
from dmatrace.session.changes import drop_caches
from dmatrace.session.delays import Delays
from dmatrace.session.ledger import INTERVAL_S, Ledger
from dmatrace.session.progress import Progress
from dmatrace.session.rows import Row
from dmatrace.session.runner import LoadFailed, Runner
from dmatrace.session.tracer import Tracer, current_dev_ino
from dmatrace.session.ways import Ways
from dmatrace.sizes import format_size, short_size
from dmatrace_loaders import kernel, native

_POLL_S = 0.5  # a snapshot of all threads this often, for killed recordings and time lines


@dataclass(frozen=True)
class Request:
    """What the user asked for, checked."""

    #: What loads are asked for where the user says nothing.
    DEFAULTS: ClassVar = {"block": 1 << 20, "jobs": 1, "depth": 1, "gather": native.DEFAULT_GATHER}

    strategies: tuple[str, ...]
    file: str
    block: int
    jobs: int
    depth: int
    rounds: int
    cold: bool
    verify: str
    buffers: int = 1  # that share the file
    eaten: int = 0  # bytes of memory that are taken away meanwhile
    gather: int = native.DEFAULT_GATHER
    interval: float = INTERVAL_S  # seconds between samples of the memory ledger

    @property
    def cache(self) -> str:
        """What a recording says of the memory before each load; loads that differ in it differ."""
        cache = "cold" if self.cold else "warm"
        return f"{cache}, {short_size(self.eaten)} eaten" if self.eaten else cache


class Recorder:
    """Runs the loads of one recording and writes what the tracer saw.

    ``tracer`` may be None: the same loads without any probe, for comparison.
    """

    def __init__(
        self,
        request: Request,
        tracer: Tracer | None,
        writer: Writer | None,
        say: Progress,
        skipped: Mapping[str, dict[str, str]] | None = None,
        delays: Delays | None = None,
    ) -> None:
        self.request = request
        self.skipped = dict(skipped or {})
        self.failed: list[str] = []
        self._tracer = tracer
        self._writer = writer
        self._say = say
        self._delays = delays
        self._runner: Runner | None = None
        self._load_id = 0
        self._polled = 0.0
        self._where = ""
        # Bytes of the current load.
        self._cached_before = self._dmabuf = self._shmem = self._read = 0
        self._shmem_held = 0  # by its files, where no hook counts allocations
        self._ready = 0  # ns, when the current load was prepared
        self._outside = (0, 0)  # ns, when it was being verified
        self.dev, self.ino = current_dev_ino(request.file)
        self._ledger: Ledger | None = None
        if tracer is not None and writer is not None:
            self._ledger = Ledger(tracer, writer, request.interval, self._pids)
        self._ways = Ways(tracer.program, self._write, lambda _: self._load_id) if tracer else None

    def _pids(self) -> tuple[int, ...]:
        return (self._runner.pid,) if self._runner else ()

    @property
    def pid(self) -> int:
        """The loader's, which is started if there is none yet."""
        return self._started().pid

    def run(self) -> None:
        """All rounds; strategies that cannot run here are skipped with their reason."""
        total = self.request.rounds * len(self.request.strategies)
        for round_number in range(1, self.request.rounds + 1):
            for strategy in self.request.strategies:
                self._load_id += 1
                self._where = f"[{self._load_id}/{total}] {strategy}"
                if strategy not in self.skipped:
                    try:
                        row = self.load(strategy, round_number)
                    except CannotHere as error:
                        self.skipped[strategy] = {
                            "strategy": strategy, "why": error.message, "do": error.do,
                        }  # fmt: skip
                    else:
                        self._say(f"{self._where}: {_outcome(row)}")
                        continue
                if round_number == 1:
                    said = self.skipped[strategy]
                    self._say(f"{self._where}: skipped: {said['why']}; {said['do']}")

    def load(self, strategy: str, round_number: int = 1, load_id: int | None = None) -> Row:
        """One load; the row of the ``loads`` table, ``failed`` in it if it did.

        ``load_id``: its number in the recording, where the caller counts loads.
        Raises CannotHere if this machine cannot run it.
        """
        if load_id is not None:
            self._load_id, self._where = load_id, strategy
        row: Row = {
            "load_id": self._load_id,
            "strategy": strategy,
            "round": round_number,
            "file": self.request.file,
            "dev": self.dev,
            "ino": self.ino,
            "bytes": os.stat(self.request.file).st_size,
            "cache_before": self.request.cache,
        }
        threads: list[Row] = []
        try:
            runner = self._prepare(row)
            self._window(runner, row, threads)
        except LoadFailed as error:
            row["failed"] = str(error)
            row["end_ns"] = time.monotonic_ns()
            if error.died:
                self.close()
        self._collect(row, threads)
        if row.get("failed"):
            self.failed.append(f"{strategy} round {round_number} failed: {row['failed']}")
        return row

    def _prepare(self, row: Row) -> Runner:
        """Loader, page cache and ledgers ready for one load; its first row is written."""
        runner = self._started()
        request = self.request
        runner.ask(
            "prepare",
            load_id=self._load_id,
            strategy=row["strategy"],
            file=request.file,
            block=request.block,
            jobs=request.jobs,
            depth=request.depth,
            gather=request.gather,
            verify=request.verify,
            buffers=request.buffers,
        )
        row["bytes"] = int(runner.wait("prepared")["bytes"])
        if request.cold:
            drop_caches()
        before = cachestat(request.file)
        row["cachestat_before"] = json.dumps(before)
        self._cached_before = before.get("cached", 0)
        self._dmabuf = self._shmem = self._read = self._shmem_held = 0
        self._ready, self._outside = time.monotonic_ns(), (0, 0)
        if self._tracer:
            self._tracer.load_id = self._load_id
            self._tracer.pages.reset(self.dev, self.ino)
            self._tracer.pinned_peak(reset=True)
            self._tracer.forget_reads()
        if self._ways:
            self._ways.forget()
        self._write("loads", [row])
        return runner

    def _window(self, runner: Runner, row: Row, threads: list[Row]) -> None:
        if self._ledger:
            self._ledger.begin({(self.dev, self.ino): self._cached_before})
        if self._delays:
            self._delays.begin(runner.pid)
        row["start_ns"] = time.monotonic_ns()
        runner.ask("go")
        loaded = runner.wait("loaded", self._idle, min(0.2, self.request.interval))
        if self._ledger:
            self._ledger.end()
        if self._delays:
            self._write("delays", self._delays.rows(runner.pid, self._load_id))
        self._memory(row, runner.pid)
        self._inventory(row)
        threads += loaded["threads"]
        row["create_ns"], row["io_ns"] = loaded["create_ns"], loaded["io_ns"]
        row["module"] = json.dumps(loaded["module"]) if loaded["module"] else ""
        refused = loaded["refused"]
        row["refused"] = f"{refused['name']}: {refused['why']}" if refused else ""
        began = time.monotonic_ns()
        runner.ask("verify")
        verified = runner.wait("verified")
        self._outside = (began, time.monotonic_ns())
        row["verified"] = verified["verified"]
        if verified["verified"] is False:
            row["failed"] = f"content differs from the file: {verified.get('why', '')}"
        runner.ask("close")
        closed = runner.wait("closed", self._idle)
        threads += closed["threads"]
        row["close_ns"] = closed["close_ns"]
        main = [thread for thread in threads if thread["tid"] == runner.pid]
        row["wall_ns"] = sum(thread["end_ns"] - thread["start_ns"] for thread in main)
        row["end_ns"] = max(thread["end_ns"] for thread in threads)

    def _started(self) -> Runner:
        if self._runner is None:
            self._runner = Runner()
        if self._ways:
            self._ways.expect(self._runner.pid)
        if self._tracer:
            # Anew for each load: --ab detaches in between, and cells then start from zero.
            self._tracer.follow(self._runner.pid)
        if self._ways:
            self._ways.follow(self._runner.pid)
        return self._runner

    @interrupts.held()
    def _idle(self) -> None:
        """While a load runs: empty the ring buffer, and now and then write a prefix."""
        tracer = self._tracer
        if tracer is None:
            return
        tracer.drain()
        if self._ledger:
            self._ledger.sample()
        if time.monotonic() - self._polled > _POLL_S:
            self._polled = time.monotonic()
            tracer.poll_threads()
            self._keep(tracer.take(samples=False))
            if self._delays:
                self._delays.poll()
            self._say.now(f"{self._where}: {format_size(self._read)} read from the disk")

    def _memory(self, row: Row, pid: int) -> None:
        """Page cache and pinned pages, read while the loader waits with its buffer full."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended
            row["mapped"] = mapped(pid, self.request.file)
        after = cachestat(self.request.file)
        row["cachestat_after"] = json.dumps(after)
        if self._tracer is None:
            return
        if self._tracer.detail.sampled:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                self._shmem_held = shmem_held(pid)
        row["pinned_peak"] = self._tracer.pinned_peak()
        # Before the verification reads it, too.
        own = (self.dev, self.ino)
        named = files.names(pid) | {own: self.request.file}
        rows = files.described(self._tracer.file_reads(), named, own, self._load_id)
        self._write("file_reads", rows)
        if self._ways:
            self._ways.sample(named, last=True)
        pages = self._tracer.pages.file(self.dev, self.ino)
        if pages is None:
            return
        base = self._cached_before
        row["page_cache_added"] = pages.added
        row["page_cache_removed"] = pages.removed
        row["page_cache_peak"] = base + pages.peak
        row["page_cache_end"] = base + pages.added - pages.removed

    def _inventory(self, row: Row) -> None:
        """The machine's dma-bufs, while the loader still waits with its own."""
        if self._tracer is None:
            return
        held = inventory.take()
        row["inventory"] = held.source
        self._write("inventory", inventory.rows(held, self._load_id, time.monotonic_ns()))

    @interrupts.held()
    def _collect(self, row: Row, threads: list[Row]) -> None:
        """Everything the load left in the ring buffer, and its own clocks."""
        if self._ledger:
            self._ledger.end()  # of a load that failed half-way
        if self._tracer:
            self._tracer.drain()
            self._keep(self._tracer.take())
            self._tracer.load_id = -1
        row["dmabuf"], row["shmem"] = self._dmabuf, self._shmem or self._shmem_held
        self._write("threads", [{"load_id": self._load_id, **thread} for thread in threads])
        self._write("loads", [row])

    def _keep(self, rows: dict[str, list[Row]]) -> None:
        """Write what was traced, and add up what the load's row says of it."""
        for request in rows.get("requests", []):
            queued = request["queue_ns"]
            if queued < self._ready or self._outside[0] <= queued <= self._outside[1]:
                request["load_id"] = -1  # preparing or verifying read it, not the load
            elif request["op"] == "read":
                self._read += request["bytes"]
        for run in rows.get("runs", []):
            if run["since_ns"] < self._ready or (
                self._outside[0] <= run["since_ns"] <= self._outside[1]
            ):
                run["load_id"] = -1
        for buffer in rows.get("buffers", []):
            if buffer["event"] == "export":
                self._dmabuf += buffer["size"]
        self._shmem += _shmem(rows.get("counters", []))
        for table, found in rows.items():
            self._write(table, found)

    def _write(self, table: str, rows: list[Row]) -> None:
        if self._writer and rows:
            self._writer.append(table, rows)

    def close(self) -> None:
        """End the loader process."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None


def _shmem(counters: list[Row]) -> int:
    """Bytes of shmem allocated between the markers of each thread and window."""
    signs = {"begin": -1, "work-begin": -1, "end": 1, "work-end": 1}
    return sum(
        signs.get(row["kind"], 0) * row["value"]
        for row in counters
        if row["counter"] == "shmem_alloc_bytes"
    )


def mapped(pid: int, path: str) -> int:
    """Bytes of a file that are mapped into a process and present: Rss of proc_pid_smaps(5)."""
    status = os.stat(path)
    where = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    mine = [where, str(status.st_ino)]

    def header(line: str) -> list[str]:
        return line.split()[3:5]

    total, inside = 0, False
    # smaps walks the page tables of everything that is mapped; maps does not.
    with open(f"/proc/{pid}/maps") as lines:
        if not any(header(line) == mine for line in lines):
            return 0
    with open(f"/proc/{pid}/smaps") as lines:
        for line in lines:
            name, _, rest = line.partition(":")
            if "-" in name.split(" ", 1)[0]:
                inside = header(line) == mine
            elif inside and name == "Rss":
                total += int(rest.split()[0]) * 1024
    return total


_TMPFS_MAGIC = 0x01021994  # include/uapi/linux/magic.h; memfds of huge pages are on hugetlbfs


def shmem_held(pid: int) -> int:
    """Bytes of shmem in the files that a process has open, by their st_blocks.

    What ``--detail sampled`` says of shmem, for it does not count single pages.
    """
    libc = ctypes.CDLL(None)
    seen: dict[tuple[int, int], int] = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        found = (ctypes.c_long * 32)()  # struct statfs, whose first member is f_type
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode) or libc.statfs(path.encode(), found):
                continue
        except OSError:  # closed meanwhile
            continue
        if found[0] == _TMPFS_MAGIC:
            seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def cachestat(path: str) -> dict[str, int]:
    """cachestat(2) of a file in pages, plus "cached" in bytes; {} where the kernel has none."""
    fd = os.open(path, os.O_RDONLY)
    try:
        found = kernel.cachestat(fd)
    finally:
        os.close(fd)
    return {} if found is None else dict(found)


def _outcome(row: Row) -> str:
    if row.get("failed"):
        return f"failed: {row['failed']}"
    if row.get("refused"):
        return f"refused: {row['refused']}"
    return f"{(row['create_ns'] + row['io_ns']) / 1e9:.2f} s"
