"""The table of strategies: name, data flow, predicted copies, sources, needs, code.

Source rows name the publication and its row: V2 = "[PATCH v2 0/5] Introduce
DMA_HEAP_ALLOC_AND_READ_FILE heap flag" (20240730075755.10941-1-link@vivo.com),
LL = "[PATCH 0/2] Support direct_io for memory allocated by dmabuf", H3 =
"[PATCH v3 0/4] Optimizing disk file & dmabuf copies via copy_file_range"
(20250530103941.11092-1-tao.wangtao@honor.com), H2 = "[PATCH v2 0/2] dma-buf:
Add direct I/O support via DMA_BUF_IOCTL_RW_FILE"
(20250516092148.12778-1-tao.wangtao@honor.com), CLK = "dma-buf support for
DIO", 19th China Linux Kernel Developers Conference.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from dmatrace_loaders import kernel, needs
from dmatrace_loaders.anon import AnonRead
from dmatrace_loaders.dmabuf import HeapRead
from dmatrace_loaders.errors import LoadError
from dmatrace_loaders.load import Load
from dmatrace_loaders.memfd import MemfdRead, MemfdReadWrite
from dmatrace_loaders.reading import Source, open_source
from dmatrace_loaders.udmabuf import UdmabufOverlap, UdmabufRead

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*-(bio|dio)")


@dataclass(frozen=True)
class Strategy:
    """One way to load a file; ``copies`` is the predicted CPU copies per byte."""

    name: str
    flow: str
    copies: float
    load: type[Load]
    sources: tuple[str, ...] = ()
    needs: tuple[needs.Need, ...] = ()
    refused: bool = False

    @property
    def direct(self) -> bool:
        """Whether it opens the file with O_DIRECT."""
        return self.name.endswith("-dio")

    def check(self, size: int) -> None:
        """Raise LoadError if this machine lacks what loading ``size`` bytes needs."""
        for need in self.needs:
            need(kernel.page_round(size))

    def open(self, path: str, block: int) -> Source:
        """The file, opened as this strategy reads it.  Raises LoadError."""
        return open_source(path, direct=self.direct, block=block)


_HEAP = (needs.dma_heap, needs.memory)
_UDMABUF = (needs.udmabuf, needs.memory)
_PLAIN = (needs.memory,)

_OWN: tuple[Strategy, ...] = (
    Strategy(
        "dmabuf-bio",
        "[DISK] -DMA-> [page cache] -COPY-> [dma-buf]",
        1,
        HeapRead,
        ("V2 normal", "LL BIO", "H3 1, 23", "H2 dmabuf buffer read"),
        _HEAP,
    ),
    Strategy(
        "dmabuf-dio",
        "[DISK] -refused (EFAULT)- [dma-buf]",
        0,
        HeapRead,
        ("V2 [1]",),
        _HEAP,
        refused=True,
    ),
    Strategy(
        "udmabuf-bio",
        "[DISK] -DMA-> [page cache] -COPY-> [memfd = udmabuf]",
        1,
        UdmabufRead,
        ("V2 udmabuf buffer I/O", "H3 11", "H2 udmabuf buffer read"),
        _UDMABUF,
    ),
    Strategy(
        "udmabuf-dio",
        "[DISK] -DMA-> [memfd = udmabuf]",
        0,
        UdmabufRead,
        ("V2 udmabuf direct I/O", "H3 12", "H2 udmabuf direct read"),
        _UDMABUF,
    ),
    Strategy(
        "udmabuf-overlap-bio",
        "[DISK] -DMA-> [page cache] -COPY-> [memfd = udmabuf], while pinning",
        1,
        UdmabufOverlap,
        ("CLK section 3",),
        _UDMABUF,
    ),
    Strategy(
        "udmabuf-overlap-dio",
        "[DISK] -DMA-> [memfd = udmabuf], while pinning",
        0,
        UdmabufOverlap,
        ("CLK section 3",),
        _UDMABUF,
    ),
    Strategy(
        "memfd-bio",
        "[DISK] -DMA-> [page cache] -COPY-> [memfd]",
        1,
        MemfdRead,
        ("H3 3",),
        _PLAIN,
    ),
    Strategy("memfd-dio", "[DISK] -DMA-> [memfd]", 0, MemfdRead, ("H3 4",), _PLAIN),
    Strategy(
        "memfd-rw-bio",
        "[DISK] -DMA-> [page cache] -COPY-> [user buffer] -COPY-> [memfd]",
        2,
        MemfdReadWrite,
        ("H3 method 1",),
        _PLAIN,
    ),
    Strategy(
        "memfd-rw-dio",
        "[DISK] -DMA-> [user buffer] -COPY-> [memfd]",
        1,
        MemfdReadWrite,
        ("H3 method 2",),
        _PLAIN,
    ),
    Strategy(
        "anon-bio",
        "[DISK] -DMA-> [page cache] -COPY-> [anonymous memory]",
        1,
        AnonRead,
        (),
        _PLAIN,
    ),
    Strategy("anon-dio", "[DISK] -DMA-> [anonymous memory]", 0, AnonRead, (), _PLAIN),
)


@lru_cache(maxsize=1)
def strategies() -> dict[str, Strategy]:
    """All strategies by name: ours, then those of the entry-point group ``dmatrace.strategies``.

    An entry point names a Strategy or a sequence of them; one that takes a
    name that exists is ignored.  An entry point that does not load stands in
    the table under its own name, as a strategy that this machine cannot run.
    """
    found = {strategy.name: strategy for strategy in _OWN}
    for entry in entry_points(group="dmatrace.strategies"):
        for strategy in _vendor(entry):
            found.setdefault(strategy.name, strategy)
    return found


def _vendor(entry: EntryPoint) -> tuple[Strategy, ...]:
    try:
        loaded = entry.load()
        given = (loaded,) if isinstance(loaded, Strategy) else tuple(loaded)
        for strategy in given:
            if not isinstance(strategy, Strategy):
                raise TypeError(f"{strategy!r} is not a Strategy")
            if not _NAME.fullmatch(strategy.name):
                raise ValueError(f"{strategy.name!r} is not TARGET[-PATH]-bio or -dio")
    # Others' code runs here: whatever it raises must not end our own strategies.
    except (Exception, SystemExit) as error:
        why = f"{entry.value} does not load: {type(error).__name__}: {error}".split("\n")[0]
        # Its load is never made: check() refuses before.
        no_load: Any = Load
        return (Strategy(entry.name, "[does not load]", 0, no_load, (), (partial(_broken, why),)),)
    return given


def _broken(why: str, _size: int) -> None:
    raise LoadError(why, do="repair or uninstall the package that brings it", code=3)


def select(names: str) -> tuple[Strategy, ...]:
    """The strategies of a comma-separated list, or all of them for "all".

    Raises LoadError (code 2) naming the nearest and listing all.
    """
    known = strategies()
    if names.strip() == "all":
        return tuple(known.values())
    chosen: dict[str, Strategy] = {}
    for name in (part.strip() for part in names.split(",")):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}? " if near else ""
            raise LoadError(
                f"no strategy is called {name!r}",
                do=f"{hint}strategies: {', '.join(known)}",
                code=2,
            )
        chosen[name] = known[name]
    return tuple(chosen.values())
