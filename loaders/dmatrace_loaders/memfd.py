"""A memfd without dma-buf: the floor of the memfd family."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

from dmatrace_loaders import kernel
from dmatrace_loaders.load import Load
from dmatrace_loaders.reading import read_all, read_by_block


class MemfdRead(Load):
    """A fresh memfd's mapping as the target of read(2); its pages come by fault or GUP."""

    def create(self) -> None:
        """memfd_create, ftruncate, mmap: no page yet."""
        self.mapping: mmap.mmap = self.map(self.keep(kernel.memfd("dmatrace", self.size)))

    def load(self) -> None:
        """Read into the mapping."""
        with memoryview(self.mapping) as view:
            read_all(self.source, view, self.settings.jobs, self.settings.spawn)


class MemfdReadWrite(Load):
    """read(2) to a user buffer of one block, then write(2) to the memfd."""

    def create(self) -> None:
        """The memfd and the bounce buffer, whose pages are touched here."""
        self.memfd = self.keep(kernel.memfd("dmatrace", self.size))
        self.bounce = mmap.mmap(
            -1, self.source.block, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        )

    def load(self) -> None:
        """Block by block through the bounce buffer."""
        with memoryview(self.bounce) as buffer:
            for offset, data in read_by_block(self.source, buffer):
                with data:
                    done = 0
                    while done < len(data):
                        done += os.pwrite(self.memfd, data[done:], offset + done)

    @contextmanager
    def content(self) -> Iterator[memoryview]:
        """The memfd's content: the load itself maps nothing."""
        with mmap.mmap(self.memfd, self.size) as mapping, memoryview(mapping) as view:
            yield view

    def close(self) -> None:
        """Free the bounce buffer too."""
        if hasattr(self, "bounce"):
            self.bounce.close()
        super().close()
