"""Members of kernel structures that the C files read, and where registers are.

Offsets come from the running kernel's BTF and enter as constants, so that no
kernel header is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

# struct, member path(s, newest first), constant's name.
OFFSETS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("task_struct", ("pid",), "task_struct_pid"),
    ("task_struct", ("tgid",), "task_struct_tgid"),
    ("task_struct", ("flags",), "task_struct_flags"),
    ("request", ("bio",), "request_bio"),
    ("request", ("__data_len",), "request___data_len"),
    ("request", ("__sector",), "request___sector"),
    ("request", ("cmd_flags",), "request_cmd_flags"),
    ("bio", ("bi_iter.bi_size",), "bio_bi_size"),
    ("dma_buf", ("size",), "dma_buf_size"),
    ("dma_buf", ("file",), "dma_buf_file"),
    ("dma_buf", ("exp_name",), "dma_buf_exp_name"),
    ("file", ("f_inode",), "file_f_inode"),
    ("file", ("f_mapping",), "file_f_mapping"),
    ("file", ("private_data",), "file_private_data"),
    ("inode", ("i_ino",), "inode_i_ino"),
    ("inode", ("i_sb",), "inode_i_sb"),
    ("super_block", ("s_dev",), "super_block_s_dev"),
    ("address_space", ("host",), "address_space_host"),
    ("vm_fault", ("vma",), "vm_fault_vma"),
    ("vm_fault", ("pgoff",), "vm_fault_pgoff"),
    ("vm_area_struct", ("vm_file",), "vm_area_struct_vm_file"),
    ("dentry", ("d_fsdata",), "dentry_d_fsdata"),
    ("folio", ("flags",), "folio_flags"),
    ("folio", ("mapping",), "folio_mapping"),
    ("folio", ("_flags_1", "_folio_order"), "folio_order"),
    ("kiocb", ("ki_complete",), "kiocb_ki_complete"),
    ("kiocb", ("ki_pos",), "kiocb_ki_pos"),
    ("kiocb", ("ki_filp",), "kiocb_ki_filp"),
)

# The same of structures that a kernel may be built without; hooks name what they need of them.
OPTIONAL_OFFSETS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("task_struct", ("worker_private",), "task_struct_worker_private"),
    ("io_worker", ("wq",), "io_worker_wq"),
    ("io_wq", ("task",), "io_wq_task"),
    ("dma_heap", ("name",), "dma_heap_name"),
    ("iomap_dio", ("iocb",), "iomap_dio_iocb"),
    ("iomap_dio", ("size",), "iomap_dio_size"),
    ("iomap_dio", ("error",), "iomap_dio_error"),
    ("iomap_dio", ("i_size",), "iomap_dio_i_size"),
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
