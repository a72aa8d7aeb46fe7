"""What the view draws: frozen snapshots, computed from a recording's rows.

Times are ns (points in time of CLOCK_MONOTONIC), sizes bytes.  None is what is not
known: hidden by a hook that is not attached (``Snapshot.hidden`` says which), or not
there yet.  It is never drawn as 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from dmatrace.analysis.hidden import HIDDEN_BY

Interval = tuple[int, int]

#: States of a load; "waiting" and "skipped" are strategies without a load, "exited" and
#: "ran on" (when the recording ended) processes that are not our loaders.
STATES = (
    "running", "done", "failed", "refused", "cut off", "waiting", "skipped", "exited", "ran on",
)  # fmt: skip


class Times(NamedTuple):
    """Time of one phase, in ns, and how often it was entered (None: divided by samples)."""

    phase: str
    cpu: int
    blocked: int
    runnable: int
    entries: int | None

    @property
    def total(self) -> int:
        """All three, in ns."""
        return self.cpu + self.blocked + self.runnable


@dataclass(frozen=True)
class Thread:
    """One thread of a load; ``owner`` is whom a worker worked for."""

    tid: int
    comm: str
    owner: int | None
    wall: int
    phases: tuple[Times, ...]

    @property
    def total(self) -> int:
        """Its time in all phases, in ns."""
        return sum(times.total for times in self.phases)


@dataclass(frozen=True)
class Io:
    """A load's completed reads of a disk; latency is issue to completion, in ns."""

    requests: int
    read_bytes: int
    p50: int
    p90: int
    p99: int
    max: int
    latency_hist: tuple[tuple[int, int], ...]  # (ns, a power of two; requests from it on)
    size_hist: tuple[tuple[int, int], ...]  # (bytes, a power of two; requests from it on)
    depth_mean: float  # requests in the device while any was
    depth_max: int
    depth_series: tuple[float, ...]  # mean depth in equal slices of ``span``
    span: Interval  # first issue, last completion


@dataclass(frozen=True)
class Memory:
    """What a load takes, now or at its end."""

    cached: int | None  # of its file in the page cache
    cached_peak: int | None
    added: int | None
    removed: int | None
    dmabuf: int | None
    shmem: int | None
    pinned_peak: int | None
    mapped: int  # of the file's page cache, into the loader


@dataclass(frozen=True)
class Part:
    """One way that bytes of a file took, and what was seen of it.

    ``block``: bytes that a call usually takes, 0 where none is known; ``depth``: how many were
    under way at a time, mean (None: not known) and at most.
    """

    name: str
    bytes: int
    share: float
    calls: int
    block: int
    depth: float | None
    depth_max: int
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """What figures mean, and what to do next."""

    kind: str
    text: str
    next: str


