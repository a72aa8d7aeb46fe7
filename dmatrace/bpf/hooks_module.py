"""The hooks of our own kernel module, native/: its functions called dmatrace_loader_*.

They are there for tracers: never inlined, one per step of a load, on the
thread that does the step.  What a read of the module does inside the kernel
has hooks of its own (page cache, direct I/O).  Where the module is not loaded
these rows do not exist: nothing is hidden then.
"""

from __future__ import annotations

from dmatrace.bpf.hook import Hook

MODULE = "dmatrace_loader"

MODULE_HOOKS: tuple[Hook, ...] = (
    Hook(
        "dmatrace_loader_ioctl",
        "module",
        ("dml_ioctl",),
        "the module's own share of its ioctls (shown as syscall)",
        module=MODULE,
    ),
    Hook(
        "dmatrace_loader_alloc",
        "heap-alloc",
        ("dmatrace_loader_alloc",),
        "allocation by the loader module (shown as module)",
        interval=True,
        module=MODULE,
    ),
    Hook(
        "dmatrace_loader_vmap",
        "vmap",
        ("dmatrace_loader_vmap",),
        "mapping of pages by the loader module (shown as module)",
        interval=True,
        module=MODULE,
    ),
    Hook(
        "dmatrace_loader_vunmap",
        "vmap",
        ("dmatrace_loader_vunmap",),
        "unmapping of pages by the loader module (shown as module)",
        interval=True,
        module=MODULE,
    ),
    Hook(
        "dmatrace_loader_read",
        "module",
        ("dmatrace_loader_read",),
        "how long the loader module's reads take, and what they keep pinned",
        on_exit="module_read",
        interval=True,
        module=MODULE,
    ),
    Hook(
        "dmatrace_loader_zero",
        "module",
        ("dmatrace_loader_zero",),
        "how long the loader module zeroes the end of a buffer",
        interval=True,
        module=MODULE,
    ),
    Hook(
        "dmatrace_loader_map",
        "module",
        ("dmatrace_loader_map",),
        "how long the loader module takes to get at a buffer's pages",
        interval=True,
        module=MODULE,
    ),
    Hook(
        "dmatrace_loader_unmap",
        "module",
        ("dmatrace_loader_unmap",),
        "letting go of a buffer's pages by the loader module (shown as module or release)",
        module=MODULE,
    ),
    Hook(
        "dmatrace_loader_export",
        "export",
        ("dmatrace_loader_export",),
        "export of the loader module's buffers (shown as module)",
        module=MODULE,
    ),
    Hook(
        "dmatrace_loader_mmap",
        "map",
        ("dmatrace_loader_mmap",),
        "nothing while dma_buf_mmap is hooked; else mmap of the loader module's buffers",
        module=MODULE,
    ),
    Hook(
        "dmatrace_loader_stream_write",
        "copy",
        ("dmatrace_loader_stream_write",),
        "copying into a dma-buf by the loader module's streams, and its bytes (shown as splice)",
        on_exit="stream_write",
        module=MODULE,
    ),
    Hook(
        "dmatrace_loader_gather_wait",
        "module",
        ("dmatrace_loader_gather_wait",),
        "how long a load waits for its workers",
        interval=True,
        module=MODULE,
    ),
    Hook(
        "dmatrace_loader_gather_work",
        "module",
        ("dmatrace_loader_gather_work",),
        "the workers of the gather path: their time, bytes and block requests",
        on_entry="gather_work",
        program="work",
        module=MODULE,
    ),
)
