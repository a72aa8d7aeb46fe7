"""The columns of the data frames that ``dmatrace.open`` gives, with units, as data.

``TABLES`` lists the tables in the order in which they are exported.  ``at`` is where a
column of a table made from the report's document stands in it; a table without ``at``
is one of the recording's own, with the columns that follow from others added.
"""

from __future__ import annotations

from typing import NamedTuple


class Column(NamedTuple):
    """One column: its unit ("" for a number or name without one), what it means, and its place."""

    name: str
    unit: str
    meaning: str
    at: str = ""


class Table(NamedTuple):
    """One table: what a row is, and its columns."""

    row: str
    columns: tuple[Column, ...]


_LOAD = (
    Column("load_id", "", "number of the load; -1: outside of every load", "load_id"),
    Column("strategy", "", "name of the load strategy", "strategy"),
    Column("round", "", "which repetition, from 1", "round"),
)

_LOADS = (
    *_LOAD,
    Column("file", "", "path of the file loaded", "file"),
    Column("bytes", "bytes", "size of the file", "bytes"),
    Column("cache_before", "", "cold or warm", "cache_before"),
    Column("verified", "", "buffer equals the file; null: not compared", "verified"),
    Column("failed", "", "why the load failed, or empty", "failed"),
    Column("refused", "", "why the kernel refused to read, or empty", "refused"),
    Column("partial", "", "its end was not recorded", "partial"),
    Column("create_ns", "ns", "making the buffer, by the loader's clock", "create_ns"),
    Column("io_ns", "ns", "reading", "io_ns"),
    Column("close_ns", "ns", "giving the buffer back", "close_ns"),
    Column("wall_ns", "ns", "all three, of the main thread", "wall_ns"),
    Column("page_cache_added", "bytes", "added to the page cache", "memory.page_cache_added"),
    Column("page_cache_removed", "bytes", "removed from it", "memory.page_cache_removed"),
    Column("page_cache_peak", "bytes", "most cached of the file", "memory.page_cache_peak"),
    Column("page_cache_end", "bytes", "cached of the file at the end", "memory.page_cache_end"),
    Column("mapped", "bytes", "of the file, mapped and present at the end", "memory.mapped"),
    Column("dmabuf", "bytes", "dma-buf memory exported", "memory.dmabuf"),
    Column("shmem", "bytes", "shmem pages allocated", "memory.shmem"),
    Column("pinned_peak", "bytes", "most memory pinned at a time", "memory.pinned_peak"),
    Column("copied_bytes", "bytes", "copied by the CPU", "copies.cpu_bytes"),
    Column("copies_per_byte", "", "copied bytes over the file's size", "copies.per_byte"),
    Column("requests", "", "completed read requests of its threads", "block.requests"),
    Column("read_bytes", "bytes", "what they read", "block.read_bytes"),
    Column("latency_p50_ns", "ns", "their latency, issue to completion", "block.latency_ns.p50"),
    Column("latency_p90_ns", "ns", "90th percentile (nearest rank)", "block.latency_ns.p90"),
    Column("latency_p99_ns", "ns", "99th percentile (nearest rank)", "block.latency_ns.p99"),
    Column("latency_max_ns", "ns", "the longest", "block.latency_ns.max"),
    Column("direct", "", "direct, buffered, mixed or none", "direct.verdict"),
    Column("direct_bytes", "bytes", "came by the direct path", "direct.direct_bytes"),
    Column("buffered_bytes", "bytes", "came by the page cache", "direct.buffered_bytes"),
    Column("direct_why", "", "the evidence of the verdict", "direct.why"),
    Column("alloc_ns", "ns", "allocating, on any thread", "overlap.alloc_ns"),
    Column("reading_ns", "ns", "at least one read request in flight", "overlap.io_ns"),
    Column("both_ns", "ns", "both at once", "overlap.both_ns"),
    Column("lost_exits", "", "function exits that were not seen", "stack.lost_exits"),
    Column("overflows", "", "calls nested too deep to follow", "stack.overflows"),
)

_THREAD = (
    Column("tid", "", "thread", "tid"),
    Column("comm", "", "its name", "comm"),
    Column("owner", "", "the thread that a worker worked for, or null", "owner"),
)

_THREADS = (
    *_LOAD,
    *_THREAD,
    Column("wall_ns", "ns", "its time in the load", "wall_ns"),
    Column("clock", "", "whose clock wall_ns is: loader or tracer", "clock"),
    Column("sched_run_ns", "ns", "run time of schedstat; null: not known", "sched_run_ns"),
    Column("sched_wait_ns", "ns", "wait time of schedstat; null: not known", "sched_wait_ns"),
    Column("mark_ns", "ns", "how far the two clocks can be apart", "mark_ns"),
    Column("wake_ns", "ns", "runnable time between a wakeup and a CPU", "wake_ns"),
)

