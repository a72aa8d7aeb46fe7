"""The columns of the tables that are the recording's own, as data frames have them.

Those of its schema, with the load's name, and what follows from other columns.
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


#: How folios leave the page cache.
REMOVED_BY = {
    "process": "by the process' own doing",
    "invalidate": "invalidated",
    "truncate": "truncated",
    "unlink": "the file was deleted",
    "drop_caches": "by vm.drop_caches",
    "reclaim": "by direct reclaim",
    "kswapd": "by kswapd",
    "other": "otherwise",
}
#: Kinds of the kernel's delay accounting.
DELAYED = {
    "cpu": "for a CPU",
    "blkio": "for the disk",
    "swapin": "for swap",
    "freepages": "for reclaim",
    "thrashing": "for pages that were evicted too early",
    "compact": "for compaction",
    "wpcopy": "for copies on write",
    "irq": "for interrupts",
}

LOAD = (
    Column("load_id", "", "number of the load; -1: outside of every load", "load_id"),
    Column("strategy", "", "name of the load strategy", "strategy"),
    Column("round", "", "which repetition, from 1", "round"),
)

_REQUESTS = (
    *LOAD,
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
    Column("kind", "", "direct, readahead, page-cache, metadata, swap or unknown; or empty"),
    Column("phase", "", "of the call that submitted it, or empty"),
    Column("file_dev", "", "device of the file whose content it is; 0: not known"),
    Column("ino", "", "the file's inode; 0: the device's own, such as metadata"),
)

_PAGE_CACHE = (
    *LOAD,
    Column("t_ns", "ns", "when, CLOCK_MONOTONIC"),
    Column("dev", "", "the file's device"),
    Column("ino", "", "the file's inode"),
    Column("added", "bytes", "added so far"),
    Column("removed", "bytes", "removed so far"),
    Column("removed_self", "bytes", "of that, by the load's own threads"),
    Column("current", "bytes", "cached now; without what was before, unless based"),
    Column("peak", "bytes", "most cached so far, likewise"),
    Column("based", "", "whether what was cached before the ledger began is known and counted"),
    Column("kind", "", "file, or shmem"),
    Column("added_self", "bytes", "added by the load's own threads so far"),
    Column("readahead", "bytes", "added by readahead so far"),
    Column("refaulted", "bytes", "added again that were evicted before, so far"),
    *(
        Column(f"{who}_{how}", "bytes", f"of {whose}: {meaning}")
        for who, whose in (("removed", "removed"), ("self", "removed_self"))
        for how, meaning in REMOVED_BY.items()
        if how not in ("process", "other")
    ),
)

_BUFFERS = (
    *LOAD,
    Column("t_ns", "ns", "when, CLOCK_MONOTONIC"),
    Column("event", "", "export or release"),
    Column("ino", "", "the dma-buf's inode"),
    Column("size", "bytes", "its size"),
    Column("exporter", "", "who made it"),
    Column("tid", "", "thread"),
    Column("tgid", "", "process"),
    Column("heap", "", "the dma-heap it came from, or empty"),
)

_INTERVALS = (
    *LOAD,
    Column("tid", "", "thread"),
    Column("phase", "", "phase of the hook"),
    Column("hook", "", "the function called"),
    Column("start_ns", "ns", "its begin, CLOCK_MONOTONIC"),
    Column("end_ns", "ns", "its end"),
    Column("wall_ns", "ns", "between the two"),
    Column("tgid", "", "process"),
)

_DELAYS = (
    *LOAD,
    Column("tid", "", "thread"),
    Column("tgid", "", "process"),
    Column("comm", "", "the thread's name"),
    Column("full", "", "0: only cpu is known, the thread began before the accounting"),
    *(
        column
        for name, of in DELAYED.items()
        for column in (
            Column(f"{name}_count", "", f"waits: {of}"),
            Column(f"{name}_ns", "ns", "how long they were"),
        )
    ),
)

_WAITS = (
    *LOAD,
    Column("tid", "", "thread"),
    Column("tgid", "", "process"),
    Column("phase", "", "its phase when it left the CPU"),
    Column("start_ns", "ns", "when it left the CPU, CLOCK_MONOTONIC"),
    Column("woken_ns", "ns", "when it was woken: blocked until here"),
    Column("end_ns", "ns", "when it had a CPU again: runnable until here"),
    Column("blocked_ns", "ns", "between the first two"),
    Column("runnable_ns", "ns", "between the last two"),
)

_FILE_READS = (
    *LOAD,
    Column("dev", "", "the file's device"),
    Column("ino", "", "the file's inode"),
    Column("path", "", "its path, or empty"),
    Column("direct", "bytes", "read by direct I/O"),
    Column("direct_calls", "", "calls of it"),
    Column("einval", "", "direct calls that failed with EINVAL"),
    Column("efault", "", "with EFAULT"),
    Column("errors", "", "with another error"),
    Column("buffered", "bytes", "copied out of the page cache"),
    Column("fallback", "bytes", "of that, by a file open with O_DIRECT"),
    Column("spliced", "bytes", "taken by a pipe from the page cache"),
    Column("offsets", "", "all positions and lengths of direct calls, ORed"),
    Column("memory", "", "all addresses of direct calls, ORed"),
    Column("fs", "", "the file system, or empty"),
    Column("align_known", "", "whether statx told what direct I/O needs"),
    Column("align_memory", "bytes", "alignment of addresses it needs"),
    Column("align_offset", "bytes", "of positions and lengths; 0: no direct I/O"),
)

_FILES = (
    *LOAD,
    Column("t_ns", "ns", "when, CLOCK_MONOTONIC"),
    Column("dev", "", "the file's device"),
    Column("ino", "", "the file's inode"),
    Column("path", "", "its path, where a traced process had it open or mapped"),
)

_LEDGER = (
    *LOAD,
    Column("t_ns", "ns", "when, CLOCK_MONOTONIC"),
    Column("what", "", "pinned, elsewhere, psi, vmstat or sample"),
    Column("name", "", "of the value: now, page_us, held_ns; memory.some; pgfault; mark"),
    Column(
        "value",
        "",
        "bytes of now and elsewhere, ns of psi and held_ns, pages x us of page_us,"
        " a counter of vmstat",
    ),
)

_RUNS = (
    *LOAD,
    Column("tid", "", "thread"),
    Column("tgid", "", "process"),
    Column("kind", "", "readahead, read, or mapped (around a fault)"),
    Column("dev", "", "the file's device"),
    Column("ino", "", "the file's inode"),
    Column("start", "bytes", "first byte in the file"),
    Column("end", "bytes", "the one after the last"),
    Column("since_ns", "ns", "begin, CLOCK_MONOTONIC"),
    Column("until_ns", "ns", "end"),
)

_SAMPLES = (
    *LOAD,
    Column("t_ns", "ns", "when, CLOCK_MONOTONIC"),
    Column("tid", "", "thread"),
    Column("tgid", "", "process"),
    Column("cell", "", "phase that the tracer charged the moment to"),
    Column("phase", "", "phase that owns the stack"),
    Column("functions", "", "the kernel stack, outer;inner; empty: user space"),
    Column("count", "", "samples"),
)

_INVENTORY = (
    *LOAD,
    Column("t_ns", "ns", "when, CLOCK_MONOTONIC"),
    Column("ino", "", "the dma-buf's inode"),
    Column("size", "bytes", "its size; null: not known"),
    Column("exporter", "", "who made it"),
    Column("name", "", "its name, or empty"),
    Column("pid", "", "a process that holds it, or 0: none was seen"),
    Column("comm", "", "the process' name"),
    Column("fds", "", "its descriptors of it"),
    Column("mapped", "bytes", "what it has mapped of it"),
    Column("devices", "", "devices attached, a JSON list; empty: not seen"),
)

_WAYS = (
    *LOAD,
    Column("t_ns", "ns", "when it was so, CLOCK_MONOTONIC"),
    Column("tgid", "", "process"),
    Column("dev", "", "file system of the file, as the kernel's dev_t"),
    Column("ino", "", "its inode"),
    Column("size", "bytes", "its size"),
    Column("path", "", "its path, where known"),
    Column("format", "", "model format, by its first bytes or name"),
    Column("way", "", "buffered, direct, spliced, fault or written"),
    Column("call", "", "system call; worker: a kernel thread; empty: none"),
    Column("target", "", "what took the bytes: anonymous, shmem, dmabuf, device, pipe, ..."),
    Column("to_dev", "", "file system of that, likewise"),
    Column("to_ino", "", "its inode"),
    Column("o_direct", "", "the file is open with O_DIRECT"),
    Column("dontcache", "", "with RWF_DONTCACHE"),
    Column("fixed", "", "into registered buffers"),
    Column("worker", "", "by a kernel thread for the process"),
    Column("late", "", "1: a read that was under way when its thread was first followed, whole"),
    Column("calls", "", "reads or faults so far"),
    Column("bytes", "bytes", "read so far; of faults the most that they mapped"),
    Column("first_ns", "ns", "begin of the first"),
    Column("last_ns", "ns", "end of the last"),
    Column("begun", "", "reads begun so far"),
    Column("depth", "", "sum over them of how many were under way"),
    Column("deepest", "", "most under way at once"),
    Column("largest", "bytes", "most of one call"),
    Column("sizes", "", "calls by size, below 4 KiB, 8 KiB, ... 64 MiB and above: a JSON list"),
)

_CALLS = (
    *LOAD,
    Column("t_ns", "ns", "when, CLOCK_MONOTONIC"),
    Column("tid", "", "thread"),
    Column("tgid", "", "process"),
    Column("what", "", "open, close, mmap, munmap, madvise, fadvise, readahead, udmabuf, attach and"
           " detach (of a device); before the recording: mapped, held"),
    Column("target", "", "what it is about: file, shmem, dmabuf, device"),
    Column("dev", "", "its file system, as the kernel's dev_t"),
    Column("ino", "", "its inode"),
    Column("size", "bytes", "its size, 0: not known"),
    Column("address", "", "of a mapping"),
    Column("length", "bytes", "of a mapping or advice"),
    Column("flags", "", "of open or mmap, or the advice"),
    Column("prot", "", "of a mapping"),
    Column("fd", "", "descriptor, -1: none"),
    Column("exporter", "", "of a dma-buf"),
    Column("other", "", "offset in the file; of a udmabuf the memfd's inode"),
    Column("other_dev", "", "the memfd's file system"),
    Column("path", "", "as the process named it; of attach and detach the device's name"),
)  # fmt: skip

_AT = (
    *LOAD,
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

RECORDED: dict[str, Table] = {
    "requests": Table("one block request", _REQUESTS),
    "page_cache": Table("the ledger of one file at one moment", _PAGE_CACHE),
    "buffers": Table("one dma-buf exported or released", _BUFFERS),
    "intervals": Table("one call of a hook that reports its calls", _INTERVALS),
    "snapshots": Table("one phase of one thread at one moment, cumulative", _SNAPSHOTS),
    "counters": Table("one counter of one thread at one moment, cumulative", _COUNTERS),
    "delays": Table("one thread of one load, by the kernel's delay accounting", _DELAYS),
    "waits": Table("one time of 10 us or more that a thread was off its CPU", _WAITS),
    "file_reads": Table("what one load read of one file", _FILE_READS),
    "files": Table("the path of one file in page_cache", _FILES),
    "ledger": Table("one value that changed at one sample", _LEDGER),
    "runs": Table("one stretch of a file added by readahead, read or mapped in one go", _RUNS),
    "ways": Table("one way in which a process took a file's bytes, cumulative", _WAYS),
    "calls": Table("one system call that prepares or ends a load", _CALLS),
    "samples": Table("one kernel stack of one thread", _SAMPLES),
    "inventory": Table("one dma-buf of the machine at a load's end, by holder", _INVENTORY),
}
