"""What a row of the hook tables is."""

from __future__ import annotations

from dataclasses import dataclass

# Handlers in handlers.c, reads.c (and work.c); their position is what the attach cookie carries.
ENTRY_HANDLERS = (
    "none",
    "filemap_read",
    "memfd_pin",
    "release",
    "dio_submit",
    "dio_complete",
    "splice_pipe",
    "gather_work",
    "io_wq_work",
    "dio_other",
    "dio_block",
    "iocb",
    "file",
    "shmem_read",
    "splice_cache",
    "filemap_fault",
    "map_pages",
    "refault",
    # In the order of enum removal.
    "remove_invalidate",
    "remove_truncate",
    "remove_unlink",
    "remove_drop_caches",
)
EXIT_HANDLERS = (
    "none",
    "filemap_read",
    "perform_write",
    "shmem_read",
    "dio_bytes",
    "dio_pointer",
    "dio_complete",
    "shmem_alloc",
    "pin_pages",
    "memfd_pin",
    "export",
    "splice_cache",
    "splice_shmem",
    "splice_pages",
    "splice_pipe",
    "splice_write",
    "stream_write",
    "module_read",
    "filemap_fault",
)


@dataclass(frozen=True)
class Hook:
    """A pair of probes, on entry and return of a function, that owns a phase.

    ``phase`` None stays in the phase around it, and only counts.
    ``on_entry`` and ``on_exit`` name handlers of handlers.c; ``interval``
    also reports each call as (start, end), for the overlap of allocation and
    I/O; ``per_page`` marks rows that fire for every page on some path.

    ``program`` is the pair of BPF programs: those that push and pop a phase ("read_hook" of
    functions that read files), or for "work" those that make a worker a traced thread;
    ``entry_only`` ones have no exit, ``exit_only`` ones no entry.  ``module``: the functions
    are a module's, and the row does not exist where it is not loaded.  ``unless``: where this
    function is, none of the candidates need be.  ``members``: optional rows of OFFSETS it needs.
    """

    name: str
    phase: str | None
    candidates: tuple[str, ...]
    hides: str
    on_entry: str = "none"
    on_exit: str = "none"
    interval: bool = False
    per_page: bool = False
    program: str = "any_hook"
    entry_only: bool = False
    exit_only: bool = False
    module: str = ""
    unless: str = ""
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tap:
    """A tracepoint, or a function entry, that counts and opens no phase.

    ``events`` must all be present (tracefs names); ``source`` is the C file
    that holds the handlers and is compiled only then.  ``instead`` is the hook
    whose exit handler does the same where they are not.
    """

    name: str
    events: tuple[str, ...]
    source: str
    hides: str
    required: bool = False
    instead: str = ""
