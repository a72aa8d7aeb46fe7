"""A stock dma-heap buffer, read into through its user mapping."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Iterator
from contextlib import contextmanager

from dmatrace_loaders import kernel
from dmatrace_loaders.errors import Refused
from dmatrace_loaders.load import Load
from dmatrace_loaders.reading import read_all


class HeapRead(Load):
    """dma-heap allocation, mmap, read(2): the usual way (V2 "normal").

    With O_DIRECT the kernel answers EFAULT: the system heap maps its pages
    with remap_pfn_range(), which sets VM_IO | VM_PFNMAP, and
    get_user_pages refuses such mappings.
    """

    def create(self) -> None:
        """Allocate from the system heap and map the buffer."""
        self.dmabuf = self.keep(kernel.heap_alloc(self.size))
        self.mapping: mmap.mmap = self.map(self.dmabuf)

    def load(self) -> None:
        """Read between DMA_BUF_SYNC_START and END."""
        kernel.sync_start(self.dmabuf, write=True)
        try:
            with memoryview(self.mapping) as view:
                read_all(self.source, view, self.settings.jobs, self.settings.spawn)
        except OSError as error:
            if error.errno == errno.EFAULT and self.source.direct:
                raise Refused(
                    errno.EFAULT,
                    "the heap's mapping is VM_IO | VM_PFNMAP (remap_pfn_range), so"
                    " get_user_pages cannot pin it for direct I/O",
                ) from None
            raise
        finally:
            kernel.sync_end(self.dmabuf, write=True)

    @contextmanager
    def content(self) -> Iterator[memoryview]:
        """The mapping, between DMA_BUF_SYNC_START and END."""
        kernel.sync_start(self.dmabuf, write=False)
        try:
            with memoryview(self.mapping) as view:
                yield view
        finally:
            kernel.sync_end(self.dmabuf, write=False)
