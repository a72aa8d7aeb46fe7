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
    ("task_struct", ("se.sum_exec_runtime",), "task_struct_sched_run"),
    ("task_struct", ("sched_info.run_delay",), "task_struct_sched_wait"),
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
    ("kiocb", ("ki_complete",), "kiocb_ki_complete"),
    ("kiocb", ("ki_pos",), "kiocb_ki_pos"),
)

# The same of structures that a kernel may be built without; hooks name what they need of them.
OPTIONAL_OFFSETS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("task_struct", ("worker_private",), "task_struct_worker_private"),
    ("io_worker", ("wq",), "io_worker_wq"),
    ("io_wq", ("task",), "io_wq_task"),
    ("iomap_dio", ("iocb",), "iomap_dio_iocb"),
    ("iomap_dio", ("size",), "iomap_dio_size"),
    ("iomap_dio", ("error",), "iomap_dio_error"),
    ("iomap_dio", ("i_size",), "iomap_dio_i_size"),
)


@dataclass(frozen=True)
class Abi:
    """Where an architecture passes arguments: members of struct pt_regs.

    The first three serve functions and system calls alike, the fourth only
    system calls; ``prctl`` is the number of prctl(2).  ``number`` is the member that
    holds the system call's number, below 0 for what came into the kernel otherwise.
    """

    arguments: tuple[str, str, str, str]
    result: str
    prctl: int
    number: str


ABIS: dict[str, Abi] = {
    "x86_64": Abi(("di", "si", "dx", "r10"), "ax", 157, "orig_ax"),
    "aarch64": Abi(("regs[0]", "regs[1]", "regs[2]", "regs[3]"), "regs[0]", 167, "syscallno"),
}
