"""How a process loads a file, named from what was seen of it: system calls, flags, addresses.

A pure function of facts, one ``Part`` per way that its bytes took.  Nothing is
guessed from names of programs or of files: a part that is not seen clearly is
"unknown", and a load whose bytes took several ways is "mixed", with its parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dmatrace.analysis.verdicts import MINOR
from dmatrace.sizes import format_size

#: Sizes of calls: below 4 KiB, below 8 KiB, ... below 64 MiB, and larger (bpf/ways.c).
SIZE_CLASSES = tuple(4096 << n for n in range(15))

# include/uapi/asm-generic/mman-common.h, include/uapi/linux/fadvise.h
MADVICE = {
    0: "NORMAL", 1: "RANDOM", 2: "SEQUENTIAL", 3: "WILLNEED", 14: "HUGEPAGE", 21: "PAGEOUT",
    22: "POPULATE_READ", 23: "POPULATE_WRITE",
}  # fmt: skip
FADVICE = {
    0: "NORMAL", 1: "RANDOM", 2: "SEQUENTIAL", 3: "WILLNEED", 4: "DONTNEED", 5: "NOREUSE",
}  # fmt: skip
MAP_POPULATE, MAP_LOCKED = 0x8000, 0x2000

_READS = ("read", "pread64", "readv", "preadv", "preadv2")
_PASSED = ("sendfile", "splice", "copy_file_range", "tee")
_RING = ("io_uring_enter", "worker")
_HEAPS = ("system", "linux,cma", "reserved", "default_cma")

#: Every method that a verdict names, and what it means.
METHODS = {
    "mmap": "mapped, pages faulted in as they are used",
    "mmap+populate": "mapped, all pages faulted in by one call (MAP_POPULATE, MADV_POPULATE_READ)",
    "mmap+willneed": "mapped, read ahead by madvise(MADV_WILLNEED), then faulted",
    "mmap+lock": "mapped, pages faulted in by mlock(2)",
    "buffered": "read(2) and its like, copied out of the page cache",
    "dontcache": "read with RWF_DONTCACHE, copied out of page-cache pages that go at once",
    "direct": "O_DIRECT: read by the device into the memory itself",
    "sendfile": "sendfile(2), page-cache pages passed on",
    "splice": "splice(2), page-cache pages passed through a pipe",
    "copy_file_range": "copy_file_range(2)",
    "io_uring": "io_uring reads, copied out of the page cache",
    "io_uring+fixed": "the same into registered buffers",
    "io_uring+direct": "io_uring reads with O_DIRECT",
    "io_uring+direct+fixed": "the same into registered buffers, which are pinned once",
    "io_uring+dontcache": "io_uring reads with RWF_DONTCACHE",
    "aio": "io_submit(2), copied out of the page cache",
    "aio+direct": "io_submit(2) with O_DIRECT",
    "ioctl": "a driver reads the file inside an ioctl(2)",
    "unknown": "bytes were taken, and not in a way that is known here",
}


@dataclass(frozen=True)
class Taker:
    """What a dma-buf, memfd, pipe or the like is called: of ``Part.to``.

    ``exporter`` and ``heap`` of a dma-buf; ``behind``: of a memfd, the udmabufs made of it.
    """

    exporter: str = ""
    heap: str = ""
    behind: tuple[int, ...] = ()


@dataclass(frozen=True)
class Part:
    """One way that bytes of a file took.

    ``way``, ``call`` and ``target`` as in table ``ways``; ``advised``: what was said of the
    mapping or file before (WILLNEED, MAP_POPULATE, ...).  ``depth``: mean number under way.
    """

    way: str
    call: str
    target: str
    bytes: int
    calls: int
    to: tuple[int, int] = (0, 0)
    taker: Taker = field(default_factory=Taker)
    o_direct: bool = False
    dontcache: bool = False
    fixed: bool = False
    late: bool = False  # it was under way when its thread was first followed
    largest: int = 0
    sizes: tuple[int, ...] = ()
    depth: float | None = None
    deepest: int = 0
    advised: frozenset[str] = frozenset()
    first_ns: int = 0
    last_ns: int = 0


def method(part: Part) -> str:
    """One of METHODS."""
    if part.way == "fault":
        return _faulted(part)
    if part.call in _PASSED:
        return "splice" if part.call == "tee" else part.call
    if part.way == "spliced" or part.way not in ("buffered", "direct"):
        return "unknown"
    direct = "+direct" if part.way == "direct" else ""
    if part.call in _RING:
        if part.dontcache and not direct:
            return "io_uring+dontcache"
        return f"io_uring{direct}{'+fixed' if part.fixed else ''}"
    if part.call == "io_submit":
        return f"aio{direct}"
    if part.call == "ioctl":
        return "ioctl"
    if part.call in _READS:
        if direct:
            return "direct"
        return "dontcache" if part.dontcache else "buffered"
    return "unknown"


def _faulted(part: Part) -> str:
    if part.call in ("mlock", "mlock2", "mlockall"):
        return "mmap+lock"
    if part.call in ("mmap", "madvise"):
        return "mmap+lock" if "MAP_LOCKED" in part.advised else "mmap+populate"
    return "mmap+willneed" if "WILLNEED" in part.advised else "mmap"


def target(part: Part) -> str:
    """What took the bytes, in words; "" of a mapping, which takes nothing."""
    if part.target == "shmem":
        return "udmabuf" if part.taker.behind else "memfd"
    if part.target == "dmabuf":
        exporter, heap = part.taker.exporter, part.taker.heap
        if exporter == "udmabuf":
            return "udmabuf"
        if heap or exporter in _HEAPS:
            return "dma-heap buffer"
        return f"dma-buf of {exporter}" if exporter else "dma-buf"
    return {
        "mapping": "", "anonymous": "anonymous memory", "device": "device mapping",
        "kernel": "the kernel's pages", "file": "file", "pipe": "pipe", "socket": "socket",
    }.get(part.target, "unknown memory")  # fmt: skip


def name(part: Part) -> str:
    """ "direct into udmabuf": method and target as one."""
    into = target(part)
    return f"{method(part)} into {into}" if into else method(part)


@dataclass(frozen=True)
class Verdict:
    """``name``: of all parts, "mixed" or "unknown"; ``shares``: {name of parts: bytes}."""

    name: str
    method: str
    target: str
    shares: Mapping[str, int]


def classify(parts: Sequence[Part]) -> Verdict:
    """The verdict on a load: what all of its bytes but MINOR took, else "mixed"."""
    shares: dict[str, int] = {}
    for part in parts:
        shares[name(part)] = shares.get(name(part), 0) + part.bytes
    shares = dict(sorted(shares.items(), key=lambda item: -item[1]))
    total = sum(shares.values())
    large = [each for each, size in shares.items() if size > MINOR * total]
    if not large:
        return Verdict("unknown", "unknown", "", shares)
    named = {each: part for part in parts for each in [name(part)] if each in large}
    methods = {method(part) for part in named.values()}
    targets = {target(part) for part in named.values()}
    one_method = methods.pop() if len(methods) == 1 else "mixed"
    one_target = targets.pop() if len(targets) == 1 else "mixed"
    return Verdict(large[0] if len(large) == 1 else "mixed", one_method, one_target, shares)


def usual_size(part: Part) -> tuple[int, int] | None:
    """The size class that most calls are of: at least, and below; None where none is known.

    (0, 4096), (4096, 8192), ... ; of calls that are all equally large, those sizes.
    """
    if not any(part.sizes):
        return None
    most = max(range(len(part.sizes)), key=lambda n: part.sizes[n])
    low = SIZE_CLASSES[most - 1] if most else 0
    high = SIZE_CLASSES[most] if most < len(SIZE_CLASSES) else 1 << 62
    return low, high


def block_size(part: Part) -> int:
    """Bytes that a call usually takes: the largest, where most are of its class, else the mean."""
    usual = usual_size(part)
    if usual is None or not part.calls:
        return 0
    if usual[0] <= part.largest < usual[1]:
        return part.largest
    return part.bytes // part.calls


def evidence(part: Part) -> Iterator[str]:
    """What was seen of a part, in words."""
    calls = f"{part.calls} time{'' if part.calls == 1 else 's'}"
    if part.way == "fault":
        inside = f" inside {part.call}(2)" if part.call else ""
        yield f"faulted {calls}{inside}"
    else:
        where = "by a kernel thread for it" if part.call == "worker" else f"by {part.call or '?'}"
        size = block_size(part)
        each = f", {format_size(size)} each" if size else ""
        yield f"{where}, {calls}{each}"
    if part.depth is not None:
        yield f"depth {part.depth:.1f}, at most {part.deepest}"
    flags = [
        word
        for word, seen in (
            ("open with O_DIRECT", part.o_direct),
            ("RWF_DONTCACHE", part.dontcache),
            ("registered buffers", part.fixed and part.call in _RING),
            ("under way when it was first followed, and counted whole", part.late),
        )
        if seen
    ]
    if part.advised:
        flags.append("asked for: " + ", ".join(sorted(part.advised)))
    if flags:
        yield ", ".join(flags)
    if part.o_direct and part.way == "buffered":
        yield "fell back to the page cache"
    if part.target == "shmem" and part.taker.behind:
        yield f"a memfd that dma-buf {part.taker.behind[0]} is made of"
    elif part.to[1] and part.target in ("dmabuf", "shmem", "device", "pipe"):
        yield f"{part.target} inode {part.to[1]}"
