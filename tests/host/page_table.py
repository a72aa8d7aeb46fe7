"""A map of struct file_pages by struct file_key, without a kernel."""

from __future__ import annotations

from collections.abc import Iterator

from dmatrace.bpf import layout


class PageTable:
    """What dmatrace.session.pagecounts asks of a map; tests write to ``counts``."""

    Key = layout.FileKey
    Leaf = layout.FilePages

    def __init__(self) -> None:
        self.counts: dict[tuple[int, int], layout.FilePages] = {}

    def __getitem__(self, key: layout.FileKey, /) -> layout.FilePages:
        return self.counts[key.dev, key.ino]

    def __setitem__(self, key: layout.FileKey, value: layout.FilePages, /) -> None:
        self.counts[key.dev, key.ino] = value

    def pop(self, key: layout.FileKey, /) -> layout.FilePages:
        return self.counts.pop((key.dev, key.ino))

    def items(self) -> Iterator[tuple[layout.FileKey, layout.FilePages]]:
        for (dev, ino), pages in list(self.counts.items()):
            yield layout.FileKey(ino=ino, dev=dev), pages
