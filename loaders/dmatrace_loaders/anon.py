"""Plain anonymous memory: what the disk and the copy cost without any shared buffer."""

from __future__ import annotations

import mmap

from dmatrace_loaders.load import Load


class AnonRead(Load):
    """read(2) into a fresh private anonymous mapping."""

    def create(self) -> None:
        """mmap: no page yet."""
        self.mapping: mmap.mmap = self.map(-1)

    def load(self) -> None:
        """Read into the mapping."""
        self.read_into(self.mapping)
