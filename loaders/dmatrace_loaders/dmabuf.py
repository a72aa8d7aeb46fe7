"""A dma-buf, filled by whoever writes to it, or read into through its own mapping."""

from __future__ import annotations

import errno
import mmap
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from dmatrace_loaders import kernel
from dmatrace_loaders.errors import Refused
from dmatrace_loaders.load import Load


@contextmanager
def dmabuf_content(dmabuf: int, size: int) -> Iterator[memoryview]:
    """A dma-buf's own mapping between DMA_BUF_SYNC_START and END: what a device would see."""
    with mmap.mmap(dmabuf, size, flags=mmap.MAP_SHARED) as mapping:
        kernel.sync_start(dmabuf, write=False)
        try:
            with memoryview(mapping) as view:
                yield view
        finally:
            kernel.sync_end(dmabuf, write=False)


class Dmabuf(Load):
    """A load into a dma-buf, which ``allocate`` makes."""

    @abstractmethod
    def allocate(self) -> int:
        """A new dma-buf's fd."""

    def create(self) -> None:
        """Allocate the dma-buf."""
        self.dmabuf = self.keep(self.allocate())

    @contextmanager
    def content(self) -> Iterator[memoryview]:
        """The dma-buf's own mapping: what a device would see."""
        with dmabuf_content(self.dmabuf, self.size) as view:
            yield view


class Heap(Dmabuf):
    """A dma-buf from the stock system heap."""

    def allocate(self) -> int:
        """DMA_HEAP_IOCTL_ALLOC."""
        return kernel.heap_alloc(self.size)


class DmabufRead(Dmabuf):
    """read(2) into the dma-buf's own mapping."""

    def create(self) -> None:
        """Allocate and map the dma-buf."""
        super().create()
        self.mapping: mmap.mmap = self.map(self.dmabuf)

    def load(self) -> None:
        """Read between DMA_BUF_SYNC_START and END."""
        kernel.sync_start(self.dmabuf, write=True)
        try:
            self.read_into(self.mapping)
        finally:
            kernel.sync_end(self.dmabuf, write=True)


class HeapRead(DmabufRead, Heap):
    """dma-heap allocation, mmap, read(2): the usual way (V2 "normal").

    With O_DIRECT the kernel answers EFAULT: the system heap maps its pages
    with remap_pfn_range(), which sets VM_IO | VM_PFNMAP, and
    get_user_pages refuses such mappings.
    """

    def load(self) -> None:
        """Read; the refusal of direct I/O is an outcome of its own."""
        try:
            super().load()
        except OSError as error:
            if error.errno == errno.EFAULT and self.source.direct:
                raise Refused(
                    errno.EFAULT,
                    "the heap's mapping is VM_IO | VM_PFNMAP (remap_pfn_range), so"
                    " get_user_pages cannot pin it for direct I/O",
                ) from None
            raise
