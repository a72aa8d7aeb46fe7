"""The hook table: which kernel function opens which phase.

One row is one logical event.  ``candidates`` are tried in order, by presence
(BTF, kallsyms, tracefs), never by kernel version; the newest name comes first
with the commit that brought it.  ``hides`` says what the user does not see
when none of them is there.

Per-page rows are few on purpose: they decide what tracing costs.
"""

from __future__ import annotations

from dataclasses import dataclass

# Handlers in handlers.c; their position is what the attach cookie carries.
ENTRY_HANDLERS = ("none", "filemap_read", "memfd_pin", "release")
EXIT_HANDLERS = (
    "none",
    "filemap_read",
    "perform_write",
    "shmem_read",
    "dio_bytes",
    "dio_pointer",
    "shmem_alloc",
    "pin_pages",
    "memfd_pin",
    "export",
)


@dataclass(frozen=True)
class Hook:
    """A pair of probes, on entry and return of a function, that owns a phase.

    ``on_entry`` and ``on_exit`` name handlers of handlers.c; ``interval``
    also reports each call as (start, end) for the overlap of allocation and
    I/O; ``per_page`` marks rows that fire for every page on some path.
    """

    name: str
    phase: str
    candidates: tuple[str, ...]
    hides: str
    on_entry: str = "none"
    on_exit: str = "none"
    interval: bool = False
    per_page: bool = False


@dataclass(frozen=True)
class Tap:
    """A tracepoint, or a function entry, that counts and opens no phase.

    ``events`` must all be present (tracefs names); ``source`` is the C file
    that holds the handlers and is compiled only then.
    """

    name: str
    events: tuple[str, ...]
    source: str
    hides: str
    required: bool = False


HOOKS: tuple[Hook, ...] = (
    # Number 0 is the system call itself: raw_syscalls, in tasks.c.
    Hook(
        "dma_heap_buffer_alloc",
        "heap-alloc",
        # Static and inlined into dma_heap_ioctl() on Debian's builds; a symbol on Android's GKI.
        ("dma_heap_buffer_alloc", "dma_heap_ioctl"),
        "allocation from dma-heaps (it is shown as syscall time)",
        interval=True,
    ),
    Hook(
        "system_heap_allocate",
        "heap-alloc",
        ("system_heap_allocate",),
        "nothing while dma_heap_buffer_alloc is hooked; else system-heap allocation",
    ),
    Hook(
        "dma_buf_export",
        "export",
        ("dma_buf_export",),
        "creation of dma-bufs: their bytes and exporters",
        on_exit="export",
    ),
    Hook("dma_buf_fd", "export", ("dma_buf_fd_install", "dma_buf_fd"), "publishing of dma-buf fds"),
    Hook(
        "udmabuf_create",
        "udmabuf",
        ("udmabuf_create", "udmabuf_ioctl"),
        "UDMABUF_CREATE (it is shown as syscall time)",
        interval=True,
    ),
    Hook(
        "memfd_pin_folios",
        "udmabuf",
        # Linux kernel commit 89c1905d9c14 "mm/gup: introduce memfd_pin_folios()" (in v6.11)
        ("memfd_pin_folios",),
        "bytes that udmabuf keeps pinned",
        on_entry="memfd_pin",
        on_exit="memfd_pin",
    ),
    Hook(
        "shmem_alloc_and_add_folio",
        "shmem",
        # Linux kernel commit 3022fd7af960 "shmem: _add_to_page_cache() before
        # shmem_inode_acct_blocks()" (in v6.7)
        ("shmem_alloc_and_add_folio", "shmem_alloc_and_acct_folio"),
        "shmem/memfd allocation and zeroing (shown as fault, udmabuf or copy), and its bytes",
        on_exit="shmem_alloc",
        per_page=True,
    ),
    Hook(
        "shmem_fallocate",
        "shmem",
        ("shmem_fallocate",),
        "fallocate(2) on a memfd (shown as syscall time)",
    ),
    Hook(
        "shmem_write_begin",
        "shmem",
        ("shmem_write_begin",),
        "looking up shmem folios for write(2) (shown as copy)",
        per_page=True,
    ),
    Hook(
        "shmem_write_end",
        "shmem",
        ("shmem_write_end",),
        "releasing shmem folios after write(2) (shown as copy)",
        per_page=True,
    ),
    Hook(
        "dma_buf_mmap",
        "map",
        ("dma_buf_mmap_internal",),
        "mmap of a dma-buf (shown as syscall time)",
    ),
    Hook("dma_buf_vmap", "vmap", ("dma_buf_vmap",), "kernel mappings of dma-bufs"),
    Hook(
        "handle_mm_fault",
        "fault",
        ("handle_mm_fault",),
        "page faults (shown as user, gup or copy)",
        per_page=True,
    ),
    Hook(
        "pin_user_pages_fast",
        "gup",
        # Direct I/O pins since it uses iov_iter_extract_pages(); before, it took references
        # through get_user_pages_fast().
        ("pin_user_pages_fast",),
        "pinning of user pages for direct I/O (shown as dio), and the pinned bytes",
        on_exit="pin_pages",
    ),
    Hook(
        "get_user_pages_fast",
        "gup",
        ("get_user_pages_fast",),
        "get_user_pages by paths that do not pin (shown as dio)",
    ),
    Hook(
        "filemap_get_pages",
        "page-cache",
        ("filemap_get_pages",),
        "page-cache lookup and waiting (shown as copy)",
    ),
    Hook(
        "page_cache_sync_ra",
        "readahead",
        ("page_cache_sync_ra",),
        "synchronous readahead (shown as page-cache)",
    ),
    Hook(
        "page_cache_async_ra",
        "readahead",
        ("page_cache_async_ra",),
        "asynchronous readahead (shown as page-cache)",
    ),
    Hook(
        "filemap_read",
        "copy",
        ("filemap_read",),
        "buffered reads: their copying and its bytes",
        on_entry="filemap_read",
        on_exit="filemap_read",
    ),
    Hook(
        "generic_perform_write",
        "copy",
        ("generic_perform_write",),
        "buffered writes into files and memfds: their copying and its bytes",
        on_exit="perform_write",
    ),
    Hook(
        "shmem_file_read_iter",
        "copy",
        ("shmem_file_read_iter",),
        "reads of tmpfs files: their copying and its bytes",
        on_exit="shmem_read",
    ),
    Hook(
        "__iomap_dio_rw",
        "dio",
        ("__iomap_dio_rw",),
        "direct I/O through iomap (shown as syscall time)",
        on_exit="dio_pointer",
    ),
    Hook(
        "iomap_dio_complete",
        "dio",
        ("iomap_dio_complete",),
        "bytes of direct I/O, and so the verdict whether it was direct",
        on_exit="dio_bytes",
    ),
    Hook(
        "__blockdev_direct_IO",
        "dio",
        ("__blockdev_direct_IO",),
        "direct I/O on file systems that do not use iomap",
        on_exit="dio_bytes",
    ),
    Hook(
        "blkdev_direct_IO",
        "dio",
        ("blkdev_direct_IO",),
        "direct I/O on block devices",
        on_exit="dio_bytes",
    ),
    Hook("submit_bio", "submit", ("submit_bio",), "submission of bios (shown as dio or readahead)"),
    Hook(
        "blk_flush_plug",
        "submit",
        # Linux kernel commit 008f75a20e70 "block: cleanup the flush plug helpers" (in v5.16)
        ("__blk_flush_plug", "blk_flush_plug_list"),
        "handing plugged requests to the driver (shown as dio or readahead)",
    ),
    Hook(
        "try_to_free_pages",
        "reclaim",
        ("try_to_free_pages",),
        "direct reclaim (shown as the phase that allocated)",
    ),
    Hook(
        "try_to_free_mem_cgroup_pages",
        "reclaim",
        ("try_to_free_mem_cgroup_pages",),
        "reclaim at a memory cgroup's limit (shown as the phase that allocated)",
    ),
    Hook(
        "try_to_compact_pages",
        "reclaim",
        ("try_to_compact_pages",),
        "direct compaction (shown as the phase that allocated)",
    ),
    Hook(
        "dma_buf_release",
        "release",
        ("dma_buf_release",),
        "release of dma-bufs (shown as user or syscall)",
        on_entry="release",
    ),
    Hook(
        "shmem_evict_inode",
        "release",
        ("shmem_evict_inode",),
        "freeing of memfds (shown as user or syscall)",
    ),
)

