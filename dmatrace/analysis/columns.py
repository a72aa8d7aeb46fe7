"""The columns of the data frames that ``dmatrace.open`` gives, with units, as data.

``TABLES`` lists the tables in the order in which they are exported.  ``at`` is where a
column of a table made from the report's document stands in it; a table without ``at``
is one of the recording's own, with the columns that follow from others added.
"""

from __future__ import annotations

from dmatrace.analysis.recorded_columns import LOAD, RECORDED, REMOVED_BY, Column, Table

#: What may bound a load at a moment (parts of ``critical``).
BOUND = {
    "alloc_io": "a thread runs in an allocation, a read is on the device",
    "alloc": "a thread runs in an allocation",
    "cpu_io": "a thread runs elsewhere, a read is on the device",
    "cpu": "a thread runs elsewhere",
    "io": "no thread runs, a read is on the device",
    "queue": "no thread runs, a read is queued",
    "runnable": "no thread runs, one waits for a CPU",
    "wait": "all sleep, no read is under way",
}

_LOADS = (
    *LOAD,
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
    Column(
        "page_cache_peak",
        "bytes",
        "most cached of the file; of a followed process the sum of its files' most",
        "memory.page_cache_peak",
    ),
    Column("page_cache_end", "bytes", "cached of the file at the end", "memory.page_cache_end"),
    Column("mapped", "bytes", "of the file, mapped and present at the end", "memory.mapped"),
    Column("dmabuf", "bytes", "dma-buf memory exported", "memory.dmabuf"),
    Column("shmem", "bytes", "shmem pages allocated", "memory.shmem"),
    Column("pinned_peak", "bytes", "most memory pinned at a time", "memory.pinned_peak"),
    Column("copied_bytes", "bytes", "copied by the CPU; null: not known", "copies.cpu_bytes"),
    Column(
        "copies_per_byte",
        "",
        "copied bytes over the size; null: not known",
        "copies.per_byte",
    ),
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
    Column("pid", "", "of a process that was followed; null: a load by a strategy", "pid"),
    Column("comm", "", "its name", "comm"),
    Column("command", "", "its command line", "command"),
    Column("ended", "", "how it ended; empty: it ran on", "ended"),
    Column(
        "bound_by", "", "what bounded most of the wall time; null: not known", "critical.bound_by"
    ),
    *(
        Column(f"bound_{part}_ns", "ns", f"of the wall time: {meaning}", f"critical.{part}_ns")
        for part, meaning in BOUND.items()
    ),
    Column("bound_wall_ns", "ns", "the wall time that these divide", "critical.wall_ns"),
    Column("parallel", "", "mean number of running threads while one runs", "critical.parallel"),
    Column(
        "unseen_ns", "ns", "off the CPU in waits too short to be recorded", "critical.unseen_ns"
    ),
    Column("queue_p50_ns", "ns", "reads: from queueing to the driver", "block.queue_ns.p50"),
    Column("queue_p90_ns", "ns", "90th percentile (nearest rank)", "block.queue_ns.p90"),
    Column("queue_p99_ns", "ns", "99th percentile (nearest rank)", "block.queue_ns.p99"),
    Column("queue_max_ns", "ns", "the longest", "block.queue_ns.max"),
    Column(
        "depth_mean",
        "",
        "requests at the device, mean over the time of the reads",
        "block.depth.mean",
    ),
    Column("depth_max", "", "most at once", "block.depth.max"),
    Column("busy_ns", "ns", "at least one request at the device", "block.depth.busy_ns"),
    Column("waiting_mean", "", "requests queued and not yet issued, mean", "block.waiting.mean"),
    Column("waiting_max", "", "most queued and not yet issued at once", "block.waiting.max"),
    Column("waiting_ns", "ns", "at least one queued and not issued", "block.waiting.busy_ns"),
    Column(
        "queued_bytes",
        "bytes",
        "what its threads asked of the block layer; 0: not known",
        "block.queued_bytes",
    ),
    Column(
        "unseen_bytes",
        "bytes",
        "asked of the block layer, without a request of its own",
        "block.unseen_bytes",
    ),
    *(
        Column(
            f"removed_by_{who}",
            "bytes",
            f"left the file's page cache: {how}",
            f"memory.removed_by.{who}",
        )
        for who, how in REMOVED_BY.items()
    ),
    *(
        Column(
            f"removed_how_{how}",
            "bytes",
            f"the same, whoever did it: {meaning}",
            f"memory.removed_how.{how}",
        )
        for how, meaning in REMOVED_BY.items()
        if how != "process"
    ),
    Column("readahead", "bytes", "added by readahead", "memory.readahead.added"),
    Column("readahead_used", "bytes", "of it, read afterwards", "memory.readahead.used"),
    Column(
        "readahead_mapped",
        "bytes",
        "of it, no more than mapped around a fault",
        "memory.readahead.mapped",
    ),
    Column("readahead_unread", "bytes", "of it, neither", "memory.readahead.unread"),
    Column("refaulted", "bytes", "added again that were evicted before", "memory.refaults.bytes"),
    Column("refaulted_file", "bytes", "of it, of the file loaded", "memory.refaults.file_bytes"),
    Column(
        "evicted", "bytes", "of the file, evicted by then (cachestat)", "memory.refaults.evicted"
    ),
    Column("recently_evicted", "bytes", "of it, recently", "memory.refaults.recently_evicted"),
    Column(
        "page_cache_byte_s",
        "byte s",
        "bytes cached times seconds, all files of the load",
        "memory.byte_seconds.page_cache",
    ),
    Column(
        "page_cache_byte_s_error",
        "byte s",
        "by how much that can be off",
        "memory.byte_seconds_error.page_cache",
    ),
    Column("shmem_byte_s", "byte s", "the same of shmem", "memory.byte_seconds.shmem"),
    Column(
        "shmem_byte_s_error",
        "byte s",
        "by how much that can be off",
        "memory.byte_seconds_error.shmem",
    ),
    Column("dmabuf_byte_s", "byte s", "the same of dma-bufs", "memory.byte_seconds.dmabuf"),
    Column("pinned_byte_s", "byte s", "the same of pinned memory", "memory.byte_seconds.pinned"),
    Column(
        "reclaimed_elsewhere",
        "bytes",
        "reclaim took from the page cache of other files",
        "memory.reclaim_elsewhere.page_cache",
    ),
    Column("pinned_end", "bytes", "pinned at the last sample", "memory.pinned.end"),
    Column("pinned_held_ns", "ns", "how long anything was pinned", "memory.pinned.held_ns"),
    Column(
        "reclaimed_elsewhere_kswapd", "bytes", "of it, by kswapd", "memory.reclaim_elsewhere.kswapd"
    ),
    Column(
        "reclaimed_elsewhere_direct",
        "bytes",
        "of it, by direct reclaim",
        "memory.reclaim_elsewhere.reclaim",
    ),
    Column(
        "reclaimed_anon",
        "bytes",
        "anonymous memory that was reclaimed, whole machine",
        "memory.reclaim_elsewhere.anon",
    ),
    Column(
        "memory_some_ns",
        "ns",
        "some task stalled for memory (PSI, whole machine)",
        "memory.psi.memory.some_ns",
    ),
    Column("memory_full_ns", "ns", "all tasks did", "memory.psi.memory.full_ns"),
    Column("io_some_ns", "ns", "some task stalled for I/O", "memory.psi.io.some_ns"),
    Column("io_full_ns", "ns", "all tasks did", "memory.psi.io.full_ns"),
    Column(
        "inventory_source",
        "",
        "where the table inventory comes from; null: none was taken",
        "inventory.source",
    ),
)

