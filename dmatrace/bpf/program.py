"""Compiling the BPF programs through bcc, and attaching them to this kernel.

The program is the fixed C files; what varies from kernel to kernel enters as
-D constants and attach cookies.  bcc is imported here only, so that readers
of recordings need neither it nor root.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import resources
from typing import Any

from dmatrace.bpf import layout, libbpf
from dmatrace.bpf.btf import kernel_btf
from dmatrace.bpf.constants import constants, lacking
from dmatrace.bpf.hook import ENTRY_HANDLERS, EXIT_HANDLERS, Tap
from dmatrace.bpf.hooks import BIO_RELEASE, DIO_COMPLETE, DIO_TAP, HOOKS
from dmatrace.bpf.resolve import Attachment, check_names, describe, exists, options, taps
from dmatrace.errors import CannotHere, DmatraceError
from dmatrace.phases import PHASE_ID

_RAW = {
    "tasks.c": (
        "sys_enter",
        "sys_exit",
        "sched_switch",
        "sched_wakeup",
        "sched_process_fork",
        "sched_process_exec",
        "sched_process_exit",
    ),
    "direct.c": ("iomap_dio_complete",),
    "block.c": ("block_bio_queue", "block_split", "block_rq_issue", "block_rq_complete"),
}
_FILEMAP = ("mm_filemap_add_to_page_cache", "mm_filemap_delete_from_page_cache")


def import_bcc() -> Any:
    """bcc's module.  Raises CannotHere with the package to install."""
    if importlib.util.find_spec("bcc") is None:
        raise CannotHere(
            "bcc is not installed for this Python",
            do="apt install python3-bpfcc, and use the distribution's Python"
            " (or run in the lab: dmatrace lab run)",
        )
    try:
        import bcc
    except (ImportError, OSError) as error:
        raise CannotHere(
            f"bcc does not load: {error}", do="apt install --reinstall python3-bpfcc libbpfcc"
        ) from None
    if not hasattr(bcc, "BPF"):
        raise CannotHere(
            "the module 'bcc' found here is not the BPF Compiler Collection",
            do="pip uninstall bcc; apt install python3-bpfcc",
        )
    return bcc


def check_machine(without: Collection[str]) -> None:
    """What can be said without compiling.  Raises CannotHere, or UsageError for ``without``."""
    check_names(without)
    import_bcc()
    constants(kernel_btf(), follow_fork=True)
    taps(without)


def source(present: Collection[Tap]) -> str:
    """The C text: one translation unit, because bcc rewrites only its main file."""
    package = resources.files("dmatrace.bpf")
    names = ["dmatrace.h", "stack.c", "handlers.c", "probes.c", "work.c", "direct.c"]
    names += [tap.source for tap in present if tap.source not in names]
    if any(tap.source == "block.c" for tap in present):
        names.append("pins.c")
    return "".join(f'#line 1 "{name}"\n{(package / name).read_text()}\n' for name in names)


def cookie(item: Attachment) -> int:
    """What probes.c reads to know which hook fired."""
    hook = item.hook
    return (
        item.number
        | (layout.PHASE_OUTER if hook.phase is None else PHASE_ID[hook.phase]) << 8
        | int(hook.interval) << 16
        | ENTRY_HANDLERS.index(hook.on_entry) << 24
        | EXIT_HANDLERS.index(hook.on_exit) << 32
    )


