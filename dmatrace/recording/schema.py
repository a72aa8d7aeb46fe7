"""The tables of a recording, as data.

Times are ns of CLOCK_MONOTONIC, sizes are bytes.  ``snapshots`` and
``counters`` are cumulative since the thread was first traced; a phase or
counter that a snapshot does not name is zero, so a reader subtracts two
snapshots of a thread to know what happened between them.

A column is written ``name[:kind][?]``; ``?`` marks what a writer may leave
out (then 0, "" or null).  Adding columns keeps the schema number; changing
what a column means raises it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

SCHEMA = 1
META = "meta.json"
STREAM = ".arrows"  # Arrow IPC stream, while recording
FINAL = ".parquet"  # after close
_PIECE = 1 << 20  # bytes


class Column(NamedTuple):
    """One column: its kind is int64, uint64, str or bool; only bool is nullable."""

    name: str
    kind: str
    optional: bool

    @property
    def default(self) -> int | str | None:
        """What stands where a writer said nothing."""
        return {"str": "", "bool": None}.get(self.kind, 0)


def _columns(text: str) -> tuple[Column, ...]:
    found = []
    for word in text.split():
        name, _, kind = word.rstrip("?").partition(":")
        found.append(Column(name, kind or "int64", word.endswith("?")))
    return tuple(found)


TABLES: dict[str, tuple[Column, ...]] = {
    # kind: begin|end (the loader's markers), work-begin|work-end (of a worker's work for
    # thread ``owner``, at other times 0), fork|exit (of a thread), poll (the recorder's).
    "snapshots": _columns(
        "t_ns load_id window kind:str tid tgid comm:str phase:str"
        " cpu_ns blocked_ns runnable_ns count owner?"
    ),
    # A counters row has the t_ns and kind of the snapshot it was taken with.
    "counters": _columns("t_ns load_id window kind:str tid tgid counter:str value"),
    # The last row of a load_id holds: a row written when the load starts (with end_ns 0)
    # names it in a recording whose recorder was killed.  module: what the loader module
    # reported, a JSON object of integers (times in ns), or "".  inventory: where the rows of
    # that table come from, or "" if none was taken.
    "loads": _columns(
        "load_id strategy:str round file:str? dev? ino:uint64? bytes? cache_before:str?"
        " verified:bool? refused:str? create_ns? io_ns? close_ns? wall_ns?"
        " cachestat_before:str? cachestat_after:str? pinned_peak?"
        " page_cache_added? page_cache_removed? page_cache_peak? page_cache_end?"
        " mapped? dmabuf? shmem? start_ns? end_ns? failed:str? module:str? inventory:str?"
        # Of a process that was traced and did not load by one of our strategies ("observed"):
        # ended is "exit code N", "signal N", or "" while it runs.
        " pid? comm:str? command:str? ended:str?"
    ),
    # The loader's own clock, schedstat and getrusage(2), per thread and window.  clock: whose
    # start and end are, "recorder" or "tracer" of a process that is not a loader.
    "threads": _columns(
        "load_id window tid comm:str start_ns end_ns sched_run_ns sched_wait_ns read_bytes? faults?"
        " mark_ns? clock:str?"
    ),
    # What the kernel's delay accounting says of a thread (window: create and io of a load, all
    # of a traced process), differences in ns and numbers of waits; full is 0 where only
    # ``cpu`` is known, because the thread began before the accounting was switched on.
    "delays": _columns(
        "load_id tid tgid comm:str full cpu_count cpu_ns"
        " blkio_count? blkio_ns? swapin_count? swapin_ns? freepages_count? freepages_ns?"
        " thrashing_count? thrashing_ns? compact_count? compact_ns? wpcopy_count? wpcopy_ns?"
        " irq_count? irq_ns?"
    ),
    # op: read|write|other.  queue_ns is the bio's, in its submitter's context.  dev: the device
    # (a partition where it was asked).  kind: direct|readahead|page-cache|metadata|swap|unknown,
    # "" in older recordings; phase: of the call that submitted it.  file_dev, ino: whose content
    # it is; file_dev with ino 0: the device's own, as metadata is; both 0: not known.
    "requests": _columns(
        "load_id tid tgid dev sector bytes op:str queue_ns issue_ns complete_ns"
        " kind:str? phase:str? file_dev? ino:uint64?"
    ),
    # A thread off its CPU: blocked from start to woken, runnable from there to end.  Of 10 us
    # or more; the cells have the shorter ones too.
    "waits": _columns("load_id tid tgid phase:str start_ns woken_ns end_ns"),
    # What a load's threads read of a file, by path (struct file_io of bpf/dmatrace.h), its name
    # where it is known, and what statx(STATX_DIOALIGN) asks of direct I/O (0 and known false:
    # it was not asked or does not say).
    "file_reads": _columns(
        "load_id dev ino:uint64 path:str? direct direct_calls einval efault errors buffered"
        " fallback spliced offsets:uint64 memory:uint64"
        " fs:str? align_known:bool? align_memory? align_offset?"
    ),
    # Cumulative per file; removed_self is what the load's own threads removed.  A row for each
    # file that changed since the last sample.  current and peak count what was cached before the
    # ledger began where based is true; else they are net of it.  kind: file|shmem.  removed_*
    # divide removed by what removed the folios, self_* the same of removed_self; what is left
    # of both is "other".
    "page_cache": _columns(
        "t_ns load_id dev ino:uint64 added removed removed_self current peak"
        " based:bool? kind:str? added_self? readahead? refaulted?"
        " removed_invalidate? removed_truncate? removed_unlink? removed_drop_caches?"
        " removed_reclaim? removed_kswapd? self_invalidate? self_truncate? self_unlink?"
        " self_drop_caches? self_reclaim? self_kswapd?"
    ),
    # Paths of the files in page_cache, where a traced process had them open or mapped; the
    # last row of a (dev, ino) holds.
    "files": _columns("t_ns load_id dev ino:uint64 path:str"),
    # Samples of the rest, a row where the value changed.  what and name: pinned (now|page_us|
    # held_ns: bytes, pages x us and ns so far), elsewhere (enum removal: bytes so far that left
    # files which page_cache does not have), psi (memory.some ...: ns so far), vmstat (a counter
    # of /proc/vmstat, in its unit), sample (mark: 1 at begin and end, 0 between).
    "ledger": _columns("t_ns load_id what:str name:str value"),
    # Bytes [start, end) of a file that a thread added by readahead, read, or had mapped around a
    # fault, in one go from since_ns to until_ns.  kind: readahead|read|mapped.
    "runs": _columns("load_id tid tgid kind:str dev ino:uint64 start end since_ns until_ns"),
    # How a process took the bytes of a file of 1 MiB or more; cumulative, and the last row of
    # the columns up to late holds.  way: buffered|direct|spliced (a read), fault (calls are
    # faults, bytes what each could map at most), written (into a file in memory, out of the pipe
    # dev:ino or, where that is 0, of user memory).  call: the system call, "worker" (a kernel
    # thread for the process), "" (none: user space faulted).  target, to_dev, to_ino: what took
    # the bytes (bpf/dmatrace.h, enum target).  begun: calls and asynchronous requests; depth: sum
    # over these of how many were under way, each itself included; deepest: most at once.  sizes: a
    # JSON list, calls below 4 KiB, below 8 KiB, ... below 64 MiB, and larger ones.
    "ways": _columns(
        "t_ns load_id tgid dev ino:uint64 size path:str? format:str? way:str call:str target:str"
        " to_dev to_ino:uint64 o_direct:bool dontcache:bool fixed:bool worker:bool late?"
        " calls bytes first_ns last_ns begun depth deepest largest sizes:str"
    ),
    # System calls that prepare or end a load, and what a process had before it was followed
    # (what: mapped|held).  what: open|close|mmap|munmap|madvise|fadvise|readahead|udmabuf (dev:ino
    # is the dma-buf, other_dev:other the memfd)|attach|detach (of a device, path, to a dma-buf).
    # flags: of open(2), of mmap(2), or the advice; other: of a mapping and advice the offset in
    # the file.
    "calls": _columns(
        "t_ns load_id tid tgid what:str target:str dev ino:uint64 size address:uint64"
        " length flags prot fd exporter:str other:uint64 other_dev path:str"
    ),
    # event: export|release.  heap: of an export from a dma-heap, its name.
    "buffers": _columns("t_ns load_id event:str ino:uint64 size exporter:str tid tgid heap:str?"),
    # Kernel stacks of traced threads on a CPU.  cell: the phase that the tracer charged the
    # moment to; phase: the one that owns the stack; functions: "outer;inner", "" in user space.
    "samples": _columns("t_ns load_id tid cell:str phase:str functions:str count tgid?"),
    # Calls of the hooks that report them: allocation, for overlap, and the loader module's steps.
    "intervals": _columns("load_id tid phase:str start_ns end_ns hook:str? tgid?"),
    # Every dma-buf of the machine at the end of a load, while it is held: a row for each
    # process that holds one (fds: descriptors, mapped: bytes), or one with pid 0.  size -1:
    # not known.  devices: those attached, a JSON list, or "" where that was not seen.
    "inventory": _columns(
        "t_ns load_id ino:uint64 size exporter:str name:str pid comm:str fds mapped devices:str?"
    ),
}


def arrow_schema(table: str) -> pa.Schema:
    """The Arrow schema of ``table``; KeyError for an unknown one."""
    import pyarrow as pa

    types = {"int64": pa.int64(), "uint64": pa.uint64(), "str": pa.string(), "bool": pa.bool_()}
    return pa.schema(
        [pa.field(c.name, types[c.kind], nullable=c.kind == "bool") for c in TABLES[table]]
    )


def stream_bytes(file: Path) -> pa.NativeFile:
    """A stream's bytes, in large pieces: Arrow asks for four small ones for each batch.

    From a network's or a virtual machine's shared directory each would be a message.
    """
    import pyarrow as pa

    return pa.input_stream(str(file), compression=None, buffer_size=_PIECE)


def decoded(found: pa.Schema) -> pa.Schema:
    """A file's schema, if its columns' names are ones; UnicodeDecodeError where one is not.

    A name may hold any bytes, and Arrow decodes it when it is asked for, long after the file
    was read.
    """
    _ = found.names
    return found
