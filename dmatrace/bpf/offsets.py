"""Members of kernel structures that the C files read, and where registers are.

Offsets come from the running kernel's BTF and enter as constants, so that no
kernel header is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# struct, member path(s, newest first), constant's name.
OFFSETS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("task_struct", ("pid",), "task_struct_pid"),
    ("task_struct", ("tgid",), "task_struct_tgid"),
    ("task_struct", ("flags",), "task_struct_flags"),
    ("task_struct", ("se.sum_exec_runtime",), "task_struct_sched_run"),
    ("task_struct", ("sched_info.run_delay",), "task_struct_sched_wait"),
    ("request", ("bio",), "request_bio"),
    ("request", ("__data_len",), "request___data_len"),
    ("request", ("__sector",), "request___sector"),
    ("request", ("cmd_flags",), "request_cmd_flags"),
    ("bio", ("bi_iter.bi_size",), "bio_bi_size"),
    ("bio", ("bi_iter.bi_idx",), "bio_bi_idx"),
    ("bio", ("bi_opf",), "bio_bi_opf"),
    ("bio", ("bi_bdev",), "bio_bi_bdev"),
    ("bio", ("bi_io_vec",), "bio_bi_io_vec"),
    ("bio", ("bi_private",), "bio_bi_private"),
    ("bio_vec", ("bv_page",), "bio_vec_bv_page"),
    ("block_device", ("bd_dev",), "block_device_bd_dev"),
    # "mm: rename the 'compound_head' field in the 'struct page' to 'compound_info'" (in 7.x)
    ("page", ("compound_info", "compound_head"), "page_compound"),
    ("folio", ("mapping",), "folio_mapping"),
    ("address_space", ("host",), "address_space_host"),
    ("task_struct", ("bio_list",), "task_struct_bio_list"),
    ("dma_buf", ("size",), "dma_buf_size"),
    ("dma_buf", ("file",), "dma_buf_file"),
    ("dma_buf", ("exp_name",), "dma_buf_exp_name"),
    ("task_struct", ("files",), "task_struct_files"),
    ("files_struct", ("fdt",), "files_struct_fdt"),
    ("fdtable", ("max_fds",), "fdtable_max_fds"),
    ("fdtable", ("fd",), "fdtable_fd"),
    ("file", ("f_inode",), "file_f_inode"),
    ("file", ("f_mapping",), "file_f_mapping"),
    ("file", ("f_flags",), "file_f_flags"),
    ("inode", ("i_ino",), "inode_i_ino"),
    ("inode", ("i_mode",), "inode_i_mode"),
    ("inode", ("i_rdev",), "inode_i_rdev"),
    ("inode", ("i_size",), "inode_i_size"),
    ("inode", ("i_sb",), "inode_i_sb"),
    ("inode", ("i_mapping",), "inode_i_mapping"),
    ("super_block", ("s_dev",), "super_block_s_dev"),
    ("super_block", ("s_bdev",), "super_block_s_bdev"),
    ("super_block", ("s_magic",), "super_block_s_magic"),
    # "iov_iter: overlay struct iovec and ubuf/len" (in 6.4) renamed iov.
    ("iov_iter", ("iter_type",), "iov_iter_type"),
    ("iov_iter", ("data_source",), "iov_iter_data_source"),
    ("iov_iter", ("iov_offset",), "iov_iter_iov_offset"),
    ("iov_iter", ("ubuf",), "iov_iter_ubuf"),
    ("iov_iter", ("__iov", "iov"), "iov_iter_iov"),
    ("iov_iter", ("count",), "iov_iter_count"),
    ("file", ("private_data",), "file_private_data"),
    ("vm_fault", ("vma",), "vm_fault_vma"),
    ("vm_fault", ("pgoff",), "vm_fault_pgoff"),
    ("vm_area_struct", ("vm_file",), "vm_area_struct_vm_file"),
    ("dentry", ("d_fsdata",), "dentry_d_fsdata"),
    ("folio", ("flags",), "folio_flags"),
    # Before 6.6 there is a _flags_1 too, and the order is not in it (access.c).
    ("folio", ("_folio_order", "_flags_1"), "folio_order"),
    ("kiocb", ("ki_complete",), "kiocb_ki_complete"),
    ("kiocb", ("ki_flags",), "kiocb_ki_flags"),
    ("kiocb", ("ki_pos",), "kiocb_ki_pos"),
    ("kiocb", ("ki_filp",), "kiocb_ki_filp"),
)

# The same of structures that a kernel may be built without; hooks name what they need of them.
OPTIONAL_OFFSETS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("task_struct", ("worker_private",), "task_struct_worker_private"),
    # Linux kernel commit eb47943f2238 "io-wq: Drop struct io_wqe" (in v6.4): before, a worker
    # belongs to a node's part of the io-wq.
    ("io_worker", ("wq", "wqe"), "io_worker_wq"),
    ("io_wqe", ("wq",), "io_wqe_wq"),
    ("io_wq", ("task",), "io_wq_task"),
    ("dma_heap", ("name",), "dma_heap_name"),
    ("dma_buf_attachment", ("dmabuf",), "dma_buf_attachment_dmabuf"),
    ("dma_buf_attachment", ("dev",), "dma_buf_attachment_dev"),
    ("device", ("init_name",), "device_init_name"),
    ("device", ("kobj.name",), "device_name"),
    ("iomap_dio", ("iocb",), "iomap_dio_iocb"),
    ("iomap_dio", ("size",), "iomap_dio_size"),
    ("iomap_dio", ("error",), "iomap_dio_error"),
    ("iomap_dio", ("i_size",), "iomap_dio_i_size"),
)


@dataclass(frozen=True)
class Abi:
    """Where an architecture passes arguments: members of struct pt_regs.

    The first three serve functions and system calls alike, the others only system calls;
    of the first a system call's end may have taken the place.  ``calls`` are the numbers of
    system calls, by name.  ``number`` is the member that holds the system call's number, below
    0 for what came into the kernel otherwise.  ``first`` keeps the first argument to the end.
    """

    arguments: tuple[str, str, str, str, str, str]
    result: str
    calls: Mapping[str, int]
    number: str
    first: str


# arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h
_X86_CALLS = {
    "read": 0, "write": 1, "open": 2, "close": 3, "mmap": 9, "munmap": 11, "ioctl": 16,
    "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "mremap": 25, "madvise": 28,
    "sendfile": 40, "execve": 59, "mlock": 149, "mlockall": 151, "prctl": 157, "readahead": 187,
    "io_submit": 209, "fadvise64": 221, "openat": 257, "splice": 275, "tee": 276, "vmsplice": 278,
    "preadv": 295, "pwritev": 296, "execveat": 322, "mlock2": 325, "copy_file_range": 326,
    "preadv2": 327, "pwritev2": 328, "io_uring_enter": 426, "io_uring_register": 427,
    "openat2": 437,
}  # fmt: skip
_GENERIC_CALLS = {
    "io_submit": 2, "ioctl": 29, "openat": 56, "close": 57, "read": 63, "write": 64, "readv": 65,
    "writev": 66, "pread64": 67, "pwrite64": 68, "preadv": 69, "pwritev": 70, "sendfile": 71,
    "vmsplice": 75, "splice": 76, "tee": 77, "prctl": 167, "readahead": 213, "munmap": 215,
    "mremap": 216, "execve": 221, "mmap": 222, "fadvise64": 223, "mlock": 228, "mlockall": 230,
    "madvise": 233, "execveat": 281, "mlock2": 284, "copy_file_range": 285, "preadv2": 286,
    "pwritev2": 287, "io_uring_enter": 426, "io_uring_register": 427, "openat2": 437,
}  # fmt: skip

ABIS: dict[str, Abi] = {
    "x86_64": Abi(("di", "si", "dx", "r10", "r8", "r9"), "ax", _X86_CALLS, "orig_ax", "di"),
    "aarch64": Abi(
        ("regs[0]", "regs[1]", "regs[2]", "regs[3]", "regs[4]", "regs[5]"),
        "regs[0]",
        _GENERIC_CALLS,
        "syscallno",
        "orig_x0",
    ),
}


def call_name(machine: str, number: int) -> str:
    """What a system call is called; "" for one that no way of loading goes through."""
    calls = ABIS[machine].calls if machine in ABIS else {}
    return next((name for name, each in calls.items() if each == number), "")
