"""What a strategy is: a name, its data flow, what it needs, and how to make its load."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from dmatrace_loaders import kernel, needs
from dmatrace_loaders.errors import LoadError
from dmatrace_loaders.limits import Limit
from dmatrace_loaders.load import Load, Settings
from dmatrace_loaders.reading import Source, open_source


@dataclass(frozen=True)
class Strategy:
    """One way to load a file; ``copies`` is the predicted CPU copies per byte.

    ``sources`` names the rows of the literature it reproduces; ``limits`` are
    the system's numbers it meets, which ``--raise-limits`` raises; ``options``
    are those of the user's that it heeds, of block, jobs, depth and gather.
    """

    name: str
    flow: str
    copies: float
    load: Callable[[Source, Settings], Load]
    sources: tuple[str, ...] = ()
    needs: tuple[needs.Need, ...] = ()
    limits: tuple[Limit, ...] = ()
    flags: int = 0  # RWF_* of each read
    refused: bool = False
    about: str = ""
    unit: int = kernel.PAGE  # a buffer's size is a multiple of it, bytes
    options: tuple[str, ...] = ("block", "jobs")

    @property
    def direct(self) -> bool:
        """Whether it opens the file with O_DIRECT."""
        return self.name.endswith("-dio")

    def room(self, size: int) -> int:
        """Bytes of a buffer for ``size`` bytes."""
        return -(-size // self.unit) * self.unit

    def check(self, size: int, buffers: int = 1) -> None:
        """Raise LoadError if this machine lacks what loading ``size`` bytes needs.

        ``buffers``: how many equal buffers share them.
        """
        for need in self.needs:
            need(self.room(size if need in needs.OF_ALL else -(-size // buffers)))

    def open(self, path: str, block: int) -> Source:
        """The file, opened as this strategy reads it.  Raises LoadError."""
        source = open_source(path, direct=self.direct, block=block)
        if not self.flags:
            return source
        try:
            # At the file's end: the kernel looks at the flags, and reads nothing.
            os.preadv(source.fd, [bytearray(1)], source.size, self.flags)
        except OSError as error:
            source.close()
            raise LoadError(
                f"{path} cannot be read with flags {self.flags:#x} (RWF_DONTCACHE is 0x80):"
                f" {error.strerror}",
                do="boot Linux 6.14 or later, and use ext4, xfs, btrfs or f2fs",
                code=3,
            ) from None
        return replace(source, flags=self.flags)
