"""What a strategy's load is: three steps, timed apart, over one buffer."""

from __future__ import annotations

import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial

from dmatrace_loaders import kernel, native
from dmatrace_loaders.reading import Source, Spawn, pieces, read_all, side_by_side


@dataclass(frozen=True)
class Settings:
    """What the user set for a load: threads, reads in flight, bytes of a gathered batch.

    ``spawn`` starts work in a thread that the tracer sees as the load's.
    """

    jobs: int
    depth: int
    spawn: Spawn
    gather: int = native.DEFAULT_GATHER


class Load(ABC):
    """One load of one file.  ``close`` frees whatever the other steps got to, in any state.

    ``create`` makes the target, ``load`` fills it; ``at_once`` marks those
    whose allocation and read are one step (then ``create`` does nothing).
    """

    at_once: bool = False
    unit = kernel.PAGE  # the buffer's size is a multiple of it, bytes

    def __init__(self, source: Source, settings: Settings) -> None:
        self.source = source
        self.settings = settings
        unit = max(self.unit, source.align)
        self.size = -(-source.size // unit) * unit
        self._mappings: list[mmap.mmap] = []
        self._fds: list[int] = []
        self._told: list[native.Told] = []

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

    def buffers(self) -> Sequence[Load]:
        """The loads that have a buffer of their own: this one."""
        return (self,)

    def close(self) -> None:
        """Unmap and close everything."""
        while self._mappings:
            self._mappings.pop().close()
        while self._fds:
            os.close(self._fds.pop())

    def by_parts(self, work: Callable[[int, int], None]) -> None:
        """``work(start, end)`` for each of --jobs parts of the file, each in its own thread."""
        parts = pieces(self.source, self.settings.jobs)
        side_by_side([partial(work, *part) for part in parts], self.settings.spawn)

    def read_into(self, mapping: mmap.mmap) -> None:
        """read(2) the file into a mapping, by --jobs threads."""
        with memoryview(mapping) as view:
            read_all(self.source, view, self.settings.jobs, self.settings.spawn)

    def tell(self, told: native.Told) -> None:
        """Remember what the loader module reports of one call, from whatever thread."""
        self._told.append(told)

    def module(self) -> dict[str, int] | None:
        """What the module reported (times in ns), summed over its calls; None: none was made."""
        calls = [told for each in self.buffers() for told in each._told]
        if not calls:
            return None
        sums = {"calls": len(calls)}
        for told in calls:
            for name, value in asdict(told).items():
                if name != "fd":
                    sums[name] = sums.get(name, 0) + value
        return sums

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
