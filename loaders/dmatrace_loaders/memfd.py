"""A memfd without dma-buf: the floor of the memfd family."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

from dmatrace_loaders import kernel
from dmatrace_loaders.load import Load
from dmatrace_loaders.reading import read_by_block


class Memfd(Load):
    """A load into a fresh memfd, whose pages come while it is filled."""

    huge = False

    def create(self) -> None:
        """memfd_create and ftruncate: no page yet."""
        self.memfd = self.keep(kernel.memfd("dmatrace", self.size, huge=self.huge))

    @contextmanager
    def content(self) -> Iterator[memoryview]:
        """The memfd's content, by a mapping of its own."""
        with mmap.mmap(self.memfd, self.size) as mapping, memoryview(mapping) as view:
            yield view


class MemfdRead(Memfd):
    """read(2) into the memfd's mapping; its pages come by fault or GUP."""

    def create(self) -> None:
        """The memfd and its mapping."""
        super().create()
        self.mapping: mmap.mmap = self.map(self.memfd)

    def load(self) -> None:
        """Read into the mapping."""
        self.read_into(self.mapping)


class MemfdReadWrite(Memfd):
    """read(2) to a user buffer of one block, then write(2) to the memfd."""

    def create(self) -> None:
        """The memfd and the bounce buffer, whose pages are touched here."""
        super().create()
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

    def close(self) -> None:
        """Free the bounce buffer too."""
        if hasattr(self, "bounce"):
            self.bounce.close()
        super().close()
