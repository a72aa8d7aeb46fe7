"""The phases a thread's time is divided into.

Time is exclusive: the innermost active hook owns it.  The position in
``PHASES`` is the phase's number in the BPF program, so new phases are added
at the end.
"""

from __future__ import annotations

PHASES: tuple[str, ...] = (
    "user",
    "syscall",
    "heap-alloc",
    "export",
    "udmabuf",
    "shmem",
    "map",
    "vmap",
    "fault",
    "gup",
    "page-cache",
    "readahead",
    "copy",
    "splice",
    "dio",
    "submit",
    "reclaim",
    "release",
    "module",
)

PHASE_ID: dict[str, int] = {name: number for number, name in enumerate(PHASES)}

# What each phase is, in the kernel's terms; `report` and the docs print these.
MEANING: dict[str, str] = {
    "user": "user space",
    "syscall": "in a system call, in none of the hooked functions",
    "heap-alloc": "dma-heap allocation: pages and their zeroing",
    "export": "dma_buf_export, dma_buf_fd",
    "udmabuf": "UDMABUF_CREATE: pinning the memfd's folios",
    "shmem": "shmem/memfd folios: allocation, zeroing, page-cache insertion",
    "map": "mmap of a dma-buf",
    "vmap": "kernel mapping of a dma-buf",
    "fault": "page faults",
    "gup": "get_user_pages: walking page tables and pinning for direct I/O",
    "page-cache": "filemap_get_pages: lookup and waiting for folios",
    "readahead": "readahead: allocating and adding folios, building bios",
    "copy": "copying between page cache and buffer",
    "splice": "moving pages through a pipe",
    "dio": "direct I/O: building bios, waiting for the disk",
    "submit": "block submission: bio to request to driver",
    "reclaim": "direct reclaim and compaction",
    "release": "freeing dma-buf and shmem memory",
    "module": "the dmatrace_loader module",
}
