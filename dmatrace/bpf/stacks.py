"""Kernel stacks as phases: which function, found in a stack, owns the moment.

The rule is the phase stack's: the innermost known function owns it.  Known are
the functions of the hook table, and those through which a system call enters.
What ``--detail sampled`` leaves out (rows that fire for every page) is found
here instead; a function whose hook is attached has exact boundaries already, so
it leaves the moment to the cell that the tracer charges it to.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from dmatrace.bpf import layout
from dmatrace.bpf.hooks import HOOKS
from dmatrace.detail import Detail
from dmatrace.phases import PHASES

#: Functions through which every system call passes, by architecture.
_ENTRIES = ("do_syscall_64", "do_int80_emulation", "el0_svc", "el0_svc_compat")


def left_out(detail: Detail) -> frozenset[str]:
    """The hooks that samples stand in for."""
    return frozenset(hook.name for hook in HOOKS if hook.per_page and detail.sampled)


class Owner(NamedTuple):
    """What a function says of the moment: its phase, None if the one around it; ``exact``:
    its boundaries are measured, so the cell knows better."""

    phase: str | None
    exact: bool


Owners = Mapping[str, Owner]


def owners(hooks: Iterable[Mapping[str, object]], without: Collection[str]) -> Owners:
    """{function: who owns it} from a recording's ``hooks`` list, which says what is attached.

    A hook that the user left out (``without``) is left out of this as well.
    """
    found = {name: Owner("syscall", exact=False) for name in _ENTRIES}
    attached = {row["name"]: row for row in hooks}
    for hook in HOOKS:
        row = attached.get(hook.name)
        if hook.name in without or row is None:
            continue
        exact = row["attached"] not in (None, "samples")
        names = [str(row["function"])] if exact else list(hook.candidates)
        for name in names:
            found[name] = Owner(hook.phase, exact)
    return found


def known(function: str) -> str:
    """A symbol's name in the source: compilers add .isra.0, .part.0, .constprop.0, .cold."""
    return function.partition(".")[0]


def phase_of(functions: Iterable[str], cell: str, owners: Owners, *, exact: bool) -> str:
    """The phase that owns a stack, innermost function first.

    ``cell`` is where the tracer charges that moment to.  With ``exact`` the stack
    alone decides, also among attached functions: what the two say can then be compared.
    """
    for function in functions:
        owner = owners.get(known(function))
        if owner is None or (exact and owner.phase is None):
            continue
        if exact:
            return str(owner.phase)
        if owner.exact or owner.phase in (None, "syscall"):
            return cell
        return str(owner.phase)
    return "user" if exact else cell


Symbol = Callable[[int], str]


class Decoder:
    """Records of samples.c as rows of the ``samples`` table."""

    def __init__(self, symbol: Symbol, owners: Owners, *, exact: bool) -> None:
        self._symbol = symbol
        self._owners = owners
        self._exact = exact
        self._names: dict[int, str] = {}

    def row(self, record: bytes, load_id: int) -> dict[str, object]:
        """One sample; its functions are in the order of folded stacks, innermost last."""
        head = layout.SampleHead.from_buffer_copy(record)
        at = ctypes.sizeof(layout.SampleHead)
        addresses = memoryview(record)[at : at + head.bytes].cast("Q")
        functions = [self._name(address) for address in addresses]
        cell = PHASES[head.phase]
        return {
            "t_ns": head.at,
            "load_id": load_id,
            "tid": head.tid,
            "tgid": head.tgid,
            "cell": cell,
            "phase": phase_of(functions, cell, self._owners, exact=self._exact),
            "functions": ";".join(reversed(functions)),
            "count": 1,
        }

    def _name(self, address: int) -> str:
        name = self._names.get(address)
        if name is None:
            name = self._names[address] = self._symbol(address) or "[unknown]"
        return name
