"""The hook table: which kernel function opens which phase.

One row is one logical event.  ``candidates`` are tried in order, by presence
(BTF, kallsyms, tracefs), never by kernel version; the newest name comes first
with the commit that brought it.  ``hides`` says what the user does not see
when none of them is there.

Per-page rows are few on purpose: they decide what tracing costs.
"""

from __future__ import annotations

from dmatrace.bpf.hook import Hook, Tap
from dmatrace.bpf.hooks_module import MODULE_HOOKS

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
        "export of dma-bufs (shown as the phase around it); where there are no dma_buf"
        " tracepoints, their bytes and exporters too",
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
        None,  # of UDMABUF_CREATE, or of the loader module's read into a memfd
        # Linux kernel commit 89c1905d9c14 "mm/gup: introduce memfd_pin_folios()" (in v6.11)
        ("memfd_pin_folios",),
        "bytes that udmabuf, and reads into a memfd by the loader module, keep pinned",
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
        "filemap_fault",
        "page-cache",
        ("filemap_fault",),
        "lookup and waiting by faults on file mappings (shown as fault)",
        on_entry="filemap_fault",
        on_exit="filemap_fault",
        program="read_hook",
    ),
    Hook(
        # Maps up to fault_around_bytes (64 KiB) of cached pages at once.
        "filemap_map_pages",
        "fault",
        ("filemap_map_pages",),
        "how many faults on file mappings were served from the page cache",
        on_entry="map_pages",
        program="read_hook",
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
    # What faults on mappings, fadvise(WILLNEED) and readahead(2) call, and the two above.
    Hook(
        "page_cache_ra_unbounded",
        "readahead",
        ("page_cache_ra_unbounded",),
        "readahead for mappings, fadvise and readahead(2) (shown as page-cache or syscall)",
    ),
    Hook(
        "page_cache_ra_order",
        "readahead",
        ("page_cache_ra_order",),
        "readahead with large folios for mappings (shown as page-cache)",
    ),
    Hook(
        "workingset_refault",
        None,
        ("workingset_refault",),
        "bytes that come back after they were reclaimed (refaults), per file",
        on_entry="refault",
    ),
    Hook(
        "filemap_read",
        "copy",
        ("filemap_read",),
        "buffered reads: their copying and its bytes",
        on_entry="filemap_read",
        on_exit="filemap_read",
        program="read_hook",
    ),
    Hook(
        "generic_perform_write",
        "copy",
        ("generic_perform_write",),
        "buffered writes into files and memfds: their copying and its bytes",
        on_entry="iocb",
        on_exit="perform_write",
        program="read_hook",
    ),
    Hook(
        "shmem_file_read_iter",
        "copy",
        ("shmem_file_read_iter",),
        "reads of tmpfs files: their copying and its bytes",
        on_entry="shmem_read",
        on_exit="shmem_read",
        program="read_hook",
    ),
    Hook(
        "__iomap_dio_rw",
        "dio",
        ("__iomap_dio_rw",),
        "direct I/O through iomap (shown as syscall time)",
        on_entry="dio_submit",
        on_exit="dio_pointer",
        program="read_hook",
    ),
    Hook(
        "iomap_dio_complete",
        "dio",
        ("iomap_dio_complete",),
        "bytes of direct I/O, and so the verdict whether it was direct",
        on_entry="dio_complete",
        on_exit="dio_complete",
        program="read_hook",
    ),
    Hook(
        "__blockdev_direct_IO",
        "dio",
        ("__blockdev_direct_IO",),
        "direct I/O on file systems that do not use iomap",
        on_entry="dio_other",
        on_exit="dio_bytes",
        program="read_hook",
    ),
    Hook(
        "blkdev_direct_IO",
        "dio",
        ("blkdev_direct_IO",),
        "direct I/O on block devices",
        on_entry="dio_block",
        on_exit="dio_bytes",
        program="read_hook",
    ),
    Hook(
        "splice_direct_to_actor",
        "splice",
        ("splice_direct_to_actor",),
        "sendfile(2) (shown as syscall time)",
    ),
    Hook("do_splice", "splice", ("do_splice",), "splice(2) (shown as syscall time)"),
    Hook(
        "filemap_splice_read",
        "splice",
        # Linux kernel commit 07073eb01c5f "splice: Add a func to do a splice from a buffered
        # file without ITER_PIPE" (in v6.3)
        ("filemap_splice_read",),
        "bytes that a pipe takes from the page cache, and so the verdict on them",
        on_entry="splice_cache",
        on_exit="splice_cache",
        unless="generic_file_splice_read",
        program="read_hook",
    ),
    Hook(
        "generic_file_splice_read",
        "splice",
        # Before: filemap_read() or direct I/O into an iterator that is the pipe.
        ("generic_file_splice_read",),
        "bytes that a pipe takes from a file: from the page cache they are shown as copied",
        on_entry="splice_pipe",
        on_exit="splice_pipe",
        unless="filemap_splice_read",
        program="read_hook",
    ),
    Hook(
        "copy_splice_read",
        "splice",
        # Linux kernel commit 69df79a45111 "splice: Rename direct_splice_read() to
        # copy_splice_read()" (in v6.5)
        ("copy_splice_read", "direct_splice_read"),
        "bytes that are read into the pipe's own pages (O_DIRECT)",
        on_exit="splice_pages",
        unless="generic_file_splice_read",
    ),
    Hook(
        "shmem_file_splice_read",
        "splice",
        # Linux kernel commit bd194b187115 "shmem: Implement splice-read" (in v6.5)
        ("shmem_file_splice_read",),
        "bytes that a pipe takes from a tmpfs file",
        on_entry="file",
        on_exit="splice_shmem",
        unless="generic_file_splice_read",
        program="read_hook",
    ),
    Hook(
        "iter_file_splice_write",
        "splice",
        ("iter_file_splice_write",),
        "bytes that leave a pipe into a file",
        on_exit="splice_write",
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
    Hook(
        "io_wq_submit_work",
        "syscall",
        ("io_wq_submit_work",),
        "io_uring requests that go to io-wq workers: their time, bytes and block requests",
        on_entry="io_wq_work",
        program="work",
        members=("task_struct_worker_private", "io_worker_wq", "io_wq_task"),
    ),
    *MODULE_HOOKS,
)

DIO_TAP = Tap(
    "asynchronous dio",
    ("iomap:iomap_dio_complete",),
    "direct.c",
    "bytes of asynchronous direct I/O (io_uring, aio)",
)
DMABUF_TAP = Tap(
    "dma-buf events",
    # Linux kernel commit 281a22631423 "dma-buf: add some tracepoints to debug." (in v7.0)
    ("dma_buf:dma_buf_export",),
    "dmabuf.c",
    "creation of dma-bufs: their bytes and exporters",
    instead="dma_buf_export",
)
TAPS: tuple[Tap, ...] = (
    DIO_TAP,
    DMABUF_TAP,
    Tap(
        "tasks",
        (
            "raw_syscalls:sys_enter",
            "raw_syscalls:sys_exit",
            "sched:sched_switch",
            "sched:sched_wakeup",
            "sched:sched_process_fork",
            "sched:sched_process_exec",
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

# Function entries without phase, which only the taps' C files can use.
BIO_RELEASE = Hook(
    "bio release",
    None,
    ("__bio_release_pages",),
    "when direct I/O's pinned pages are released",
    program="bio_release",
    entry_only=True,
)
# Where the tap of this name is not there.
DIO_COMPLETE = Hook(
    DIO_TAP.name,
    None,
    ("iomap_dio_complete",),
    DIO_TAP.hides,
    program="dio_complete",
    entry_only=True,
)
