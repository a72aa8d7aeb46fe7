"""A dma-buf made of a memfd's pages (udmabuf), filled through the memfd's mapping.

Not through the udmabuf's own: that mapping is VM_PFNMAP and refuses direct
I/O on current kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from dmatrace_loaders import kernel
from dmatrace_loaders.dmabuf import DmabufRead, dmabuf_content
from dmatrace_loaders.memfd import Memfd, MemfdRead
from dmatrace_loaders.reading import pieces, read_range, running


class Udmabuf(Memfd):
    """A load into a memfd, with a dma-buf over it: UDMABUF_CREATE allocates and pins its pages."""

    def create(self) -> None:
        """The memfd, and its mapping where there is one; then the dma-buf over it."""
        super().create()
        self.dmabuf = self.keep(kernel.udmabuf_create(self.memfd, self.size))

    @contextmanager
    def content(self) -> Iterator[memoryview]:
        """The dma-buf's own mapping: what a device would see."""
        with dmabuf_content(self.dmabuf, self.size) as view:
            yield view


class UdmabufRead(Udmabuf, MemfdRead):
    """read(2) into the memfd's mapping."""


class UdmabufOwnMapping(DmabufRead):
    """Read into the udmabuf's own mapping, as into any other dma-buf's.

    That mapping is VM_PFNMAP since Linux kernel commit 7d79cd784470 "udmabuf:
    use vmf_insert_pfn and VM_PFNMAP for handling mmap" (in v6.11), so direct
    I/O into it is refused.
    """

    def allocate(self) -> int:
        """A memfd, and the dma-buf over it."""
        memfd = self.keep(kernel.memfd("dmatrace", self.size))
        return kernel.udmabuf_create(memfd, self.size)


class UdmabufHuge(UdmabufRead):
    """As udmabuf's read, over a memfd of huge pages: fewer pages to allocate, pin and map.

    The memfd is mapped before the dma-buf is made: mmap is what reserves huge
    pages, and says so when there are too few.
    """

    huge = True
    unit = kernel.HUGE_PAGE


class UdmabufOverlap(UdmabufRead):
    """Reads run in threads of their own while UDMABUF_CREATE pins (CLK, section 3)."""

    at_once = True

    def create(self) -> None:
        """Nothing: allocation and read are one step."""

    def load(self) -> None:
        """Start the readers, create the udmabuf meanwhile, wait for both."""
        self.memfd = self.keep(kernel.memfd("dmatrace", self.size))
        self.mapping = self.map(self.memfd)
        parts = pieces(self.source, self.settings.jobs)
        with memoryview(self.mapping) as view:
            work = [partial(read_range, self.source, view, *part) for part in parts]
            with running(work, self.settings.spawn):
                self.dmabuf = self.keep(kernel.udmabuf_create(self.memfd, self.size))
