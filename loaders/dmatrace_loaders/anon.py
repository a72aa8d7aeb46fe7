"""Plain anonymous memory: what the disk and the copy cost without any shared buffer."""

from __future__ import annotations

import mmap

from dmatrace_loaders.load import Load
from dmatrace_loaders.reading import read_all


class AnonRead(Load):
    """read(2) into a fresh private anonymous mapping."""

    def create(self) -> None:
        """mmap: no page yet."""
        self.mapping: mmap.mmap = self.map(-1)

    def load(self) -> None:
        """Read into the mapping."""
        with memoryview(self.mapping) as view:
            read_all(self.source, view, self.settings.jobs, self.settings.spawn)
