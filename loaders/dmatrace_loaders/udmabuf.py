"""A dma-buf made of a memfd's pages (udmabuf), filled through the memfd's mapping.

Not through the udmabuf's own: that mapping is VM_PFNMAP and refuses direct
I/O on current kernels.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager

from dmatrace_loaders import kernel
from dmatrace_loaders.load import Load
from dmatrace_loaders.reading import pieces, read_all, reading


class UdmabufRead(Load):
    """memfd, UDMABUF_CREATE (allocates and pins every page), then read into the memfd's mapping."""

    def create(self) -> None:
        """The memfd and the dma-buf over it."""
        self.memfd = self.keep(kernel.memfd("dmatrace", self.size))
        self.mapping: mmap.mmap = self.map(self.memfd)
        self.dmabuf = self.keep(kernel.udmabuf_create(self.memfd, self.size))

    def load(self) -> None:
        """Read into the memfd's mapping."""
        with memoryview(self.mapping) as view:
            read_all(self.source, view, self.settings.jobs, self.settings.spawn)

    @contextmanager
    def content(self) -> Iterator[memoryview]:
        """The dma-buf's own mapping: what a device would see."""
        with mmap.mmap(self.dmabuf, self.size, flags=mmap.MAP_SHARED) as mapping:
            kernel.sync_start(self.dmabuf, write=False)
            try:
                with memoryview(mapping) as view:
                    yield view
            finally:
                kernel.sync_end(self.dmabuf, write=False)


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
        with (
            memoryview(self.mapping) as view,
            reading(self.source, view, parts, self.settings.spawn),
        ):
            self.dmabuf = self.keep(kernel.udmabuf_create(self.memfd, self.size))