_TIMELINE = (
    *LOAD,
    Column("at_ns", "ns", "since the load's first sample", "t_ns"),
    Column("page_cache", "bytes", "cached of all files of the load", "page_cache"),
    Column("shmem", "bytes", "cached of files in memory", "shmem"),
    Column("dmabuf", "bytes", "dma-bufs exported and not released", "dmabuf"),
    Column("pinned", "bytes", "pinned", "pinned"),
    Column("memory_some_ns", "ns", "stalled for memory so far (PSI)", "psi_memory_some_ns"),
    Column("io_some_ns", "ns", "stalled for I/O so far (PSI)", "psi_io_some_ns"),
)

_DEPTH = (
    *LOAD,
    Column("start_ns", "ns", "begin of the slice, CLOCK_MONOTONIC", "start_ns"),
    Column("interval_ns", "ns", "its length; the last may be shorter", "interval_ns"),
    Column("depth_mean", "", "requests at the device, mean over the slice", "depth_mean"),
    Column("depth_max", "", "most at once", "depth_max"),
    Column("read_bytes", "bytes", "of the requests that completed in it", "read_bytes"),
)

_KINDS = (
    *LOAD,
    Column("kind", "", "direct, readahead, page-cache, metadata, swap or unknown", "kind"),
    Column("requests", "", "completed read requests", "requests"),
    Column("read_bytes", "bytes", "what they read", "read_bytes"),
    Column("latency_p50_ns", "ns", "issue to completion", "latency_ns.p50"),
    Column("latency_p99_ns", "ns", "99th percentile (nearest rank)", "latency_ns.p99"),
    Column("queue_p50_ns", "ns", "queueing to issue", "queue_ns.p50"),
    Column("queue_p99_ns", "ns", "99th percentile (nearest rank)", "queue_ns.p99"),
)

