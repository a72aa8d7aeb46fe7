"""One file into several equal buffers, as the literature loads 1 GB into 32 of 32 MB."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from dmatrace_loaders import kernel
from dmatrace_loaders.load import Load, Settings
from dmatrace_loaders.reading import Source


def ranges(size: int, buffers: int, unit: int) -> list[tuple[int, int]]:
    """(start, bytes) of each buffer's part: equal multiples of ``unit`` but for the last.

    Fewer than ``buffers`` where the file has fewer units; none is empty.
    """
    each = -(-size // (buffers * unit)) * unit
    return [(start, min(each, size - start)) for start in range(0, size, each)]


class ManyBuffers(Load):
    """The same load once per part of the file: all are created, then all read, then all closed.

    It has no content of its own: each of ``buffers`` has.
    """

    def __init__(
        self,
        load: Callable[[Source, Settings], Load],
        source: Source,
        settings: Settings,
        buffers: int,
    ) -> None:
        super().__init__(source, settings)
        unit = max(kernel.PAGE, source.align)
        self._loads = [
            load(replace(source, start=start, size=size), settings)
            for start, size in ranges(source.size, buffers, unit)
        ]
        self.size = sum(each.size for each in self._loads)
        self.at_once = self._loads[0].at_once

    def create(self) -> None:
        """Every buffer."""
        for each in self._loads:
            each.create()

    def load(self) -> None:
        """Every buffer, one after the other."""
        for each in self._loads:
            each.load()

    def module(self) -> dict[str, int] | None:
        """What the module reported of every buffer, added up."""
        sums: dict[str, int] = {}
        for each in self._loads:
            for name, value in (each.module() or {}).items():
                sums[name] = sums.get(name, 0) + value
        return sums or None

    def buffers(self) -> Sequence[Load]:
        """The loads of the parts, in the order of the file."""
        return self._loads

    def close(self) -> None:
        """Every buffer."""
        for each in self._loads:
            each.close()