@dataclass(frozen=True)
class FileLoad:
    """A file that a followed process loads, and how: the report's ``file_loads``.

    ``unseen`` are the reads that a missing hook hides: ``bytes`` are then at least, ``progress``
    and ``rate`` not known.
    """

    key: str
    load_id: int
    pid: int
    comm: str
    path: str
    format: str
    dev: str
    ino: int
    size: int  # of the file
    start: int  # its first read
    end: int  # its last one so far
    bytes: int  # that were taken of it, again where it was read again
    progress: float | None  # bytes against size
    rate: int | None  # bytes a second, from first to last read
    cached: int | None  # of it in the page cache now, at least
    verdict: str
    method: str
    target: str
    parts: tuple[Part, ...]
    findings: tuple[Finding, ...]
    unseen: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its path, or what is known instead."""
        return self.path or f"inode {self.ino} of {self.dev}"


@dataclass(frozen=True)
class Load:
    """One load, or a strategy that has none (yet)."""

    key: str
    load_id: int
    strategy: str
    round: int
    process: str
    pid: int
    file: str
    bytes: int
    cache_before: str
    state: str
    note: str  # why it failed, was refused or skipped
    done_bytes: int | None
    start: int
    elapsed: int  # so far, or wall_ns
    rate: int | None  # bytes a second: of the whole load, or so far
    copied: int | None
    copies_per_byte: float | None
    verdict: str | None  # direct, buffered, mixed, none; hidden where a hook is missing
    why: str
    direct_bytes: int
    buffered_bytes: int
    threads: tuple[Thread, ...]
    memory: Memory
    io: Io | None
    create: int
    reading: int
    close: int
    verified: bool | None
    waterfall: tuple[tuple[str, tuple[Interval, ...]], ...]
    overlap: tuple[int, int, int]  # allocating, reading, both at once
    command: str = ""  # of a process that is not our loader
    files: tuple[FileLoad, ...] = ()  # that a followed process loads, in the order of beginnings
    more_files: bool = False  # it loaded others before, which are not kept

    @property
    def observed(self) -> bool:
        """Whether it is a process that is followed, which loads what it likes."""
        return self.strategy == "observed"

    @cached_property
    def phases(self) -> tuple[Times, ...]:
        """Of all threads, the longest first."""
        return merged(self.threads)

    @cached_property
    def total(self) -> int:
        """Thread time in all phases, in ns."""
        return sum(thread.total for thread in self.threads)

    @property
    def progress(self) -> float | None:
        """Share of the bytes that are loaded, 0 to 1; of a followed process nobody knows."""
        if self.done_bytes is None or self.bytes <= 0 or self.observed:
            return None
        return min(1.0, self.done_bytes / self.bytes)

    @property
    def residency(self) -> float | None:
        """How many times the loaded bytes are in memory: the buffer, and the page cache's copy.

        A buffer that is the page cache (a mapping of the file) counts once.  What a followed
        process keeps of what it read is not known.
        """
        if self.memory.cached is None or not self.done_bytes or self.observed:
            return None
        copy = max(0, self.memory.cached - self.memory.mapped)
        return 1.0 + copy / self.done_bytes


class Holder(NamedTuple):
    """A process that keeps a dma-buf: so many descriptors, and the bytes it maps."""

    pid: int
    comm: str
    fds: int
    mapped: int


@dataclass(frozen=True)
class Buffer:
    """A dma-buf: exported at ``start`` (0: before we looked), released at ``end`` (0: not yet).

    ``size`` is 0 where it is not known; ``holders`` None where nobody looked.
    """

    ino: int
    size: int
    exporter: str
    tid: int
    pid: int
    comm: str
    load: str
    start: int
    end: int
    holders: tuple[Holder, ...] | None = None


@dataclass(frozen=True)
class Point:
    """Memory at one time, of everything that is traced; None: not known."""

    t: int
    cached: int | None
    dmabuf: int | None
    shmem: int | None
    pinned: int | None


@dataclass(frozen=True)
class File:
    """The page cache of one file."""

    name: str
    cached: int
    peak: int
    added: int
    removed: int


@dataclass(frozen=True)
class Heap:
    """The dma-bufs of one exporter."""

    name: str
    buffers: int
    size: int
    peak: int


@dataclass(frozen=True)
class Pressure:
    """Pressure stall information of one resource, of the whole machine.

    ``some`` and ``full`` are per cent of the last 10 s in which tasks, or all tasks, waited
    for it; ``stalled`` is the ns of the first kind since sampling began, ``steps`` how it grew.
    """

    resource: str
    some: float
    full: float
    stalled: int
    steps: tuple[Interval, ...]


@dataclass(frozen=True)
class Missing:
    """A hook that is not attached, and what that hides."""

    name: str
    phase: str
    hides: str


@dataclass(frozen=True)
class Transport:
    """Where a player of a finished recording is; times in ns since its beginning."""

    at: int
    length: int
    speed: float


@dataclass(frozen=True)
class Snapshot:
    """Everything that is drawn at one time."""

    title: str
    kernel: str
    state: str  # starting, live, replay, ended
    note: str  # what it is doing, or why it ended
    paused: bool
    now: int
    start: int
    loads: tuple[Load, ...]
    series: tuple[Point, ...]
    files: tuple[File, ...]
    heaps: tuple[Heap, ...]
    buffers: tuple[Buffer, ...]
    pressure: tuple[Pressure, ...]
    missing: tuple[Missing, ...]
    hidden: frozenset[str]  # of analysis.hidden.HIDDEN_BY
    uncounted: frozenset[str]  # of the same: known when a load has ended, not before
    lost: int
    detail: str
    transport: Transport | None = None
    lost_by: tuple[tuple[str, int], ...] = ()  # by kind, and what probes missed
    unavailable: tuple[tuple[str, str], ...] = ()  # what the kernel does not say, and why
    unseen: tuple[str, ...] = ()  # reads of followed processes that a missing hook hides

    def hiding(self, what: str) -> str:
        """The missing hooks that hide a figure of HIDDEN_BY, by name."""
        names = HIDDEN_BY[what]
        return ", ".join(hook.name for hook in self.missing if hook.name in names)

    @property
    def elapsed(self) -> int:
        """Since the first thing that was recorded, in ns."""
        return max(0, self.now - self.start) if self.start else 0


def merged(threads: tuple[Thread, ...]) -> tuple[Times, ...]:
    """The phases of several threads together, the longest first."""
    sums: dict[str, list[int]] = {}
    counted: dict[str, int | None] = {}
    for thread in threads:
        for times in thread.phases:
            old = sums.setdefault(times.phase, [0, 0, 0])
            for place, value in enumerate((times.cpu, times.blocked, times.runnable)):
                old[place] += value
            before = counted.get(times.phase, 0)
            known = before is not None and times.entries is not None
            counted[times.phase] = (before or 0) + (times.entries or 0) if known else None
    found = [
        Times(phase, values[0], values[1], values[2], counted[phase])
        for phase, values in sums.items()
    ]
    return tuple(sorted(found, key=lambda times: (-times.total, times.phase)))
