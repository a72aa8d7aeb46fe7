"""Our own strategies: one row each, in the order of the literature's tables.

``H2``, ``H3``: wangtao, 20250516092148.12778-1-tao.wangtao@honor.com and
20250530103941.11092-1-tao.wangtao@honor.com.  ``V2``: Huan Yang, "[PATCH v2
0/5] Introduce DMA_HEAP_ALLOC_AND_READ_FILE heap flag",
20240730075755.10941-1-link@vivo.com.  ``LL``: Lei Liu, "[PATCH 0/2] Support
direct_io for memory allocated by dmabuf", July 2024.  ``CLK``: Huan Yang,
"dma-buf support for DIO: schemes and gains", 19th China Linux Kernel
Developers Conference.
"""

from __future__ import annotations

from functools import partial

from dmatrace_loaders import kernel, limits, native, needs, uring
from dmatrace_loaders.anon import AnonRead
from dmatrace_loaders.dmabuf import HeapRead
from dmatrace_loaders.filemap import FileMap
from dmatrace_loaders.memfd import MemfdRead, MemfdReadWrite
from dmatrace_loaders.module import (
    AllocRead,
    GatherRead,
    HeapRwFile,
    InsertPageRead,
    MemfdRwFile,
    UdmabufMemfdRwFile,
    UdmabufRwFile,
)
from dmatrace_loaders.native import Feature, feature
from dmatrace_loaders.spliced import HeapSent, MemfdSent, UdmabufSent, send_range, splice_range
from dmatrace_loaders.strategy import Strategy
from dmatrace_loaders.udmabuf import UdmabufHuge, UdmabufOverlap, UdmabufOwnMapping, UdmabufRead

_PLAIN = (needs.memory,)
_HEAP = (needs.dma_heap, needs.memory)
_UDMABUF = (needs.udmabuf, needs.memory)
_SIZE = (limits.UDMABUF,)
# The module comes last, so that it is not loaded for what would fail all the same.
_HEAP_PAGES = (*_HEAP, feature(Feature.SG_TABLE))
_UDMABUF_PAGES = (*_UDMABUF, feature(Feature.SG_TABLE))
_UDMABUF_MEMFD = (*_UDMABUF, feature(Feature.MEMFD))
_MEMFD = (*_PLAIN, feature(Feature.MEMFD))
_INSERT = (*_PLAIN, feature(Feature.MMAP_INSERT))
_ALLOC = (*_PLAIN, native.module)
_ALLOC_DIRECT = (*_PLAIN, feature(Feature.VMAP_DIRECT))

_CACHED = "[DISK] -DMA-> [page cache] -COPY-> "
_DIRECT = "[DISK] -DMA-> "
# copy_splice_read() reads into pages that belong to nobody but the pipe.
_PIPED = "[DISK] -DMA-> [pipe's pages] -COPY-> "
_BEHIND = "[memfd = udmabuf]"
_VMAPPED = "[vmalloc space = dma-buf]"

_NO_CFR = (
    "RW_FILE in its place: H3's copy_file_range(2) is a file operation of dma-bufs, which a"
    " module cannot add."
)
_EXDEV = (
    "RW_FILE in its place: stock kernels refuse copy_file_range(2) from a disk to a memfd (EXDEV)."
)
_STREAM = "Through a stream of the loader module: a dma-buf's own fd takes no write(2)."
_GATHER = "Batches of --gather bytes, --jobs of them read at a time."