@contextmanager
def _output_kept(into: list[str]) -> Iterator[None]:
    """Hold back what clang, libbpf and bcc print (on both streams), to show it on failure."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.memfd_create("output")
    saved = [os.dup(stream) for stream in (1, 2)]
    for stream in (1, 2):
        os.dup2(kept, stream)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # C's stdout is buffered where it is no terminal
        for stream, old in zip((1, 2), saved, strict=True):
            os.dup2(old, stream)
            os.close(old)
        os.lseek(kept, 0, os.SEEK_SET)
        into += os.read(kept, 1 << 20).decode(errors="replace").strip().splitlines()
        os.close(kept)


def _close(fds: list[int]) -> None:
    """Close and forget, last first."""
    while fds:
        with suppress(OSError):
            os.close(fds.pop())


class Program:
    """The loaded and attached program; ``close()`` detaches everything.

    Every probe hangs on file descriptors of this process, so the kernel
    detaches them all if it is killed.  ``hooks`` is the recording's list of
    what was attached.
    """

    def __init__(
        self,
        mode: str,
        without: Collection[str] = (),
        *,
        follow_fork: bool = True,
        per_thread_cache: bool = False,
    ) -> None:
        check_names(without)
        self.messages: list[str] = []
        self._links: list[int] = []
        self._attachers: list[Callable[[], list[int]]] = []
        self._fds: list[int] = []
        self._missed_before = 0
        self._programs: dict[str, int] = {}
        self._taps: list[tuple[bool, str]] = []
        self.bpf: Any = None
        bcc = import_bcc()
        btf = kernel_btf()
        found = taps(without)
        present = [tap for tap, there in found if there]
        hooks = [(hook, n) for n, hook in enumerate(HOOKS, start=1) if exists(hook)]
        if DIO_TAP not in present and DIO_TAP.name not in without:
            hooks.append((DIO_COMPLETE, 0))
            found.remove((DIO_TAP, False))
        if any(tap.source == "block.c" for tap in present):
            hooks.append((BIO_RELEASE, 0))
        missing = lacking(btf)
        wanted = [
            (hook, n, options(hook, n, mode, missing) if hook.name not in without else [])
            for hook, n in hooks
        ]
        flags = [f"-D{k}={v}" for k, v in constants(btf, follow_fork=follow_fork).items()]
        flags += [f"-DWITH_{b.upper()}" for b in ("fentry", "kprobe") if mode in ("auto", b)]
        flags += ["-DPER_THREAD_CACHE"] if per_thread_cache else []
        # Headers of 7.x, which bcc itself includes, use Microsoft's anonymous members.
        flags += ["-fms-extensions", "-Wno-everything"]
        try:
            self.bpf = self._compile(bcc, source(present), flags)
            attached = [self._attach_first(Attachment(hook, n), ways) for hook, n, ways in wanted]
            self._load_taps(bcc.BPF, present)
        except BaseException:
            self.close()
            raise
        self.hooks = describe(attached, found)
        #: Function -> (hook's number, its phase's or PHASE_OUTER), of those that open a frame.
        self.frames = {
            item.function: (item.number, cookie(item) >> 8 & 0xFF)
            for item in attached
            if item.function and item.hook.program == "any_hook"
        }

    def _compile(self, bcc: Any, text: str, flags: list[str]) -> Any:
        class Unattached(bcc.BPF):  # type: ignore[misc]
            def _trace_autoload(self) -> None:
                """bcc would attach by name, and let one refusal end everything."""

        try:
            with _output_kept(self.messages):
                return Unattached(text=text.encode(), cflags=flags)
        except Exception as error:
            raise self._failure("the BPF program does not compile", error) from None

    def _failure(self, what: str, error: Exception) -> DmatraceError:
        said = self.messages
        telling = [line for line in said if "error" in line.lower() or "headers" in line.lower()]
        first = (telling or said or [str(error)])[0].strip()
        if os.geteuid() != 0:
            return CannotHere(f"{what}: {first}", do="run it with sudo")
        if any("kernel headers" in line for line in said) or "/linux/" in first:
            return CannotHere(
                "bcc needs this kernel's headers to compile",
                do=f"apt install linux-headers-{platform.release()}",
            )
        return DmatraceError(f"{what}: {first}", do="please report it with the kernel's version")

    def _attach_first(self, absent: Attachment, ways: list[Attachment]) -> Attachment:
        """The first way the kernel accepts; a listed function can still be refused.

        x86 takes only 6 arguments for fentry before Linux kernel commit
        473e3150e30a "bpf, x86: allow function arguments up to 12 for TRACING"
        (in v6.6).
        """
        for item in ways:
            try:
                self._attach(item)
            except OSError as error:
                self.messages.append(f"{item.backend} {item.function}: {error}")
                continue
            return item
        return absent

    def _attach(self, item: Attachment) -> None:
        function, carried, program = str(item.function), cookie(item), item.hook.program
        # The exit first: an entry alone would leave its frame open.
        attachers: list[Callable[[], list[int]]] = []
        for on_return in (False,) if item.hook.entry_only else (True, False):
            if item.backend == "fentry":
                fd = self._tracing(item, program, on_return)
                kind = libbpf.TRACE_FEXIT if on_return else libbpf.TRACE_FENTRY
                attachers.append(partial(libbpf.attach_tracing, fd, kind, carried))
            else:
                fd = self._kprobe(f"kprobe_{program}_{'exit' if on_return else 'entry'}")
                attachers.append(
                    partial(libbpf.attach_kprobe, fd, function, carried, on_return=on_return)
                )
        links: list[int] = []
        try:
            for attach in attachers:
                links += attach()
        except OSError:
            _close(links)
            raise
        self._links += links
        self._attachers += attachers

    def _instructions(self, name: str) -> tuple[int, int]:
        from bcc.libbcc import lib

        lib.bpf_function_start.restype = ctypes.c_void_p
        lib.bpf_function_size.restype = ctypes.c_size_t
        start = lib.bpf_function_start(self.bpf.module, name.encode())
        return start or 0, lib.bpf_function_size(self.bpf.module, name.encode())

    def _tracing(self, item: Attachment, name: str, on_return: bool) -> int:
        prefix = "kretfunc__" if on_return else "kfunc__"
        # bcc called them kfunc__NAME before it could attach to modules' functions.
        for infix in ("vmlinux__", ""):
            start, size = self._instructions(prefix + infix + name)
            if start:
                break
        fd = libbpf.load(
            "dmt_" + item.hook.name.replace(" ", "_"),
            libbpf.PROG_TYPE_TRACING,
            start,
            size,
            attach_type=libbpf.TRACE_FEXIT if on_return else libbpf.TRACE_FENTRY,
            btf_id=item.btf_id,
            btf_fd=item.btf_fd,
        )
        self._fds.append(fd)
        return fd

    def _kprobe(self, name: str) -> int:
        """One program serves all functions: kprobes have no target at load time."""
        if name not in self._programs:
            start, size = self._instructions(name)
            fd = libbpf.load(f"dmt_{name}", libbpf.PROG_TYPE_KPROBE, start, size)
            self._programs[name] = fd
            self._fds.append(fd)
        return self._programs[name]

    def _load_taps(self, kinds: Any, present: Collection[Tap]) -> None:
        for tap in present:
            kind, prefix, names = kinds.RAW_TRACEPOINT, "raw_tracepoint__", _RAW.get(tap.source, ())
            if tap.source == "pagecache.c":
                kind, prefix, names = kinds.TRACEPOINT, "tracepoint__filemap__", _FILEMAP
            for function in (prefix + name for name in names):
                try:
                    with _output_kept(self.messages):
                        self.bpf.load_func(function.encode(), kind)
                        self._taps.append((kind == kinds.TRACEPOINT, function))
                except Exception as error:
                    raise self._failure(f"the kernel refuses {function}", error) from None
        self._attach_taps()

    def _attach_taps(self) -> None:
        for classic, function in self._taps:
            event = function.split("__", 1)[1].replace("__", ":").encode()
            if classic:
                self.bpf.attach_tracepoint(tp=event, fn_name=function.encode())
            else:
                self.bpf.attach_raw_tracepoint(tp=event, fn_name=function.encode())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing attached for a while; the loaded programs and the maps stay."""
        self._missed_before += sum(libbpf.missed(link) or 0 for link in self._links)
        _close(self._links)
        for classic, function in self._taps:
            event = function.split("__", 1)[1].replace("__", ":").encode()
            if classic:
                self.bpf.detach_tracepoint(tp=event)
            else:
                self.bpf.detach_raw_tracepoint(tp=event)
        try:
            yield
        finally:
            for attach in self._attachers:
                self._links += attach()
            self._attach_taps()

    def close(self) -> None:
        """Detach and free everything; safe to call twice."""
        _close(self._links)
        _close(self._fds)
        self._programs.clear()
        if self.bpf is not None:
            self.bpf.cleanup()
            self.bpf = None

    def run_stats(self) -> tuple[int, int]:
        """(run time in ns, runs) summed over our programs; zeros unless BPF stats are on."""
        found = list(self._told())
        return sum(f.get("run_time_ns", 0) for f in found), sum(f.get("run_cnt", 0) for f in found)

    def missed(self) -> int | None:
        """Calls of hooked functions at which no program ran, by whomever they were made.

        None where this kernel does not tell it of kprobes and some are attached.

        A program is not entered again where it runs already (recursion_misses, which
        counts kprobes and classic tracepoints since Linux kernel commit dd8657894c11 "bpf:
        Count missed stats in trace_call_bpf" in v6.7); a kprobe is not where another is
        being handled, or where too many calls of its function are under way.
        """
        recursions = sum(fields.get("recursion_misses", 0) for fields in self._told())
        if any(hook["attached"] == "kprobe" for hook in self.hooks) and not self._kprobes_tell():
            return None
        return recursions + self._missed_before + sum(libbpf.missed(x) or 0 for x in self._links)

    def _kprobes_tell(self) -> bool:
        return any(libbpf.missed(link) is not None for link in self._links)

    def _told(self) -> Iterator[dict[str, int]]:
        """The numbers in each program's fdinfo."""
        for fd in [*self._fds, *(function.fd for function in self.bpf.funcs.values())]:
            with suppress(OSError), open(f"/proc/self/fdinfo/{fd}") as lines:
                fields = (line.split(":", 1) for line in lines if ":" in line)
                yield {name: int(value) for name, value in fields if value.strip().isdigit()}

    def table(self, name: str) -> Any:
        """One of the program's maps, or None if its C file is not part of this plan."""
        try:
            return self.bpf[name]
        except KeyError:
            return None

    def check_layout(self) -> None:
        """Raise if layout.py and dmatrace.h disagree on a map's value size."""
        for name, mine in (("threads", layout.Thread), ("files", layout.FilePages)):
            table = self.table(name)
            if table is not None:
                theirs = ctypes.sizeof(table.Leaf)
                if theirs != ctypes.sizeof(mine):
                    raise DmatraceError(
                        f"struct {name}: {theirs} bytes in C, {ctypes.sizeof(mine)} in Python",
                        do="this is a bug: dmatrace.h and layout.py must agree",
                    )
