"""The checks, in the order they are printed, and how they are run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from dmatrace.errors import CannotHere
from dmatrace.session.doctor import kernel, loader_module, memory, tracing
from dmatrace.session.doctor.check import (
    SUDO,
    Check,
    Finding,
    Machine,
    State,
    unknown,
)

CHECKS: tuple[Check, ...] = (
    Check("release", "kernel", kernel.release),
    Check("architecture", "kernel", kernel.architecture, needed=True),
    Check("lockdown", "kernel", kernel.lockdown, needed=True),
    Check("BPF JIT", "kernel", kernel.bpf_jit),
    Check("function tracing", "kernel", kernel.function_tracer, needed=True),
    Check("kprobes", "kernel", kernel.kprobes),
    Check("preemption", "kernel", kernel.preemption),
    Check("schedstat", "kernel", kernel.schedstat, needed=True),
    Check("PSI", "kernel", kernel.pressure),
    Check("taskstats", "kernel", kernel.taskstats),
    Check("delay accounting", "kernel", kernel.delay_accounting),
    Check("user", "privileges", kernel.root_user, needed=True),
    Check("capabilities", "privileges", kernel.capabilities),
    Check("namespaces", "privileges", kernel.namespaces),
    Check("unprivileged_bpf_disabled", "privileges", kernel.unprivileged_bpf),
    Check("kptr_restrict", "privileges", kernel.kptr),
    Check("tracefs", "privileges", kernel.tracefs, needed=True),
    Check("drop_caches", "privileges", memory.drop_caches),
    Check("type information", "BTF", tracing.btf, needed=True),
    Check("optional members", "BTF", tracing.members),
    Check("bcc", "bcc", tracing.bcc, needed=True),
    Check("libbpf", "bcc", tracing.libbpf_version, needed=True),
    Check("kernel headers", "bcc", tracing.headers, needed=True),
    Check("functions", "hooks", tracing.hooks),
    Check("tracepoints", "hooks", tracing.taps),
    Check("dma-heaps", "buffers", memory.heaps),
    Check("udmabuf", "buffers", memory.udmabuf),
    Check("udmabuf size_limit_mb", "buffers", memory.size_limit),
    Check("udmabuf list_limit", "buffers", memory.list_limit),
    Check("memfd", "buffers", memory.memfd),
    Check("huge pages", "buffers", memory.huge_pages),
    Check("dma-buf list", "buffers", tracing.dmabuf_iterator),
    Check("direct I/O", "files", memory.direct_io),
    Check("cachestat", "files", memory.cachestat),
    Check("io_uring", "files", memory.io_uring),
    Check("loader module", "module", loader_module.loaded),
    Check("build", "module", loader_module.installed),
    Check("signatures", "module", loader_module.signatures),
)


@dataclass(frozen=True)
class Line:
    """One finding, with the section and the name it is printed under."""

    section: str
    name: str
    finding: Finding

    @property
    def needed(self) -> bool:
        """Whether nothing can be recorded unless this is ok or degraded."""
        return bool(self.finding.needed)


def examine(machine: Machine, checks: Iterable[Check] = CHECKS) -> list[Line]:
    """Every check's findings, in the table's order.

    Raises OSError where ``machine.file`` cannot be opened; whatever else a check
    cannot see is a finding.
    """
    lines = []
    for check in checks:
        for finding in _look(check, machine):
            needed = check.needed if finding.needed is None else finding.needed
            found = replace(finding, needed=needed)
            lines.append(Line(check.section, finding.name or check.name, found))
    return lines


def _look(check: Check, machine: Machine) -> list[Finding]:
    try:
        answer = check.look(machine)
        return [answer] if isinstance(answer, Finding) else list(answer)
    except PermissionError as error:
        if machine.file is not None and error.filename == machine.file:
            raise
        return [unknown(f"{error.filename or 'it'} may not be read", SUDO if machine.uid else "")]
    except CannotHere as error:
        return [unknown(error.message, error.do)]


def records(lines: Iterable[Line]) -> bool:
    """Whether something can be recorded here, by this user."""
    return not any(line.needed and line.finding.state is State.MISSING for line in lines)
