"""What the tracer is made of: type information, bcc, and the functions it hooks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dmatrace.bpf import dmabufs, libbpf, resolve
from dmatrace.bpf.btf import VMLINUX, kernel_btf
from dmatrace.bpf.compiler import import_bcc
from dmatrace.bpf.constants import constants, lacking
from dmatrace.bpf.hook import Hook, Tap
from dmatrace.bpf.hooks import DIO_COMPLETE, DIO_TAP, HOOKS, TAPS
from dmatrace.errors import CannotHere
from dmatrace.session.doctor.check import (
    SUDO,
    Finding,
    Machine,
    State,
    degraded,
    missing,
    ok,
    refused,
    unknown,
)


def btf(_machine: Machine) -> Finding:
    """The running kernel's types, and every member that the BPF programs read."""
    try:
        constants(kernel_btf(), follow_fork=True)
    except CannotHere as error:
        return refused(error)
    return ok(VMLINUX)


def members(_machine: Machine) -> Finding:
    """Members that only some kernels have."""
    try:
        absent = sorted(lacking(kernel_btf()))
    except CannotHere as error:
        return refused(error)
    if absent:
        return degraded("this kernel's structures lack " + ", ".join(absent))
    return ok("all")


def bcc(_machine: Machine) -> Finding:
    """The distribution's own compiler for BPF."""
    try:
        module = import_bcc()
    except CannotHere as error:
        return refused(error)
    return ok(f"bcc {getattr(module, '__version__', 'of unknown version')}")


def libbpf_version(_machine: Machine) -> Finding:
    """The library that loads and attaches."""
    try:
        library = libbpf.library()
    except CannotHere as error:
        return refused(error)
    major, minor = library.libbpf_major_version(), library.libbpf_minor_version()
    return ok(f"libbpf {major}.{minor}")


def headers(machine: Machine) -> Finding:
    """Kernel headers of exactly the kernel that runs: bcc's compiler wants them."""
    directory = f"lib/modules/{machine.release}/build"
    if machine.exists(f"{directory}/Makefile"):
        return ok(f"/{directory}")
    if machine.exists("sys/kernel/kheaders.tar.xz"):
        return ok("/sys/kernel/kheaders.tar.xz")
    return missing(f"/{directory} is not there", f"apt install linux-headers-{machine.release}")


def dmabuf_iterator(_machine: Machine) -> Finding:
    """The kernel's own list of dma-bufs, as a BPF iterator."""
    try:
        there = dmabufs.has_iterator(kernel_btf())
    except CannotHere as error:
        return refused(error)
    if there:
        return ok("BPF iterator")
    if Path("/sys/kernel/debug/dma_buf/bufinfo").exists():
        return degraded("no BPF iterator: the list is taken from debugfs")
    return degraded(
        "no BPF iterator: buffers that no process holds are in debugfs alone",
        "mount -t debugfs debugfs /sys/kernel/debug",
    )


def _seen() -> bool:
    """Whether this user may know which functions can be hooked."""
    try:
        resolve.traceable_functions()
    except (CannotHere, OSError):
        return False
    return True


def hooks(machine: Machine) -> Iterator[Finding]:
    """Every row of the table of functions."""
    rows = [*HOOKS, *resolve.UNNUMBERED]
    if not _seen():
        yield _not_seen(machine, f"{len(rows)} functions")
        return
    if not resolve.listed():
        yield unknown(
            f"{len(rows)} functions cannot be looked up: the kernel keeps"
            " available_filter_functions from root; those that it refuses when a recording"
            " starts are named in that",
            "boot it without lockdown=confidentiality",
        )
        return
    try:
        absent = lacking(kernel_btf())
    except CannotHere:
        return  # the line of the type information says why
    for number, hook in enumerate(rows, start=1):
        yield hook_finding(hook, number, absent)


def hook_finding(hook: Hook, number: int, absent: set[str]) -> Finding:
    """How a row would be attached here; the kernel can still refuse it, and kprobes then serve."""
    if not resolve.exists(hook):
        why = f"{hook.module} is not loaded" if hook.module else f"{hook.unless} is hooked instead"
        return ok(f"not wanted: {why}", name=hook.name)
    ways = resolve.options(hook, number, "auto", absent)
    if ways:
        return ok(f"{ways[0].backend} {ways[0].function}", name=hook.name)
    lost = [member for member in hook.members if member in absent]
    if lost:
        what = f"this kernel's structures lack {', '.join(lost)}"
    else:
        what = f"no {' or '.join(hook.candidates)} that can be hooked"
    return missing(what, name=hook.name, hides=hook.hides)


def taps(machine: Machine) -> Iterator[Finding]:
    """Every row of the table of tracepoints."""
    try:
        found = [(tap, [event for event in tap.events if not resolve.has_event(event)])
                 for tap in TAPS]  # fmt: skip
    except CannotHere:
        yield _not_seen(machine, f"{len(TAPS)} groups of tracepoints")
        return
    for tap, absent in found:
        yield tap_finding(tap, absent)


def tap_finding(tap: Tap, absent: list[str]) -> Finding:
    """A row of tracepoints; ``absent`` are those this kernel lacks."""
    if not absent:
        return Finding(
            State.OK, f"tracepoint {', '.join(tap.events)}", name=tap.name, needed=tap.required
        )
    what = f"no tracepoint {', '.join(absent)}"
    instead = instead_of(tap)
    if instead is not None:
        return ok(f"{instead} ({what})", name=tap.name)
    return Finding(State.MISSING, what, name=tap.name, hides=tap.hides, needed=tap.required)


def instead_of(tap: Tap) -> str | None:
    """The function that is hooked where a row's tracepoints are not there, and how."""
    others = [hook for hook in HOOKS if hook.name == tap.instead]
    others += [DIO_COMPLETE] if tap is DIO_TAP else []
    if not others or not _seen():
        return None
    ways = resolve.options(others[0], 0, "auto", lacking(kernel_btf()))
    return f"{ways[0].backend} {ways[0].function}" if ways else None


def _not_seen(machine: Machine, what: str) -> Finding:
    if machine.uid:
        return unknown(do=SUDO)
    return unknown(f"{what} cannot be looked up without tracefs")
