"""Loading the BPF programs, and attaching them to this kernel.

The program is the fixed C files; what varies from kernel to kernel enters as
-D constants and attach cookies.  compiler.py makes instructions of them, unless
cache.py has them from before; from there on both ways are one.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from dmatrace.bpf import cache, layout, libbpf
from dmatrace.bpf.btf import kernel_btf
from dmatrace.bpf.compiler import failure, find_bcc, source
from dmatrace.bpf.constants import constants, lacking
from dmatrace.bpf.hook import ENTRY_HANDLERS, EXIT_HANDLERS, Hook, Tap
from dmatrace.bpf.hooks import BIO_RELEASE, DIO_COMPLETE, DIO_TAP, HOOKS
from dmatrace.bpf.hooks_devices import DEVICES
from dmatrace.bpf.hooks_ledger import HEAP, REMOVERS
from dmatrace.bpf.hooks_newcomers import NEWCOMERS
from dmatrace.bpf.maps import Map, RingBuffer
from dmatrace.bpf.preemption import preempts
from dmatrace.bpf.resolve import (
    Attachment,
    check_names,
    describe,
    exists,
    options,
    taps,
    tracefs,
    without_double,
)
from dmatrace.bpf.stacks import left_out
from dmatrace.bpf.taps import AGAIN, programs, twice
from dmatrace.detail import EXACT, Detail
from dmatrace.errors import CannotHere, DmatraceError
from dmatrace.phases import PHASE_ID

_HOOKS = ("any_hook", "read_hook")  # programs that push and pop a frame


def check_machine(without: Collection[str]) -> None:
    """What can be said without compiling.  Raises CannotHere, or UsageError for ``without``."""
    check_names(without)
    find_bcc()
    constants(kernel_btf(), follow_fork=True)
    taps(without)


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


def _close(fds: list[int]) -> None:
    """Close and forget, last first."""
    while fds:
        with suppress(OSError):
            os.close(fds.pop())


def _newcomers() -> list[tuple[Hook, int]]:
    """The hooks that tell who asks for a dma-buf; CannotHere where nobody can."""
    found = [(hook, 0) for hook in NEWCOMERS if exists(hook)]
    if not found:
        raise CannotHere(
            "this kernel has neither dma-heaps nor udmabuf: nobody who asks for a dma-buf is seen",
            do="name processes by -p, --comm or --cgroup",
        )
    return found


class Program:
    """The loaded and attached program; ``close()`` detaches everything.

    Every probe hangs on file descriptors of this process, so the kernel
    detaches them all if it is killed.  ``hooks`` is the recording's list of
    what was attached; ``refused`` says by hook's name why the kernel did not take
    one whose function it has.
    """

    def __init__(
        self,
        mode: str,
        without: Collection[str] = (),
        *,
        follow_fork: bool = True,
        newcomers: bool = False,
        detail: Detail = EXACT,
    ) -> None:
        check_names(without)
        self.messages: list[str] = []
        self.tables: dict[str, Map] = {}
        self.refused: dict[str, str] = {}
        self._links: list[int] = []
        self._attachers: list[Callable[[], list[int]]] = []
        self._fds: list[int] = []
        self._names: dict[int, str] = {}
        self._missed_before = 0
        self._programs: dict[str, int] = {}
        self._loading = threading.Lock()
        btf = kernel_btf()
        found = taps(without)
        present = [tap for tap, there in found if there]
        hooks = [(hook, n) for n, hook in enumerate(HOOKS, start=1) if exists(hook)]
        hooks = without_double(hooks, found, without)
        if DIO_TAP not in present and DIO_TAP.name not in without:
            hooks.append((DIO_COMPLETE, 0))
            found.remove((DIO_TAP, False))
        if any(tap.source == "block.c" for tap in present):
            hooks.append((BIO_RELEASE, 0))
        if any(tap.source == "pagecache.c" for tap in present):
            hooks += [(hook, 0) for hook in REMOVERS]
        hooks += [(hook, 0) for hook in (HEAP, *DEVICES) if exists(hook)]
        if newcomers:
            hooks += _newcomers()
        missing = lacking(btf)
        sampled = left_out(detail) - {*without}
        passed = {*without, *sampled}
        wanted = [
            (hook, n, options(hook, n, mode, missing) if hook.name not in passed else [])
            for hook, n in hooks
        ]
        flags = [f"-D{k}={v}" for k, v in constants(btf, follow_fork=follow_fork).items()]
        flags += [f"-DWITH_{b.upper()}" for b in ("fentry", "kprobe") if mode in ("auto", b)]
        flags += ["-DPREEMPTS", "-DTWICE"] if preempts() else []
        # Headers of 7.x, which bcc itself includes, use Microsoft's anonymous members.
        flags += ["-fms-extensions", "-Wno-everything"]
        formats = [_event(e) / "format" for tap in present for e, _ in programs(tap) if ":" in e]
        #: ``warm``: the program was compiled before, and kept.
        text = source(present, sampled=detail.hz > 0, newcomers=newcomers)
        self._compiled, self.warm = cache.compiled(text, flags, formats, self.messages)
        try:
            for each in self._compiled.maps:
                self.tables[each.name] = Map(each)
            self.events = RingBuffer(self.tables["events"].fd)
            attached = self._attach_all(wanted)
            self._attach_taps(present)
            if detail.hz:
                self._sample(detail.hz)
        except BaseException:
            self.close()
            raise
        self.hooks = describe(attached, found, sampled)
        #: Function -> (hook's number, its phase's or PHASE_OUTER), of those that open a frame.
        self.frames = {
            item.function: (item.number, cookie(item) >> 8 & 0xFF)
            for item in attached
            if item.function and item.hook.program in _HOOKS
        }

    def _attach_all(self, wanted: list[tuple[Hook, int, list[Attachment]]]) -> list[Attachment]:
        """Every hook, by the first way that works.

        In threads, because the kernel checks programs on as many CPUs as ask it to, and that
        is half of a warm start.  Nobody is followed yet: the order does not matter.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(
                pool.map(lambda each: self._attach_first(Attachment(*each[:2]), each[2]), wanted)
            )

    def _attach_first(self, absent: Attachment, ways: list[Attachment]) -> Attachment:
        """The first way the kernel accepts; a listed function can still be refused.

        x86 takes only 6 arguments for fentry before Linux kernel commit
        473e3150e30a "bpf, x86: allow function arguments up to 12 for TRACING"
        (in v6.6).
        """
        refusals = []
        for item in ways:
            try:
                self._attach(item)
            except (OSError, CannotHere) as error:
                refusals.append(f"{item.backend} {item.function}: {error}")
                continue
            return item
        if refusals:
            self.refused[absent.hook.name] = refusals[0]
        return absent

    def _attach(self, item: Attachment) -> None:
        function, carried, program = str(item.function), cookie(item), item.hook.program
        # The exit first: an entry alone would leave its frame open.
        attachers: list[Callable[[], list[int]]] = []
        for on_return in (True, False):
            if item.hook.entry_only if on_return else item.hook.exit_only:
                continue
            if item.backend == "fentry":
                handler = item.hook.on_exit if on_return else item.hook.on_entry
                plain = handler == "none" and program in _HOOKS
                fd = self._tracing(item, "plain_hook" if plain else program, on_return)
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

    def _load(self, name: str, function: str, kind: int, called: str = "", **options: int) -> int:
        """A function of the program, loaded under ``name``; its fd, which ``close`` closes.

        ``called`` is what the statistics call it.
        """
        fds = [table.fd for table in self.tables.values()]
        fd = libbpf.load(name, kind, self._compiled.linked(function, fds), **options)
        self._fds.append(fd)
        self._names[fd] = called or name.removeprefix("dmt_")
        return fd

    def _tracing(self, item: Attachment, name: str, on_return: bool) -> int:
        prefix = "kretfunc__" if on_return else "kfunc__"
        # bcc called them kfunc__NAME before it could attach to modules' functions.
        names = [prefix + infix + name for infix in ("vmlinux__", "")]
        return self._load(
            "dmt_" + item.hook.name.replace(" ", "_"),
            next(each for each in names if each in self._compiled.functions),
            libbpf.PROG_TYPE_TRACING,
            f"{item.hook.name} {'exit' if on_return else 'entry'}",
            attach_type=libbpf.TRACE_FEXIT if on_return else libbpf.TRACE_FENTRY,
            btf_id=item.btf_id,
            btf_fd=item.btf_fd,
        )

    def _sample(self, hz: int) -> None:
        """Interrupt every CPU ``hz`` times a second."""
        fd = self._load(
            "dmt_on_cpu_clock", "on_cpu_clock", libbpf.PROG_TYPE_PERF_EVENT, "cpu-clock samples"
        )
        clocks = [partial(libbpf.attach_clock, fd, cpu, hz) for cpu in _online()]
        try:
            for attach in clocks:
                self._links += attach()
        except OSError as error:
            raise CannotHere(
                f"this kernel refuses to sample stacks: {error}", do="use --detail exact"
            ) from None
        self._attachers += clocks

    def _kprobe(self, name: str) -> int:
        """One program serves all functions: kprobes have no target at load time."""
        with self._loading:
            if name not in self._programs:
                fd = self._load(f"dmt_{name}", name, libbpf.PROG_TYPE_KPROBE)
                self._programs[name] = fd
            return self._programs[name]

    def _attach_taps(self, present: Collection[Tap]) -> None:
        for tap in present:
            for event, again in programs(tap):
                try:
                    attach = self._tracepoint(event, again)
                    self._links += attach()
                except OSError as error:
                    said = [*self.messages, str(error)]
                    raise failure(f"the kernel refuses {event}", error, said) from None
                self._attachers.append(attach)

    def _tracepoint(self, event: str, again: str = "") -> Callable[[], list[int]]:
        """How a tracepoint's program is attached: "system:name" with tracefs's fields, else raw."""
        system, colon, name = event.rpartition(":")
        if not colon:
            function = f"raw_tracepoint__{name}"
            kind = libbpf.PROG_TYPE_RAW_TRACEPOINT
            fd = self._load(f"dmt_{name}", function, kind, name + again)
            return partial(libbpf.attach_raw_tracepoint, fd, name)
        function = f"tracepoint__{system}__{name}"
        fd = self._load(f"dmt_{name}", function, libbpf.PROG_TYPE_TRACEPOINT)
        number = int((_event(event) / "id").read_text())
        return partial(libbpf.attach_tracepoint, fd, event, number)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing attached for a while; the loaded programs and the maps stay."""
        self._missed_before += sum(libbpf.missed(link) or 0 for link in self._links)
        _close(self._links)
        try:
            yield
        finally:
            for attach in self._attachers:
                self._links += attach()

    def close(self) -> None:
        """Detach and free everything; safe to call twice."""
        _close(self._links)
        _close(self._fds)
        self._attachers.clear()  # whose descriptors may soon be others
        self._programs.clear()
        events: RingBuffer | None = self.__dict__.pop("events", None)
        if events is not None:
            events.close()
        while self.tables:
            self.tables.popitem()[1].close()

    def run_stats(self) -> list[dict[str, Any]]:
        """{name, run_time_ns, run_cnt, missed} of each program, the costliest first.

        Time and runs are there while BPF statistics count.  ``missed``: calls at which it did
        not run because it, or one of its kind, ran on that CPU already; 0 of kprobes and classic
        tracepoints before v6.7.  kprobes of all hooks share two programs; fentry has a pair for
        each hook.
        """
        ran = ("run_time_ns", "run_cnt")
        missed = self._recursions()
        found = [
            {
                "name": name,
                **{key: fields.get(key, 0) for key in ran},
                "missed": missed.get(name, 0),
            }
            for name, fields in self._told()
        ]
        return sorted(found, key=lambda row: -row["run_time_ns"])

    def _recursions(self) -> dict[str, int]:
        """What each program missed; of one that is attached twice, what neither heard of."""
        counts: dict[str, list[int]] = {}
        for name, fields in self._told():
            each = counts.setdefault(name.removesuffix(AGAIN), [])
            each.append(fields.get("recursion_misses", 0))
        return {name: min(n) if twice(name) else sum(n) for name, n in counts.items()}

    def missed(self) -> int | None:
        """Calls of hooked functions at which no program ran, by whomever they were made.

        None where this kernel does not tell it of kprobes and some are attached.

        A program is not entered again where it runs already (recursion_misses, which
        counts kprobes and classic tracepoints since Linux kernel commit dd8657894c11 "bpf:
        Count missed stats in trace_call_bpf" in v6.7); a kprobe is not where another is
        being handled, or where too many calls of its function are under way.
        """
        recursions = sum(self._recursions().values())
        if any(hook["attached"] == "kprobe" for hook in self.hooks) and not self._kprobes_tell():
            return None
        return recursions + self._missed_before + sum(libbpf.missed(x) or 0 for x in self._links)

    def _kprobes_tell(self) -> bool:
        return any(libbpf.missed(link) is not None for link in self._links)

    def _told(self) -> Iterator[tuple[str, dict[str, int]]]:
        """Each program's name, and the numbers in its fdinfo."""
        for fd, name in self._names.items():
            with suppress(OSError), open(f"/proc/self/fdinfo/{fd}") as lines:
                fields = (line.split(":", 1) for line in lines if ":" in line)
                yield name, {key: int(value) for key, value in fields if value.strip().isdigit()}

    def table(self, name: str) -> Map | None:
        """One of the program's maps, or None if its C file is not part of this plan."""
        return self.tables.get(name)

    def check_layout(self) -> None:
        """Raise if layout.py and dmatrace.h disagree on a map's value size."""
        for name, mine in (
            ("threads", layout.Thread),
            ("files", layout.FilePages),
            ("ways", layout.Way),
            ("regions", layout.Regions),
        ):
            table = self.table(name)
            if table is not None:
                theirs = table.definition.value_size
                if theirs != ctypes.sizeof(mine):
                    raise DmatraceError(
                        f"struct {name}: {theirs} bytes in C, {ctypes.sizeof(mine)} in Python",
                        do="this is a bug: dmatrace.h and layout.py must agree",
                    )


def _online() -> list[int]:
    """The CPUs that are on, of a list such as "0-3,5"."""
    found: list[int] = []
    for part in Path("/sys/devices/system/cpu/online").read_text().strip().split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _event(event: str) -> Path:
    """The directory of "system:name" in tracefs."""
    system, name = event.split(":")
    return Path(tracefs(), "events", system, name)
