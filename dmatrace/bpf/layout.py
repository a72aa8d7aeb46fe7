"""The structures of dmatrace.h as Python sees them (ctypes).

A guest test compares the sizes with those bcc computed from the C side.
Times are CLOCK_MONOTONIC ns, amounts bytes.
"""

from __future__ import annotations

import ctypes

PHASE_MAX = 32
HOOK_MAX = 128
DEPTH_MAX = 16
FRAMES_MAX = 64
REGIONS_MAX = 32
SIZES_MAX = 16
PATH_MAX_KEPT = 96
NO_CALL = 0xFFFFFFFF
COUNTER_MAX = 32
PHASE_OUTER = 0xFF

MODE_CPU, MODE_BLOCKED, MODE_RUNNABLE = range(3)
# enum late: nothing is known of a running thread until its first event; LATE_ALL.
LATE_NOT, LATE_FRAMES, LATE_ALL = range(3)
LOST = ("ring", "threads")  # enum lost, in order; the names are the recording's
EV_SNAPSHOT, EV_REQUEST, EV_BUFFER, EV_INTERVAL, EV_WAIT, EV_RUN, EV_SAMPLE, EV_CALL = range(1, 9)
BUFFER_KINDS = {1: "export", 2: "release"}
# enum request_kind, in order.
REQUEST_KINDS = ("unknown", "direct", "readahead", "page-cache", "metadata", "swap")
RUN_KINDS = {0: "readahead", 1: "read", 2: "mapped"}
# enum way_path, enum target and enum call, in order.
WAY_PATHS = ("none", "buffered", "direct", "spliced", "fault", "written")
TARGETS = (
    "unknown", "anonymous", "shmem", "dmabuf", "device", "file", "pipe", "socket", "kernel",
    "mapping",
)  # fmt: skip
CALLS = (
    "", "open", "close", "mmap", "munmap", "madvise", "fadvise", "readahead", "udmabuf",
    "attach", "detach",
)  # fmt: skip
WAY_O_DIRECT, WAY_DONTCACHE, WAY_FIXED, WAY_WORKER, WAY_LATE = 1, 2, 4, 8, 16
DEV_HUGETLB, DEV_SHMEM = 1, 2  # enum dev_kind
# enum removal, in order.
REMOVALS = ("other", "invalidate", "truncate", "unlink", "drop_caches", "reclaim", "kswapd")
REMOVED_MAX = 8
# enum pinned_slot
PINNED_NOW, PINNED_PEAK, PINNED_MOMENT, PINNED_SINCE, PINNED_NS = range(5)
SNAP_KINDS = {1: "begin", 2: "end", 3: "fork", 4: "exit", 5: "work-begin", 6: "work-end"}

# enum counter, in order; the names are the recording's.
COUNTERS: tuple[str, ...] = (
    "copy_read_bytes",
    "copy_write_bytes",
    "copy_shmem_read_bytes",
    "dio_bytes",
    "dio_errors",
    "shmem_alloc_bytes",
    "pin_bytes",
    "lost_exits",
    "orphan_exits",
    "overflows",
    "wake_ns",
    "splice_cache_bytes",
    "splice_shmem_bytes",
    "splice_pages_bytes",
    "splice_write_bytes",
    "copy_stream_bytes",
    "copy_read_module_bytes",
    "copy_write_shmem_bytes",
    "copy_write_pipe_bytes",
    "copy_pipe_shmem_bytes",
    "bio_read_bytes",
    "cache_added_bytes",
    "cache_removed_bytes",
    "readahead_bytes",
    "refault_bytes",
    "sched_run_ns",
    "sched_wait_ns",
)

u32, u64 = ctypes.c_uint32, ctypes.c_uint64


class Cell(ctypes.Structure):
    """struct cell: ns by mode (cpu, blocked, runnable), entries."""

    _fields_ = (("ns", u64 * 3), ("count", u64))


class Frame(ctypes.Structure):
    """struct frame: one open hook."""

    _fields_ = (("hook", u32), ("phase", u32), ("start", u64), ("arg", u64), ("file", u64))


class FileKey(ctypes.Structure):
    """struct file_key; dev is the kernel's dev_t, see ``kernel_dev``."""

    _fields_ = (("ino", u64), ("dev", u64))


class Run(ctypes.Structure):
    """struct run: bytes [start, end) of a file that a thread went through in one go."""

    _fields_ = (
        ("type", u32),
        ("kind", u32),
        ("tid", u32),
        ("tgid", u32),
        ("ino", u64),
        ("dev", u64),
        ("start", u64),
        ("end", u64),
        ("since", u64),
        ("until", u64),
    )


class WayKey(ctypes.Structure):
    """struct way_key: reads that are alike in all that names their way."""

    _fields_ = (
        ("file", FileKey),
        ("to", u64),
        ("to_dev", u32),
        ("tgid", u32),
        ("call", u32),
        ("path", ctypes.c_uint8),
        ("kind", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8),
    )


class Way(ctypes.Structure):
    """struct way: how many such reads, their bytes, sizes and depth; ns."""

    _fields_ = (
        ("calls", u64),
        ("bytes", u64),
        ("first", u64),
        ("last", u64),
        ("begun", u64),
        ("depth", u64),
        ("deepest", u64),
        ("flying", u64),
        ("largest", u64),
        ("size", u64),
        ("sizes", u32 * SIZES_MAX),
    )


class Region(ctypes.Structure):
    """struct region: a mapping that reads may go into."""

    _fields_ = (("start", u64), ("end", u64), ("ino", u64), ("dev", u32), ("kind", u32))


