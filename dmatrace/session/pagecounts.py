"""The kernel side's count of each file's page cache, and of files that are no more.

A loader that makes files in memory for each load (memfds, shared mappings) leaves
one entry each behind.  Every look at the map would copy them all, and it holds
FILES_MAX of them: those whose inode is gone are taken out of it and kept here, in
case the inode's number comes back.
"""

from __future__ import annotations

from typing import Any, Protocol

from dmatrace.bpf import layout
from dmatrace.bpf.constants import FILES_MAX

Key = tuple[int, int]  # (dev, ino), dev as tracepoints print it

#: So many are kept; from then on the map keeps its own, and says so when it is full.
RETIRED_MAX = 8 * FILES_MAX

_EVICTED = layout.REMOVALS.index("unlink")


class Table(Protocol):
    """A BPF hash by struct file_key (dmatrace.bpf.maps)."""

    Key: Any
    Leaf: Any

    def __getitem__(self, key: Any, /) -> Any: ...
    def __setitem__(self, key: Any, value: Any, /) -> None: ...
    def pop(self, key: Any, /) -> Any: ...
    def items(self) -> Any: ...


class PageCounts:
    """{(dev, ino): struct file_pages}, bytes since the file was first seen or reset.

    ``table`` is None where the page cache is not traced: then nothing is known of any file.
    """

    def __init__(self, table: Table | None) -> None:
        self._table = table
        self._retired: dict[Key, layout.FilePages] = {}

    @property
    def traced(self) -> bool:
        """Whether anything is counted."""
        return self._table is not None

    def reset(self, dev: int, ino: int) -> None:
        """Start a file at zero, so that every change from now on counts."""
        self._retired.pop((dev, ino), None)
        if self._table is not None:
            self._table[self._key(dev, ino)] = self._table.Leaf()

    def file(self, dev: int, ino: int) -> layout.FilePages | None:
        """One file's, or None if it was never seen or is not traced."""
        before = self._retired.get((dev, ino))
        if self._table is None:
            return None
        try:
            leaf = self._table[self._key(dev, ino)]
        except KeyError:
            return before
        return _sum(before, layout.FilePages.from_buffer_copy(leaf))

    def live(self) -> dict[Key, layout.FilePages]:
        """Of every file that is not retired."""
        found = {}
        for key, leaf in self._table.items() if self._table is not None else ():
            file = layout.FileKey.from_buffer_copy(key)
            place = (file.dev, file.ino)
            pages = layout.FilePages.from_buffer_copy(leaf)
            found[place] = _sum(self._retired.get(place), pages)
        return found

    def every(self) -> dict[Key, layout.FilePages]:
        """The same with those that are."""
        return {**self._retired, **self.live()}

    def retire(self, dev: int, ino: int) -> bool:
        """Take a file that is ``gone`` out of the kernel's map; whether there was room for it."""
        if self._table is None or len(self._retired) >= RETIRED_MAX:
            return False
        try:
            leaf = self._table.pop(self._key(dev, ino))
        except KeyError:
            return True
        pages = layout.FilePages.from_buffer_copy(leaf)
        self._retired[dev, ino] = _sum(self._retired.get((dev, ino)), pages)
        return True

    def forget_retired(self) -> None:
        """An inode's number that comes back is another file from now on, and starts at zero."""
        self._retired.clear()

    def _key(self, dev: int, ino: int) -> Any:
        assert self._table is not None
        return self._table.Key.from_buffer_copy(layout.FileKey(ino=ino, dev=dev))


def gone(pages: layout.FilePages, base: int = 0) -> bool:
    """Whether the inode was evicted with all that was cached of it, ``base`` bytes of it before."""
    return bool(pages.by[_EVICTED]) and base + pages.added <= pages.removed


def _sum(before: layout.FilePages | None, now: layout.FilePages) -> layout.FilePages:
    if before is None:
        return now
    net = before.added - before.removed
    found = layout.FilePages(peak=max(before.peak, net + now.peak), shmem=before.shmem | now.shmem)
    for name in ("added", "removed", "removed_self", "added_self", "readahead", "refaulted"):
        setattr(found, name, getattr(before, name) + getattr(now, name))
    for name in ("by", "self_by"):
        pairs = zip(getattr(before, name), getattr(now, name), strict=True)
        getattr(found, name)[:] = [a + b for a, b in pairs]
    return found