TAPS: tuple[Tap, ...] = (
    Tap(
        "tasks",
        (
            "raw_syscalls:sys_enter",
            "raw_syscalls:sys_exit",
            "sched:sched_switch",
            "sched:sched_wakeup",
            "sched:sched_process_fork",
            "sched:sched_process_exit",
        ),
        "tasks.c",
        "everything: without scheduler and system-call tracepoints time does not add up",
        required=True,
    ),
    Tap(
        "page-cache ledger",
        (
            "filemap:mm_filemap_add_to_page_cache",
            "filemap:mm_filemap_delete_from_page_cache",
        ),
        "pagecache.c",
        "page-cache bytes per file",
    ),
    Tap(
        "block requests",
        (
            "block:block_bio_queue",
            "block:block_split",
            "block:block_rq_issue",
            "block:block_rq_complete",
        ),
        "block.c",
        "block requests, their bytes and latency",
    ),
)

# The release of a bio's pinned pages: an entry without phase, and only useful with block.c.
BIO_RELEASE = Hook(
    "bio release", "dio", ("__bio_release_pages",), "when direct I/O's pinned pages are released"
)

# struct, member path(s, newest first), constant's name.
OFFSETS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("task_struct", ("pid",), "task_struct_pid"),
    ("task_struct", ("tgid",), "task_struct_tgid"),
    ("request", ("bio",), "request_bio"),
    ("request", ("__data_len",), "request___data_len"),
    ("request", ("__sector",), "request___sector"),
    ("request", ("cmd_flags",), "request_cmd_flags"),
    ("bio", ("bi_iter.bi_size",), "bio_bi_size"),
    ("dma_buf", ("size",), "dma_buf_size"),
    ("dma_buf", ("file",), "dma_buf_file"),
    ("dma_buf", ("exp_name",), "dma_buf_exp_name"),
    ("file", ("f_inode",), "file_f_inode"),
    ("inode", ("i_ino",), "inode_i_ino"),
    ("dentry", ("d_fsdata",), "dentry_d_fsdata"),
    ("folio", ("flags",), "folio_flags"),
    ("folio", ("_flags_1", "_folio_order"), "folio_order"),
)


@dataclass(frozen=True)
class Abi:
    """Where an architecture passes arguments: members of struct pt_regs.

    The first three serve functions and system calls alike, the fourth only
    system calls; ``prctl`` is the number of prctl(2).
    """

    arguments: tuple[str, str, str, str]
    result: str
    prctl: int


ABIS: dict[str, Abi] = {
    "x86_64": Abi(("di", "si", "dx", "r10"), "ax", 157),
    "aarch64": Abi(("regs[0]", "regs[1]", "regs[2]", "regs[3]"), "regs[0]", 167),
}