_PHASES = (
    *_LOAD,
    *_THREAD,
    Column("phase", "", "the innermost hooked function's", "phase"),
    Column("cpu_ns", "ns", "running", "cpu_ns"),
    Column("blocked_ns", "ns", "asleep until woken", "blocked_ns"),
    Column("runnable_ns", "ns", "waiting for a CPU", "runnable_ns"),
    Column("count", "", "times entered; null: divided by samples", "count"),
    Column("ci_ns", "ns", "95 % confidence interval, sampled detail only", "ci_ns"),
)

_SIZES = (
    *_LOAD,
    Column("at_least", "bytes", "requests from this size to below its double"),
    Column("requests", "", "how many"),
)

_HOOKS = (
    Column("name", "", "the kernel function or tracepoint", "name"),
    Column("phase", "", "the phase it belongs to", "phase"),
    Column("attached", "", "fentry, kprobe, tracepoint, or null", "attached"),
    Column("hides", "", "what is not seen without it, or null", "hides"),
)

_SKIPPED = (
    Column("strategy", "", "what was not run", "strategy"),
    Column("why", "", "why not", "why"),
    Column("do", "", "what to do about it", "do"),
)

_REQUESTS = (
    *_LOAD,
    Column("tid", "", "the thread that submitted it"),
    Column("tgid", "", "its process"),
    Column("dev", "", "the disk, as the kernel's dev_t"),
    Column("sector", "512 bytes", "where on the disk"),
    Column("bytes", "bytes", "its size"),
    Column("op", "", "read, write or other"),
    Column("queue_ns", "ns", "when it was submitted, CLOCK_MONOTONIC"),
    Column("issue_ns", "ns", "when the driver got it; null: never"),
    Column("complete_ns", "ns", "when it was done; null: never"),
    Column("wait_ns", "ns", "from submission to the driver"),
    Column("latency_ns", "ns", "from the driver to completion"),
)

_PAGE_CACHE = (
    *_LOAD,
    Column("t_ns", "ns", "when, CLOCK_MONOTONIC"),
    Column("dev", "", "the file's device"),
    Column("ino", "", "the file's inode"),
    Column("added", "bytes", "added so far"),
    Column("removed", "bytes", "removed so far"),
    Column("removed_self", "bytes", "of that, by the load's own threads"),
    Column("current", "bytes", "cached now"),
    Column("peak", "bytes", "most cached so far"),
)

_BUFFERS = (
    *_LOAD,
    Column("t_ns", "ns", "when, CLOCK_MONOTONIC"),
    Column("event", "", "export or release"),
    Column("ino", "", "the dma-buf's inode"),
    Column("size", "bytes", "its size"),
    Column("exporter", "", "who made it"),
    Column("tid", "", "thread"),
    Column("tgid", "", "process"),
)

_INTERVALS = (
    *_LOAD,
    Column("tid", "", "thread"),
    Column("phase", "", "phase of the hook"),
    Column("hook", "", "the function called"),
    Column("start_ns", "ns", "its begin, CLOCK_MONOTONIC"),
    Column("end_ns", "ns", "its end"),
    Column("wall_ns", "ns", "between the two"),
)

_AT = (
    *_LOAD,
    Column("t_ns", "ns", "when, CLOCK_MONOTONIC"),
    Column("window", "", "0: create and read, 1: close; -1: no mark"),
    Column("kind", "", "begin, end, work-begin, work-end, fork, exit or poll"),
    Column("tid", "", "thread"),
    Column("tgid", "", "process"),
)

_SNAPSHOTS = (
    *_AT,
    Column("comm", "", "the thread's name"),
    Column("phase", "", "phase"),
    Column("cpu_ns", "ns", "running, since the thread was first traced"),
    Column("blocked_ns", "ns", "asleep, likewise"),
    Column("runnable_ns", "ns", "waiting for a CPU, likewise"),
    Column("count", "", "times entered, likewise"),
    Column("owner", "", "the thread a worker works for, or 0"),
)

_COUNTERS = (
    *_AT,
    Column("counter", "", "its name"),
    Column("value", "", "since the thread was first traced; bytes if it is called _bytes"),
)

TABLES: dict[str, Table] = {
    "loads": Table("one load: its times, its bill and its verdict", _LOADS),
    "threads": Table("one thread of one load", _THREADS),
    "phases": Table("one phase of one thread of one load", _PHASES),
    "request_sizes": Table("read requests of one size class of one load", _SIZES),
    "hooks": Table("one hook", _HOOKS),
    "skipped": Table("one strategy that could not run", _SKIPPED),
    "requests": Table("one block request", _REQUESTS),
    "page_cache": Table("the ledger of one file at one moment", _PAGE_CACHE),
    "buffers": Table("one dma-buf exported or released", _BUFFERS),
    "intervals": Table("one call of a hook that reports its calls", _INTERVALS),
    "snapshots": Table("one phase of one thread at one moment, cumulative", _SNAPSHOTS),
    "counters": Table("one counter of one thread at one moment, cumulative", _COUNTERS),
}

#: Tables made from the report's document; the others are the recording's own.
DERIVED = ("loads", "threads", "phases", "request_sizes", "hooks", "skipped")