OWN: tuple[Strategy, ...] = (
    Strategy(
        "dmabuf-bio", _CACHED + "[dma-buf]", 1, HeapRead,
        ("H3 1, 23", "H2 dmabuf buffer read", "V2 normal", "LL BIO"), _HEAP,
    ),
    Strategy(
        "dmabuf-dio", "[DISK] -refused (EFAULT)- [dma-buf]", 0, HeapRead, ("V2 [1]",), _HEAP,
        refused=True, about="The heap's mapping is VM_PFNMAP, which direct I/O cannot pin.",
    ),
    Strategy(
        "udmabuf-mmap-bio", _CACHED + "[udmabuf's own mapping]", 1, UdmabufOwnMapping,
        ("H3 2",), _UDMABUF, _SIZE,
    ),
    Strategy("memfd-bio", _CACHED + "[memfd]", 1, MemfdRead, ("H3 3",), _PLAIN),
    Strategy("memfd-dio", _DIRECT + "[memfd]", 0, MemfdRead, ("H3 4",), _PLAIN),
    Strategy(
        "memfd-sendfile-bio", _CACHED + "[memfd]", 1, partial(MemfdSent, send_range),
        ("H3 5",), _PLAIN,
    ),
    Strategy(
        "memfd-sendfile-dio", _PIPED + "[memfd]", 1, partial(MemfdSent, send_range),
        ("H3 6",), _PLAIN,
    ),
    Strategy(
        "memfd-splice-bio", _CACHED + "[memfd]", 1, partial(MemfdSent, splice_range),
        ("H3 7",), _PLAIN,
    ),
    Strategy(
        "memfd-splice-dio", _PIPED + "[memfd]", 1, partial(MemfdSent, splice_range),
        ("H3 8",), _PLAIN,
    ),
    Strategy(
        "memfd-cfr-bio", _CACHED + "[memfd]", 1, MemfdRwFile, ("H3 9",), _MEMFD, about=_EXDEV,
    ),
    Strategy(
        "memfd-cfr-dio", _DIRECT + "[memfd]", 0, MemfdRwFile, ("H3 10",), _MEMFD, about=_EXDEV,
    ),
    Strategy(
        "memfd-rw-bio", _CACHED + "[user buffer] -COPY-> [memfd]", 2, MemfdReadWrite,
        ("H3 method 1",), _PLAIN, options=("block",),
    ),
    Strategy(
        "memfd-rw-dio", _DIRECT + "[user buffer] -COPY-> [memfd]", 1, MemfdReadWrite,
        ("H3 method 2",), _PLAIN, options=("block",),
    ),
    Strategy(
        "udmabuf-bio", _CACHED + _BEHIND, 1, UdmabufRead,
        ("H3 11", "H2 udmabuf buffer read", "V2 udmabuf buffer I/O"), _UDMABUF, _SIZE,
    ),
    Strategy(
        "udmabuf-dio", _DIRECT + _BEHIND, 0, UdmabufRead,
        ("H3 12", "H2 udmabuf direct read", "V2 udmabuf direct I/O"), _UDMABUF, _SIZE,
    ),
    Strategy(
        "udmabuf-sendfile-bio", _CACHED + _BEHIND, 1, partial(UdmabufSent, send_range),
        ("H3 13", "H2 udmabuf buffer sendfile"), _UDMABUF, _SIZE,
    ),
    Strategy(
        "udmabuf-sendfile-dio", _PIPED + _BEHIND, 1, partial(UdmabufSent, send_range),
        ("H3 14", "H2 udmabuf direct sendfile"), _UDMABUF, _SIZE,
    ),
    Strategy(
        "udmabuf-splice-bio", _CACHED + _BEHIND, 1, partial(UdmabufSent, splice_range),
        ("H3 15",), _UDMABUF, _SIZE,
    ),
    Strategy(
        "udmabuf-splice-dio", _PIPED + _BEHIND, 1, partial(UdmabufSent, splice_range),
        ("H3 16",), _UDMABUF, _SIZE,
    ),
    Strategy(
        "udmabuf-memfd-cfr-bio", _CACHED + _BEHIND, 1, UdmabufMemfdRwFile,
        ("H3 17",), _UDMABUF_MEMFD, _SIZE, about=_EXDEV,
    ),
    Strategy(
        "udmabuf-memfd-cfr-dio", _DIRECT + _BEHIND, 0, UdmabufMemfdRwFile,
        ("H3 18",), _UDMABUF_MEMFD, _SIZE, about=_EXDEV,
    ),
    Strategy(
        "udmabuf-cfr-bio", _CACHED + "[udmabuf]", 1, UdmabufRwFile,
        ("H3 19",), _UDMABUF_PAGES, _SIZE, about=_NO_CFR,
    ),
    Strategy(
        "udmabuf-cfr-dio", _DIRECT + "[udmabuf]", 0, UdmabufRwFile,
        ("H3 20",), _UDMABUF_PAGES, _SIZE, about=_NO_CFR,
    ),
    Strategy(
        "dmabuf-cfr-bio", _CACHED + "[dma-buf]", 1, HeapRwFile,
        ("H3 21",), _HEAP_PAGES, about=_NO_CFR,
    ),
    Strategy(
        "dmabuf-cfr-dio", _DIRECT + "[dma-buf]", 0, HeapRwFile,
        ("H3 22",), _HEAP_PAGES, about=_NO_CFR,
    ),
    Strategy(
        "dmabuf-rwfile-bio", _CACHED + "[dma-buf]", 1, HeapRwFile,
        ("H2 patch 1-2",), _HEAP_PAGES,
    ),
    Strategy(
        "dmabuf-rwfile-dio", _DIRECT + "[dma-buf]", 0, HeapRwFile,
        ("H2 patch 1-2",), _HEAP_PAGES,
    ),
    Strategy(
        "dmabuf-sendfile-bio", _CACHED + "[dma-buf]", 1, partial(HeapSent, send_range),
        ("V2 sendfile buffer I/O",), _HEAP_PAGES, about=_STREAM,
    ),
    Strategy(
        "dmabuf-sendfile-dio", _PIPED + "[dma-buf]", 1, partial(HeapSent, send_range),
        ("V2 sendfile direct I/O",), _HEAP_PAGES, about=_STREAM,
    ),
    Strategy(
        "dmabuf-splice-bio", _CACHED + "[dma-buf]", 1, partial(HeapSent, splice_range),
        ("V2 sendfile buffer I/O",), _HEAP_PAGES, about=_STREAM,
    ),
    Strategy(
        "dmabuf-splice-dio", _PIPED + "[dma-buf]", 1, partial(HeapSent, splice_range),
        ("V2 sendfile direct I/O",), _HEAP_PAGES, about=_STREAM,
    ),
    Strategy(
        "dmabuf-allocread-bio", _CACHED + _VMAPPED, 1, AllocRead,
        ("V2 patch 1",), _ALLOC, options=("block",),
    ),
    Strategy(
        "dmabuf-allocread-dio", _DIRECT + _VMAPPED, 0, AllocRead,
        ("V2 patch 1 direct I/O",), _ALLOC_DIRECT, options=("block",),
    ),
    Strategy(
        "dmabuf-gather-bio", _CACHED + _VMAPPED + ", while allocating", 1, GatherRead,
        ("V2 patch 1-4 buffer I/O, 5", "CLK in-kernel parallel read"), _ALLOC,
        about=_GATHER, options=("block", "jobs", "gather"),
    ),
    Strategy(
        "dmabuf-gather-dio", _DIRECT + _VMAPPED + ", while allocating", 0, GatherRead,
        ("V2 patch 1-4 direct I/O, 5", "CLK in-kernel parallel read"), _ALLOC_DIRECT,
        about=_GATHER, options=("block", "jobs", "gather"),
    ),
    Strategy(
        "dmabuf-insertpage-bio", _CACHED + "[dma-buf]", 1, InsertPageRead, ("LL patch 1",), _INSERT,
        about="A buffer of the module's, whose mapping direct I/O can pin; it counts as RSS.",
    ),
    Strategy(
        "dmabuf-insertpage-dio", _DIRECT + "[dma-buf]", 0, InsertPageRead, ("LL DIO",), _INSERT,
        about="A buffer of the module's, whose mapping direct I/O can pin; it counts as RSS.",
    ),
    Strategy(
        "udmabuf-overlap-bio", _CACHED + _BEHIND + ", while pinning", 1, UdmabufOverlap,
        ("CLK section 3",), _UDMABUF, _SIZE,
    ),
    Strategy(
        "udmabuf-overlap-dio", _DIRECT + _BEHIND + ", while pinning", 0, UdmabufOverlap,
        ("CLK section 3",), _UDMABUF, _SIZE,
    ),
    # Beyond the literature.
    Strategy(
        "udmabuf-uring-dio", _DIRECT + _BEHIND + ", --depth reads in flight", 0,
        uring.UdmabufUring, (), (uring.needed, *_UDMABUF), _SIZE, options=("block", "depth"),
    ),
    Strategy(
        "udmabuf-hugetlb-dio", _DIRECT + "[hugetlb memfd = udmabuf]", 0, UdmabufHuge, (),
        (needs.udmabuf, needs.huge_pages, needs.memory), (limits.UDMABUF, limits.HUGE),
        unit=kernel.HUGE_PAGE,
    ),
    Strategy(
        "dmabuf-dontcache-bio", "[DISK] -DMA-> [page cache, dropped behind] -COPY-> [dma-buf]",
        1, HeapRead, (), _HEAP, flags=kernel.RWF_DONTCACHE,
    ),
    Strategy(
        "filemap-bio", "[DISK] -DMA-> [page cache = mapping]", 0, FileMap, (), _PLAIN, options=(),
    ),
    Strategy("anon-bio", _CACHED + "[anonymous memory]", 1, AnonRead, (), _PLAIN),
    Strategy("anon-dio", _DIRECT + "[anonymous memory]", 0, AnonRead, (), _PLAIN),
)  # fmt: skip
