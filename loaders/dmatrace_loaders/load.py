"""What a strategy's load is: three steps, timed apart, over one buffer."""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dmatrace_loaders import kernel
from dmatrace_loaders.reading import Source, Spawn


@dataclass(frozen=True)
class Settings:
    """What the user set for a load: reading threads, and how to start one."""

    jobs: int
    depth: int
    spawn: Spawn


class Load(ABC):
    """One load of one file.  ``close`` frees whatever the other steps got to, in any state.

    ``create`` makes the target, ``load`` fills it; ``at_once`` marks those
    whose allocation and read are one step (then ``create`` does nothing).
    """

    at_once = False

    def __init__(self, source: Source, settings: Settings) -> None:
        self.source = source
        self.settings = settings
        unit = max(kernel.PAGE, source.align)
        self.size = -(-source.size // unit) * unit
        self._mappings: list[mmap.mmap] = []
        self._fds: list[int] = []

    @abstractmethod
    def create(self) -> None:
        """Allocate the target."""

    @abstractmethod
    def load(self) -> None:
        """Fill the target from the file."""

    @contextmanager
    def content(self) -> Iterator[memoryview]:
        """The whole buffer, as its user would see it, for comparing."""
        with memoryview(self._mappings[0]) as view:
            yield view

    def close(self) -> None:
        """Unmap and close everything."""
        while self._mappings:
            self._mappings.pop().close()
        while self._fds:
            kernel.close(self._fds.pop())

    def keep(self, fd: int) -> int:
        """Remember an fd for ``close``."""
        self._fds.append(fd)
        return fd

    def map(self, fd: int) -> mmap.mmap:
        """A shared mapping of the whole buffer behind ``fd`` (-1: plain anonymous memory)."""
        if fd < 0:
            mapping = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        else:
            mapping = mmap.mmap(fd, self.size, flags=mmap.MAP_SHARED)
        self._mappings.append(mapping)
        return mapping
