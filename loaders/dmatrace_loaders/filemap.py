"""The file's own mapping, as most runtimes use it: nothing is read, pages fault in."""

from __future__ import annotations

import mmap
import os

from dmatrace_loaders.load import Load
from dmatrace_loaders.reading import ended


class FileMap(Load):
    """mmap of the file, then a touch of every page in order.

    Nothing is copied: what the process sees is the page cache itself.  It is
    no buffer that a device could share, so this is what a load without one
    costs.  A file that shrinks meanwhile is SIGBUS, as for any runtime that maps
    its model.
    """

    def create(self) -> None:
        """mmap: no page yet."""
        try:
            self.mapping = mmap.mmap(
                self.source.fd,
                self.source.size,
                flags=mmap.MAP_SHARED,
                prot=mmap.PROT_READ,
                offset=self.source.start,
            )
        except ValueError:  # longer than the file is now
            left = os.fstat(self.source.fd).st_size - self.source.start
            raise ended(self.source, max(0, left)) from None
        self._mappings.append(self.mapping)

    def load(self) -> None:
        """Fault every page in, by reading one byte of it."""
        with memoryview(self.mapping) as view, view[:: mmap.PAGESIZE] as touched:
            touched.tobytes()
