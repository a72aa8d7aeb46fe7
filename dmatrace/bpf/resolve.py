"""The hook table laid over the running kernel: what can be attached, and how.

Presence decides: a function must be in BTF (fentry) and traceable
(available_filter_functions: functions marked notrace, all of lib/ and inlined
ones are not in it); a tracepoint must be in tracefs.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from dmatrace.bpf import symbols
from dmatrace.bpf.btf import function_btf, has_module
from dmatrace.bpf.hook import Hook, Tap
from dmatrace.bpf.hooks import BIO_RELEASE, HOOKS, TAPS
from dmatrace.bpf.hooks_devices import DEVICES
from dmatrace.bpf.hooks_ledger import HEAP, REMOVERS
from dmatrace.bpf.hooks_newcomers import NEWCOMERS
from dmatrace.bpf.preemption import preempts
from dmatrace.errors import CannotHere, UsageError

#: Rows beside the table's: they open no frame.
UNNUMBERED: tuple[Hook, ...] = (BIO_RELEASE, HEAP, *REMOVERS, *DEVICES)

TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")


def backends(mode: str) -> tuple[str, ...]:
    """How hooks may be attached by ``--hooks``, best first.

    A kprobe is right where the kernel preempts itself, too (preemption.py).
    """
    if mode != "auto":
        return (mode,)
    return ("kprobe", "fentry") if preempts() else ("fentry", "kprobe")


def tracefs() -> str:
    """Where tracefs is mounted.  Raises CannotHere without it or without the right to read it."""
    for path in TRACEFS:
        if os.path.isdir(os.path.join(path, "events")):
            return path
    if os.geteuid() != 0:
        raise CannotHere("tracefs cannot be read without root", do="run it with sudo")
    raise CannotHere("tracefs is not mounted", do="mount -t tracefs tracefs /sys/kernel/tracing")


@lru_cache(maxsize=1)
def traceable_functions() -> frozenset[str]:
    """Functions that fentry and kprobes can attach to; a name in it twice is ambiguous."""
    if not listed():
        # Whether one that has a symbol can be attached to, its attachment says.
        return _once(symbols.functions())
    with open(_list_of_functions()) as lines:
        return _once(line.split(" ", 1)[0].rstrip("\n") for line in lines)


def listed() -> bool:
    """Whether the kernel says which functions can be traced.

    Locked down for confidentiality it keeps that from root too (LOCKDOWN_TRACEFS).
    Raises PermissionError without root.
    """
    try:
        with open(_list_of_functions()):
            return True
    except PermissionError:
        if os.geteuid() != 0:
            raise
        return False


def _list_of_functions() -> str:
    return os.path.join(tracefs(), "available_filter_functions")


def _once(names: Iterable[str]) -> frozenset[str]:
    """Those that are there once."""
    return frozenset(name for name, count in Counter(names).items() if count == 1)


def has_event(event: str) -> bool:
    """Whether tracefs knows the tracepoint "system:name"."""
    system, name = event.split(":")
    return os.path.isdir(os.path.join(tracefs(), "events", system, name))


@dataclass(frozen=True)
class Attachment:
    """One hook on this kernel: the function and the backend to try, or None twice.

    ``btf_id`` is the function's type number for fentry, ``btf_fd`` the module's
    BTF it is in; 0 for the kernel itself, and both for a kprobe.
    """

    hook: Hook
    number: int
    function: str | None = None
    backend: str | None = None
    btf_id: int = 0
    btf_fd: int = 0


def describe(
    hooks: Collection[Attachment],
    found: Iterable[tuple[Tap, bool]],
    left_out: Collection[str] = (),
) -> list[dict[str, object]]:
    """The recording's ``hooks`` list: what was attached, and what a missing one hides.

    ``left_out``: hooks that samples stand in for; their time is not hidden.
    """
    rows: list[dict[str, object]] = []
    for item in hooks:
        rows.append(
            {
                "name": item.hook.name,
                "function": item.function,
                "phase": item.hook.phase,
                "attached": "samples" if item.hook.name in left_out else item.backend,
                "hides": None if item.backend or item.hook.name in left_out else item.hook.hides,
            }
        )
    done = {item.hook.name: item for item in hooks if item.backend and item.hook.on_exit != "none"}
    for tap, present in found:
        other = None if present else done.get(tap.instead)
        attached = "tracepoint" if present else other.backend if other else None
        rows.append(
            {
                "name": tap.name,
                "function": other.function if other else " ".join(tap.events),
                "phase": None,
                "attached": attached,
                "hides": None if attached else tap.hides,
            }
        )
    return rows


def without_double(
    hooks: Iterable[tuple[Hook, int]], found: Iterable[tuple[Tap, bool]], without: Collection[str]
) -> list[tuple[Hook, int]]:
    """The hooks, without the exit handlers of those that a tap is there instead of.

    Or whose tap is left out: then nothing is to do its work.
    """
    idle = {tap.instead for tap, present in found if present or tap.name in without}
    return [(replace(hook, on_exit="none") if hook.name in idle else hook, n) for hook, n in hooks]


Lookup = Callable[[Hook, str], tuple[int, int] | None]


def exists(hook: Hook) -> bool:
    """Whether this kernel could have the row at all: where not, nothing is hidden without it."""
    if hook.module and not has_module(hook.module):
        return False
    present = traceable_functions()
    return hook.unless not in present or any(name in present for name in hook.candidates)


def options(
    hook: Hook, number: int, mode: str, missing: Collection[str], lookup: Lookup = function_btf
) -> list[Attachment]:
    """Every way to attach a hook here, best first: newest name, then as backends() says.

    ``missing`` are the optional members that this kernel's structures lack.
    """
    found: list[Attachment] = []
    if any(member in missing for member in hook.members):
        return found
    for function in hook.candidates:
        if function not in traceable_functions():
            continue
        for backend in backends(mode):
            place = lookup(hook, function) if backend == "fentry" else (0, 0)
            if place is not None:
                found.append(Attachment(hook, number, function, backend, *place))
    return found


def check_names(without: Collection[str]) -> None:
    """Raise UsageError if a name to leave out is in neither table."""
    known = {hook.name for hook in (*HOOKS, *UNNUMBERED, *NEWCOMERS)} | {
        tap.name for tap in TAPS if not tap.required
    }
    for name in without:
        if name not in known:
            raise UsageError(f"no hook is called {name!r}", do="hooks: " + ", ".join(sorted(known)))


def taps(without: Collection[str] = ()) -> list[tuple[Tap, bool]]:
    """The taps and whether this kernel has them.  Raises CannotHere if it lacks a required one."""
    found = []
    for tap in TAPS:
        missing = [event for event in tap.events if not has_event(event)]
        if tap.required and missing:
            raise CannotHere(
                f"this kernel lacks the tracepoints {', '.join(missing)}",
                do="boot a kernel with CONFIG_FTRACE_SYSCALLS and scheduler tracepoints",
            )
        found.append((tap, not missing and tap.name not in without))
    return found
