"""What the C files take from outside, as -D constants: numbers, offsets, sizes of maps."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable

from dmatrace.bpf.btf import Btf
from dmatrace.bpf.hook import ENTRY_HANDLERS, EXIT_HANDLERS
from dmatrace.bpf.hooks import HOOKS
from dmatrace.bpf.offsets import ABIS, OFFSETS, OPTIONAL_OFFSETS
from dmatrace.errors import CannotHere
from dmatrace.phases import PHASES

# First argument of the loaders' marker prctl: no option of prctl(2), which answers EINVAL.
MARKER = 0x444D5452  # "DMTR"

THREADS_MAX = 4096
NEWCOMERS_MAX = 1024  # processes, between two looks of the recorder
FILES_MAX = 16384
REQUESTS_MAX = 16384
DIOS_MAX = 4096
REMOVERS_MAX = 1024
WAYS_MAX = 8192
FOLLOWED_MAX = 1024
MEMORY_DEVS_MAX = 256
RING_PAGES = 2048  # 8 MiB: 20,000 requests beside 3,000 snapshots between two polls


# System calls that the C files know by number.
CALLS = (
    "prctl", "open", "openat", "openat2", "close", "mmap", "munmap", "mremap", "madvise",
    "fadvise64", "readahead", "sendfile", "splice", "copy_file_range", "ioctl", "execve",
    "execveat", "read", "readv", "pread64", "preadv", "preadv2",
)  # fmt: skip


def constants(btf: Btf, *, follow_fork: bool) -> dict[str, int]:
    """What the C files take from outside: numbers of phases and handlers, offsets, map sizes."""
    machine = platform.machine()
    if machine not in ABIS:
        raise CannotHere(
            f"the registers of {machine} are not in the table",
            do="add them to ABIS in dmatrace/bpf/offsets.py",
        )
    abi = ABIS[machine]
    values = {
        "HOOK_SYSCALL": 0,
        "HOOK_MODULE_READ": hook_number("dmatrace_loader_read"),
        "MARKER": MARKER,
        "THREADS_MAX": THREADS_MAX,
        "FILES_MAX": FILES_MAX,
        "REQUESTS_MAX": REQUESTS_MAX,
        "DIOS_MAX": DIOS_MAX,
        "REMOVERS_MAX": REMOVERS_MAX,
        "WAYS_MAX": WAYS_MAX,
        "FOLLOWED_MAX": FOLLOWED_MAX,
        "MEMORY_DEVS_MAX": MEMORY_DEVS_MAX,
        "RING_PAGES": RING_PAGES,
        "NEWCOMERS_MAX": NEWCOMERS_MAX,
        "FOLLOW_FORK": int(follow_fork),
    }
    values |= {f"PHASE_{_constant(phase)}": n for n, phase in enumerate(PHASES)}
    values |= {f"ENTRY_{_constant(name)}": n for n, name in enumerate(ENTRY_HANDLERS)}
    values |= {f"EXIT_{_constant(name)}": n for n, name in enumerate(EXIT_HANDLERS)}
    for struct, paths, name in OFFSETS:
        offset = _offset(btf, struct, paths)
        if offset is None:
            raise CannotHere(
                f"this kernel's struct {struct} has no member {' or '.join(paths)}",
                do="report the kernel version: OFFSETS in dmatrace/bpf/offsets.py needs a row",
            )
        values[f"OFF_{name}"] = offset
    for struct, paths, name in OPTIONAL_OFFSETS:
        values[f"OFF_{name}"] = _offset(btf, struct, paths) or 0
    head = btf.enum_value("pageflags", "PG_head")
    if head is None:
        raise CannotHere("this kernel's enum pageflags has no PG_head", do="report the kernel")
    values["BIT_PG_head"] = head
    for name in ("META", "RAHEAD", "SWAP"):
        # A kernel without the flag never sets it.
        bit = btf.enum_value("req_flag_bits", f"__REQ_{name}")
        values[f"REQ_{name}"] = 0 if bit is None else 1 << bit
    # An architecture without the call never makes it: no two numbers may be the same.
    for n, name in enumerate(CALLS):
        values[f"NR_{_constant(name)}"] = abi.calls.get(name, 0x10000 + n)
    for name in ("UBUF", "IOVEC", "BVEC"):
        found = btf.enum_value("iter_type", f"ITER_{name}")
        values[f"ITER_{name}"] = 0xFF if found is None else found
    values["O_DIRECT"] = os.O_DIRECT
    for number, register in enumerate(abi.arguments):
        values[f"OFF_ARG{number}"] = _register(btf, register)
    values["OFF_ARG0_KEPT"] = _register(btf, abi.first)
    values["OFF_RETURN"] = _register(btf, abi.result)
    values["OFF_SYSCALL_NUMBER"] = _register(btf, abi.number)
    return values


def _offset(btf: Btf, struct: str, paths: Iterable[str]) -> int | None:
    return next((o for p in paths if (o := btf.offset(struct, p)) is not None), None)


def lacking(btf: Btf) -> set[str]:
    """The optional members that this kernel's structures do not have."""
    return {name for struct, paths, name in OPTIONAL_OFFSETS if _offset(btf, struct, paths) is None}


def hook_number(name: str) -> int:
    """A hook's number in the BPF program: its place in the table, from 1 on."""
    return next(n for n, hook in enumerate(HOOKS, start=1) if hook.name == name)


def _register(btf: Btf, name: str) -> int:
    base, _, index = name.partition("[")
    offset = btf.offset("pt_regs", base)
    if offset is None:
        raise CannotHere(f"struct pt_regs has no {base}", do="report the kernel")
    return offset + 8 * int(index.rstrip("]") or 0)


def _constant(name: str) -> str:
    return name.upper().replace("-", "_")
