"""A followed process, whose open files, mappings and reads a test makes up event by event."""

from __future__ import annotations

import ctypes
from typing import Any

from bpf_host import Machine

from dmatrace.bpf import layout
from dmatrace.bpf.constants import hook_number
from dmatrace.bpf.hooks import HOOKS
from dmatrace.bpf.offsets import ABIS
from dmatrace.bpf.program import cookie
from dmatrace.bpf.resolve import Attachment

TID, TGID = 10, 9
MIB = 1 << 20
CALLS = ABIS["x86_64"].calls
DMA_BUF, TMPFS, EXT4 = 0x444D4142, 0x01021994, 0xEF53
FORMATS = {"file": 0x8000, "fifo": 0x1000, "device": 0x2000}
_BY_NAME = {hook.name: hook for hook in HOOKS}


class Process:
    """One followed thread with a table of open files."""

    def __init__(self, backend: str = "fentry") -> None:
        self.machine = Machine()
        self.backend = backend
        self._kept: list[Any] = []
        self.files: dict[int, int] = {}
        self.clock = 1000
        for tid in (TID, TID + 1):
            self.machine.follow(
                layout.Thread(
                    type=layout.EV_SNAPSHOT, tid=tid, tgid=TGID, last=1000, call=layout.NO_CALL
                )
            )
        self._descriptors = (ctypes.c_uint64 * 64)()
        table = self.struct("fdtable", max_fds=64, fd=ctypes.addressof(self._descriptors))
        task = self.struct("task_struct", files=self.struct("files_struct", fdt=table))
        self.machine.task(task)
        self.at(1000)

    def struct(self, name: str, **members: int) -> int:
        found = self.machine.struct(name, **members)
        self._kept.append(found)
        return ctypes.addressof(found)

    def at(self, clock: int, tid: int = TID) -> None:
        self.clock = clock
        self.machine.at(clock, tid, TGID, b"loader")

    def file(self, ino: int, kind: str, *, magic: int = EXT4, size: int = 0, **more: int) -> int:
        """An open struct file; its mapping is its own."""
        block = self.struct("super_block", s_dev=1 if magic == EXT4 else 2, s_magic=magic)
        inode = self.machine.struct(
            "inode", i_ino=ino, i_mode=FORMATS[kind], i_sb=block, i_size=size
        )
        self._kept.append(inode)
        mapping = self.struct("address_space", host=ctypes.addressof(inode))
        inode[self.machine.constants["OFF_inode_i_mapping"] // 8] = mapping
        return self.struct("file", f_inode=ctypes.addressof(inode), f_mapping=mapping, **more)

    def dmabuf(self, ino: int, size: int) -> int:
        name = ctypes.create_string_buffer(b"udmabuf")
        self._kept.append(name)
        buffer = self.struct("dma_buf", size=size, exp_name=ctypes.addressof(name))
        return self.file(ino, "file", magic=DMA_BUF, private_data=buffer)

    def open(self, file: int) -> int:
        """The descriptor of a file, as if it had been opened before."""
        fd = len(self.files) + 3
        self.files[fd] = self._descriptors[fd] = file
        return fd

    def call(self, name: str, *arguments: int) -> Any:
        """Enter a system call; its registers."""
        found = self.registers(*arguments)
        self.machine.raw("sys_enter", ctypes.addressof(found), CALLS[name])
        return found

    def registers(self, *arguments: int) -> Any:
        """Those of a system call with these arguments."""
        return self.machine.registers(*arguments)

    def end(self, registers: Any, returned: int = 0) -> None:
        self.machine.raw("sys_exit", ctypes.addressof(registers), returned & ((1 << 64) - 1))

    def hook(self, name: str, *arguments: int) -> None:
        number = cookie(Attachment(_BY_NAME[name], hook_number(name)))
        program = _BY_NAME[name].program
        self.machine.hook(self.backend, number, *arguments, program=program)

    def unhook(self, name: str, returned: int = 0) -> None:
        number = cookie(Attachment(_BY_NAME[name], hook_number(name)))
        program = _BY_NAME[name].program
        self.machine.unhook(self.backend, number, returned, program=program)

    def mmap(self, fd: int, address: int, length: int, flags: int = 1, prot: int = 3) -> None:
        self.end(self.call("mmap", 0, length, prot, flags, fd, 0), address)

    def user(self, address: int) -> int:
        """An iterator over user memory."""
        ubuf = self.machine.constants["ITER_UBUF"]
        return self.struct("iov_iter", type=ubuf, ubuf=address, iov_offset=0, count=0)

    def read(self, file: int, address: int, size: int, call: str = "pread64") -> None:
        """One buffered read."""
        iocb = self.struct("kiocb", ki_filp=file)
        registers = self.call(call, 0, address, size, 0)
        self.hook("filemap_read", iocb, self.user(address), 0)
        self.at(self.clock + 100)
        self.unhook("filemap_read", size)
        self.end(registers, size)

    def ways(self) -> list[dict[str, Any]]:
        from dmatrace.session.ways import way_row

        return [way_row(key, way) for key, way in self.machine.ways()]

    def calls(self) -> list[dict[str, Any]]:
        from dmatrace.session.ways import call_row

        found = self.machine.raw_records()
        kind = layout.EV_CALL
        return [call_row(data, 1) for data in found if int.from_bytes(data[:4], "little") == kind]
