"""Every dma-buf of the machine, by the kernel's own iterator over them.

Linux kernel commit 76ea95534995 "bpf: Add dmabuf iterator" made "dmabuf" a target of
BPF iterators: a program that the kernel calls for each dma-buf, and whose output
is read from a file descriptor.  Buffers that no process holds any more, only a
device or a message under way, are among them.

The program is a handful of loads and one write, so it is assembled here:
neither a compiler nor kernel headers are needed to look at the buffers.
"""

from __future__ import annotations

import contextlib
import os
import struct
from dataclasses import dataclass

from dmatrace.bpf import libbpf
from dmatrace.bpf.btf import Btf, kernel_btf
from dmatrace.errors import CannotHere

#: What the kernel calls the iterator's target function; its presence in BTF is the iterator's.
ITERATOR = "bpf_iter_dmabuf"
SOURCE = "BPF iterator"

_TRACE_ITER = 28  # enum bpf_attach_type
_PROBE_READ_KERNEL_STR, _SEQ_WRITE = 115, 127  # enum bpf_func_id
_TEXT = 32  # DMA_BUF_NAME_LEN of include/uapi/linux/dma-buf.h

#: What the program writes for each buffer: inode number, size, exporter, name.
_RECORD = struct.Struct(f"=QQ{_TEXT}s{_TEXT}s")

_MEMBERS = {
    "size": ("dma_buf", "size"),
    "file": ("dma_buf", "file"),
    "exporter": ("dma_buf", "exp_name"),
    "name": ("dma_buf", "name"),
    "inode": ("file", "f_inode"),
    "ino": ("inode", "i_ino"),
}


@dataclass(frozen=True)
class Listed:
    """One dma-buf; ``size`` in bytes, ``name`` as DMA_BUF_SET_NAME set it, or ""."""

    ino: int
    size: int
    exporter: str
    name: str


def has_iterator(btf: Btf) -> bool:
    """Whether this kernel iterates over dma-bufs."""
    return btf.function(ITERATOR) is not None


def listed() -> list[Listed]:
    """All dma-bufs of the machine.

    Raises CannotHere where the kernel has no such iterator, OSError where it does
    not let this user have it (EPERM: CAP_BPF and CAP_PERFMON are needed).
    """
    btf = kernel_btf()
    number = btf.function(ITERATOR)
    offsets = {name: btf.offset(*member) for name, member in _MEMBERS.items()}
    known = {name: offset for name, offset in offsets.items() if offset is not None}
    if number is None or len(known) < len(offsets):
        raise CannotHere(
            "this kernel has no BPF iterator over dma-bufs",
            do="look at /sys/kernel/debug/dma_buf/bufinfo",
        )
    with contextlib.ExitStack() as stack:

        def keep(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        program = keep(
            libbpf.load(
                "dmt_dmabufs",
                libbpf.PROG_TYPE_TRACING,
                assembled(known),
                attach_type=_TRACE_ITER,
                btf_id=number,
            )
        )
        reader = keep(libbpf.iterate(program, _TRACE_ITER, keep))
        return parsed(_all(reader))


def _all(fd: int) -> bytes:
    found = b""
    while data := os.read(fd, 1 << 16):
        found += data
    return found


def parsed(data: bytes) -> list[Listed]:
    """The buffers in what the program wrote."""
    return [
        Listed(ino, size, _text(exporter), _text(name))
        for ino, size, exporter, name in _RECORD.iter_unpack(data)
    ]


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode(errors="replace")


def assembled(offsets: dict[str, int]) -> bytes:
    """The program's instructions (struct bpf_insn, 8 bytes each).

    Its context is struct bpf_iter__dmabuf { struct bpf_iter_meta *meta; struct
    dma_buf *dmabuf; }, and the file to write to is the first member of meta.
    ``dmabuf`` is NULL in the last call.
    """
    ctx, buffer, stack = 6, 7, 10  # registers
    record = -_RECORD.size  # on the stack
    exporter, name = record + 16, record + 16 + _TEXT
    body = [
        _load(1, buffer, offsets["file"]),
        _load(1, 1, offsets["inode"]),
        _load(1, 1, offsets["ino"]),
        _store(stack, record, 1),
        _load(1, buffer, offsets["size"]),
        _store(stack, record + 8, 1),
    ]
    for place, member in ((exporter, "exporter"), (name, "name")):
        # Of a NULL pointer the helper writes an empty string.
        body += [
            _move(1, stack),
            _add(1, place),
            _set(2, _TEXT),
            _load(3, buffer, offsets[member]),
            _call(_PROBE_READ_KERNEL_STR),
        ]
    body += [
        _load(1, ctx, 0),
        _load(1, 1, 0),
        _move(2, stack),
        _add(2, record),
        _set(3, _RECORD.size),
        _call(_SEQ_WRITE),
    ]
    head = [_move(ctx, 1), _load(buffer, ctx, 8), _skip_if_zero(buffer, len(body))]
    return b"".join([*head, *body, _set(0, 0), _EXIT])


# The instruction set: Documentation/bpf/standardization/instruction-set.rst.
def _instruction(code: int, to: int = 0, of: int = 0, offset: int = 0, number: int = 0) -> bytes:
    return struct.pack("=BBhi", code, of << 4 | to, offset, number)


def _load(to: int, base: int, offset: int) -> bytes:
    """to = *(u64 *)(base + offset)."""
    return _instruction(0x79, to, base, offset)


def _store(base: int, offset: int, of: int) -> bytes:
    """*(u64 *)(base + offset) = of."""
    return _instruction(0x7B, base, of, offset)


def _move(to: int, of: int) -> bytes:
    return _instruction(0xBF, to, of)


def _add(to: int, number: int) -> bytes:
    return _instruction(0x07, to, number=number)


def _set(to: int, number: int) -> bytes:
    return _instruction(0xB7, to, number=number)


def _skip_if_zero(register: int, instructions: int) -> bytes:
    return _instruction(0x15, register, offset=instructions)


def _call(helper: int) -> bytes:
    return _instruction(0x85, number=helper)


_EXIT = _instruction(0x95)
