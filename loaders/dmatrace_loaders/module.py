"""What the loader module does instead of read(2): the ways that the proposals add to the kernel.

Each is one or a few ioctls of /dev/dmatrace_loader (``native``); what the
module reports of them stands in the recording.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from functools import partial

from dmatrace_loaders import kernel, native
from dmatrace_loaders.dmabuf import Dmabuf, DmabufRead, Heap
from dmatrace_loaders.errors import LoadError
from dmatrace_loaders.load import Load
from dmatrace_loaders.memfd import Memfd
from dmatrace_loaders.reading import ended
from dmatrace_loaders.udmabuf import Udmabuf


class InsertPageRead(DmabufRead):
    """read(2) into a buffer whose mapping is made by vm_insert_pages(), so that GUP takes it."""

    def allocate(self) -> int:
        """A buffer of the module's own exporter: no heap of the kernel maps its pages so."""
        with native.Device() as device:
            made = device.alloc(self.size, mmap=native.Mmap.INSERT)
        self.tell(made)
        return made.fd


class RwFile(Load):
    """RW_FILE: the kernel reads the file into the pages of ``target``, a block at a time."""

    @property
    @abstractmethod
    def target(self) -> int:
        """The dma-buf or memfd."""

    def load(self) -> None:
        """One ioctl, or one for each of ``jobs`` threads."""
        with native.Device() as device:
            self.by_parts(partial(self._part, device))

    def _part(self, device: native.Device, start: int, end: int) -> None:
        read = device.rw_file(
            self.source.fd,
            self.target,
            end - start,
            file_offset=self.source.start + start,
            buffer_offset=start,
            direct=self.source.direct,
            chunk=self.source.block,
        )
        self.tell(read)
        if read.bytes < end - start:
            raise ended(self.source, start + read.bytes)


class HeapRwFile(RwFile, Heap):
    """Into a stock system-heap buffer."""

    @property
    def target(self) -> int:
        """The dma-buf."""
        return self.dmabuf


class MemfdRwFile(RwFile, Memfd):
    """Into a fresh memfd."""

    @property
    def target(self) -> int:
        """The memfd."""
        return self.memfd


class UdmabufMemfdRwFile(RwFile, Udmabuf):
    """Into the memfd behind a udmabuf."""

    @property
    def target(self) -> int:
        """The memfd."""
        return self.memfd


class UdmabufRwFile(RwFile, Udmabuf):
    """Into the udmabuf itself."""

    @property
    def target(self) -> int:
        """The dma-buf."""
        return self.dmabuf


class AllocRead(Dmabuf):
    """ALLOC_READ: allocate, map to vmalloc space, read there, and only then export."""

    at_once = True

    def create(self) -> None:
        """Nothing: allocation and read are one call."""

    def load(self) -> None:
        """Allocate and read: the dma-buf appears with the file in it."""
        super().create()

    def allocate(self) -> int:
        """One ioctl; the buffer is as long as the file, in whole pages."""
        gather, jobs = self.batches()
        with native.Device() as device:
            made = device.alloc_read(
                self.source.fd,
                file_offset=self.source.start,
                length=self.source.size,
                direct=self.source.direct,
                vmap=True,
                gather=gather,
                jobs=jobs,
                chunk=self.source.block,
            )
        self.tell(made)
        self.size = made.buffer_length
        if made.bytes < self.source.size:
            os.close(made.fd)
            raise ended(self.source, made.bytes)
        return made.fd

    def batches(self) -> tuple[int | None, int]:
        """(bytes of a gathered batch or None for all at once, batches read side by side)."""
        return None, 0


class GatherRead(AllocRead):
    """The same in batches: one is read in a worker while the next is allocated."""

    def batches(self) -> tuple[int, int]:
        """As --gather and --jobs say, within what the module takes."""
        gather, jobs = self.settings.gather, self.settings.jobs
        if jobs > native.MAX_JOBS:
            raise LoadError(
                f"{jobs} batches cannot be read side by side",
                do=f"use --jobs {native.MAX_JOBS} or fewer",
            )
        if gather % kernel.PAGE or not native.MIN_GATHER <= gather <= native.MAX_GATHER:
            raise LoadError(
                f"batches of {gather} bytes cannot be gathered",
                do="use a --gather of whole pages from 1M to 1G",
            )
        return gather, jobs