class Regions(ctypes.Structure):
    """struct regions: those of one process."""

    _fields_ = (("missed", u32), ("reserved", u32), ("at", Region * REGIONS_MAX))


class Call(ctypes.Structure):
    """struct call_event: a system call that prepares or ends a load."""

    _fields_ = (
        ("type", u32),
        ("what", u32),
        ("tid", u32),
        ("tgid", u32),
        ("at", u64),
        ("ino", u64),
        ("address", u64),
        ("length", u64),
        ("size", u64),
        ("other", u64),
        ("dev", u32),
        ("other_dev", u32),
        ("flags", u32),
        ("prot", u32),
        ("kind", u32),
        ("fd", ctypes.c_int32),
        ("exporter", ctypes.c_char * 16),
        ("path", ctypes.c_char * PATH_MAX_KEPT),
    )


class Thread(ctypes.Structure):
    """struct thread: one traced thread, cumulative since it was first traced."""

    _fields_ = (
        ("type", u32),
        ("kind", u32),
        ("load_id", u32),
        ("window", u32),
        ("at", u64),
        ("tid", u32),
        ("tgid", u32),
        ("comm", ctypes.c_char * 16),
        ("last", u64),
        ("depth", u32),
        ("over", u32),
        ("phase", u32),
        ("mode", u32),
        ("woken", u64),
        ("off", u64),
        ("owner", u32),
        ("late", u32),
        ("counters", u64 * COUNTER_MAX),
        ("hits", u32 * HOOK_MAX),
        ("cells", Cell * PHASE_MAX),
        ("stack", Frame * DEPTH_MAX),
        ("runs", Run * len(RUN_KINDS)),
        ("reading", FileKey),
        ("reading_at", u64),
        ("faulting", FileKey),
        ("faulting_at", u64),
        ("heap", u64),
        ("way", WayKey),
        ("source", u64),
        ("sink", u64),
        ("call", u32),
        ("call_dev", u32),
        ("call_ino", u64),
        ("call_length", u64),
    )


class Snapshot(ctypes.Structure):
    """The EV_SNAPSHOT record: struct thread up to its stack."""

    _fields_ = Thread._fields_[: [name for name, _ in Thread._fields_].index("stack")]


class Request(ctypes.Structure):
    """struct request_event: a completed block request."""

    _fields_ = (
        ("type", u32),
        ("op", u32),
        ("tid", u32),
        ("tgid", u32),
        ("dev", u32),
        ("error", u32),
        ("sector", u64),
        ("bytes", u64),
        ("queue_ns", u64),
        ("issue_ns", u64),
        ("complete_ns", u64),
        ("ino", u64),
        ("file_dev", u32),
        ("kind", u32),
        ("phase", u32),
        ("reserved", u32),
    )


class Buffer(ctypes.Structure):
    """struct buffer_event: a dma-buf exported or released."""

    _fields_ = (
        ("type", u32),
        ("kind", u32),
        ("tid", u32),
        ("tgid", u32),
        ("at", u64),
        ("ino", u64),
        ("size", u64),
        ("exporter", ctypes.c_char * 16),
        ("heap", ctypes.c_char * 16),
    )


class Interval(ctypes.Structure):
    """struct interval_event: one call of a hook that reports its calls."""

    _fields_ = (
        ("type", u32),
        ("phase", u32),
        ("tid", u32),
        ("tgid", u32),
        ("hook", u32),
        ("reserved", u32),
        ("start", u64),
        ("end", u64),
    )


class Sample(ctypes.Structure):
    """struct sample: a kernel stack, innermost address first."""

    _fields_ = (
        ("type", u32),
        ("bytes", u32),
        ("tid", u32),
        ("tgid", u32),
        ("phase", u32),
        ("mode", u32),
        ("at", u64),
        ("ips", u64 * FRAMES_MAX),
    )


class SampleHead(ctypes.Structure):
    """The EV_SAMPLE record without its addresses, of which ``bytes`` bytes follow."""

    _fields_ = Sample._fields_[:-1]


class Wait(ctypes.Structure):
    """struct wait_event: a thread off its CPU."""

    _fields_ = (
        ("type", u32),
        ("phase", u32),
        ("tid", u32),
        ("tgid", u32),
        ("start", u64),
        ("woken", u64),
        ("end", u64),
    )


class FilePages(ctypes.Structure):
    """struct file_pages: bytes since the file was first seen."""

    _fields_ = (
        ("added", u64),
        ("removed", u64),
        ("removed_self", u64),
        ("peak", u64),
        ("added_self", u64),
        ("readahead", u64),
        ("refaulted", u64),
        ("shmem", u64),
        ("by", u64 * REMOVED_MAX),
        ("self_by", u64 * REMOVED_MAX),
    )


#: Members of struct file_io, in order; the recording's columns.
FILE_IO = (
    "direct", "direct_calls", "einval", "efault", "errors", "buffered", "fallback", "spliced",
    "offsets", "memory",
)  # fmt: skip


class FileIo(ctypes.Structure):
    """struct file_io: what traced threads read of one file, by path, bytes and calls."""

    _fields_ = tuple((name, u64) for name in FILE_IO)


def kernel_dev(major: int, minor: int) -> int:
    """The kernel's dev_t (include/linux/kdev_t.h), which tracepoints carry, not stat(2)'s."""
    return major << 20 | minor


def dev_name(dev: int) -> str:
    """ "MAJOR:MINOR" of the kernel's dev_t."""
    return f"{dev >> 20}:{dev & 0xFFFFF}"