_CACHED = (
    *LOAD,
    Column("path", "", "its path, or empty", "path"),
    Column("dev", "", "its device, as the kernel's dev_t", "dev"),
    Column("ino", "", "its inode", "ino"),
    Column("kind", "", "file, or shmem", "kind"),
    Column("loaded", "", "it is the file loaded", "loaded"),
    Column(
        "cached_before", "bytes", "cached when the load began; null: not known", "cached_before"
    ),
    Column("added", "bytes", "added to the page cache", "added"),
    Column("added_self", "bytes", "of that, by the load's own threads", "added_self"),
    Column("removed", "bytes", "removed from it", "removed"),
    Column("removed_self", "bytes", "of that, by the load's own threads", "removed_self"),
    Column("peak", "bytes", "most cached; null: not known", "peak"),
    Column("end", "bytes", "cached at the end; null: not known", "end"),
    Column("byte_s", "byte s", "bytes cached times seconds", "byte_seconds"),
    Column("byte_s_error", "byte s", "by how much that can be off", "byte_seconds_error"),
    Column("readahead", "bytes", "added by readahead", "readahead.added"),
    Column("readahead_unread", "bytes", "of it, neither read nor mapped", "readahead.unread"),
    Column("refaulted", "bytes", "added again that were evicted before", "refaulted"),
    *(
        Column(f"removed_by_{who}", "bytes", how, f"removed_by.{who}")
        for who, how in REMOVED_BY.items()
    ),
)

_READ = (
    *LOAD,
    Column("path", "", "its path, or empty", "path"),
    Column("dev", "", "its device, major:minor", "dev"),
    Column("ino", "", "its inode", "ino"),
    Column("fs", "", "its file system, or empty", "fs"),
    Column("verdict", "", "direct, buffered, mixed or none", "verdict"),
    Column("why", "", "the evidence of the verdict", "why"),
    Column("direct_bytes", "bytes", "read by the direct path", "direct_bytes"),
    Column(
        "buffered_bytes", "bytes", "by the page cache: copied, spliced or mapped", "buffered_bytes"
    ),
    Column("fallback_bytes", "bytes", "of that, of a file open with O_DIRECT", "fallback_bytes"),
    Column("disk_bytes", "bytes", "what the disk read for it", "disk.read_bytes"),
)

_COPIES = (
    *LOAD,
    Column("path", "", "from where to where the CPU copied", "path"),
    Column("bytes", "bytes", "how much", "bytes"),
)

_THREAD = (
    Column("tid", "", "thread", "tid"),
    Column("comm", "", "its name", "comm"),
    Column("owner", "", "the thread that a worker worked for, or null", "owner"),
)

_THREADS = (
    *LOAD,
    *_THREAD,
    Column("wall_ns", "ns", "its time in the load", "wall_ns"),
    Column("clock", "", "whose clock wall_ns is: loader or tracer", "clock"),
    Column("sched_run_ns", "ns", "run time of schedstat; null: not known", "sched_run_ns"),
    Column("sched_wait_ns", "ns", "wait time of schedstat; null: not known", "sched_wait_ns"),
    Column(
        "mark_ns",
        "ns",
        "how far the two clocks can be apart, or the recorder's and schedstat",
        "mark_ns",
    ),
    Column("wake_ns", "ns", "runnable time between a wakeup and a CPU", "wake_ns"),
)

_PHASES = (
    *LOAD,
    *_THREAD,
    Column("phase", "", "the innermost hooked function's", "phase"),
    Column("cpu_ns", "ns", "running", "cpu_ns"),
    Column("blocked_ns", "ns", "asleep until woken", "blocked_ns"),
    Column("runnable_ns", "ns", "waiting for a CPU", "runnable_ns"),
    Column("count", "", "times entered; null: divided by samples", "count"),
    Column("ci_ns", "ns", "95 % confidence interval, sampled detail only", "ci_ns"),
)

_SIZES = (
    *LOAD,
    Column("at_least", "bytes", "requests from this size to below its double", "at_least"),
    Column("requests", "", "how many", "requests"),
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

TABLES: dict[str, Table] = {
    "loads": Table("one load: its times, its bill and its verdict", _LOADS),
    "threads": Table("one thread of one load", _THREADS),
    "phases": Table("one phase of one thread of one load", _PHASES),
    "request_sizes": Table("read requests of one size class of one load", _SIZES),
    "request_kinds": Table("read requests of one kind of one load", _KINDS),
    "depth": Table("one slice of the time of one load's reads", _DEPTH),
    "timeline": Table("one sample of the memory of one load", _TIMELINE),
    "cached_files": Table("what one load did to the page cache of one file", _CACHED),
    "read_files": Table("how one load read one file", _READ),
    "copies": Table("what one load copied from one place to another", _COPIES),
    "hooks": Table("one hook", _HOOKS),
    "skipped": Table("one strategy that could not run", _SKIPPED),
    **RECORDED,
}

#: Tables made from the report's document; the others are the recording's own.
DERIVED = (
    "loads", "threads", "phases", "request_sizes", "request_kinds", "depth", "timeline",
    "cached_files", "read_files", "copies", "hooks", "skipped",
)  # fmt: skip
