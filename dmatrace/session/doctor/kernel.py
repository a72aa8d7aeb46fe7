"""The kernel, and what this process may ask of it."""

from __future__ import annotations

import importlib
import platform
import re
from collections.abc import Iterator

from dmatrace.bpf.offsets import ABIS
from dmatrace.bpf.preemption import MODES, preempting
from dmatrace.session.doctor.check import (
    SUDO,
    Finding,
    Machine,
    State,
    degraded,
    missing,
    ok,
    unknown,
)
from dmatrace.session.machine import chosen, cpu_model

#: Numbers of include/uapi/linux/capability.h, and what each is for here.
CAPABILITIES = (
    (39, "CAP_BPF", "loading BPF programs", True),
    (38, "CAP_PERFMON", "attaching them, and reading kernel memory in them", True),
    (21, "CAP_SYS_ADMIN", "BPF statistics, modules' type information", True),
    (19, "CAP_SYS_PTRACE", "the descriptors, mappings and threads of others' processes", False),
    (16, "CAP_SYS_MODULE", "--load-module", False),
    (12, "CAP_NET_ADMIN", "taskstats", False),
    (24, "CAP_SYS_RESOURCE", "locked memory for BPF maps before Linux 5.11", False),
)

# include/linux/proc_ns.h: the inode numbers of the first namespaces.
_FIRST = {"user": 0xEFFFFFFD, "pid": 0xEFFFFFFC}


def release(machine: Machine) -> Finding:
    """Which kernel runs, and on what."""
    return ok(f"Linux {machine.release}, {cpu_model(machine.read('proc/cpuinfo') or '')}")


def architecture(_machine: Machine) -> Finding:
    """Whether the registers of this processor are known."""
    name = platform.machine()
    if name in ABIS:
        return ok(name)
    return missing(f"{name}: its registers are not in the table", "add them to ABIS in offsets.py")


def root_user(machine: Machine) -> Finding:
    """The user."""
    if machine.uid == 0:
        return ok("uid 0")
    return missing(f"recording needs root, this is uid {machine.uid}", SUDO)


def held(status: str) -> int | None:
    """The effective capabilities in /proc/PID/status, a bit each."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return int(found[1], 16) if found else None


def capabilities(machine: Machine) -> Iterator[Finding]:
    """One line for each capability that something here needs."""
    have = held(machine.read("proc/self/status") or "")
    for bit, name, use, needed in CAPABILITIES:
        if have is None:
            yield Finding(State.UNKNOWN, "/proc/self/status does not say", name=name)
        elif have >> bit & 1:
            yield Finding(State.OK, use, name=name, needed=needed)
        else:
            yield Finding(
                State.MISSING,
                f"needed for {use}",
                SUDO if machine.uid else "run it where root has all capabilities",
                name=name,
                needed=needed,
            )


def namespaces(machine: Machine) -> Finding:
    """Whether capabilities and process ids mean what the kernel means by them."""
    inside = []
    for name, first in _FIRST.items():
        try:
            link = str((machine.root / f"proc/self/ns/{name}").readlink())
        except OSError:
            continue
        if link != f"{name}:[{first}]":
            inside.append(name)
    if "user" in inside:
        return degraded(
            "in a user namespace: the kernel does not honour its capabilities",
            "run it outside the container",
        )
    if inside:
        return degraded(
            "in a PID namespace: processes have other numbers for the kernel",
            "share the host's (docker run --pid=host)",
        )
    return ok("the machine's own")


def lockdown(machine: Machine) -> Finding:
    """LSM lockdown: "confidentiality" forbids BPF to read kernel memory."""
    try:
        text = machine.read("sys/kernel/security/lockdown")
    except PermissionError:
        return unknown()
    if text is None:
        return ok("this kernel has none")
    mode = chosen(text)
    if mode == "confidentiality":
        return missing("confidentiality: BPF may not read the kernel", "boot without it")
    if mode == "integrity":
        return degraded(
            "integrity: only signed modules load",
            "sign dmatrace_loader, or do without the strategies that need it",
        )
    return ok(mode)


def unprivileged_bpf(machine: Machine) -> Finding:
    """kernel.unprivileged_bpf_disabled: only root's right counts here."""
    value = machine.number("proc/sys/kernel/unprivileged_bpf_disabled")
    if value is None:
        return missing("no bpf(2)", "boot a kernel with CONFIG_BPF_SYSCALL=y")
    return ok(f"{value}: what is loaded here is loaded with capabilities")


def kptr(machine: Machine) -> Finding:
    """kernel.kptr_restrict: whether kernel addresses can be told from symbols."""
    value = machine.number("proc/sys/kernel/kptr_restrict")
    if value is None:
        return unknown("/proc/sys/kernel/kptr_restrict cannot be read")
    if value >= 2:
        return degraded(
            f"{value}: addresses of kernel symbols are hidden, also from root",
            "sysctl kernel.kptr_restrict=1, for the names in kernel stacks",
        )
    return ok(str(value))


def tracefs(machine: Machine) -> Finding:
    """Where tracepoints and traceable functions are listed."""
    for path in ("sys/kernel/tracing", "sys/kernel/debug/tracing"):
        try:
            if not (machine.root / path / "events").is_dir():
                continue
            if machine.read(f"{path}/available_filter_functions") is None:
                return missing(
                    f"/{path} has no available_filter_functions",
                    "boot a kernel with CONFIG_DYNAMIC_FTRACE=y",
                )
        except PermissionError:
            return unknown(do=SUDO)
        return ok(f"/{path}")
    if machine.uid:
        return unknown(do=SUDO)
    return missing("not mounted", "mount -t tracefs tracefs /sys/kernel/tracing")


def bpf_jit(machine: Machine) -> Finding:
    """Without the JIT there are no fentry programs."""
    try:
        value = machine.number("proc/sys/net/core/bpf_jit_enable")
    except PermissionError:  # root alone reads it
        return unknown()
    if value is None:
        return unknown("this kernel does not say")
    if value == 0:
        return degraded("off: fentry cannot be used", "sysctl net.core.bpf_jit_enable=1")
    return ok("on")


def kprobes(machine: Machine) -> Finding:
    """The kprobe PMU: what a function that fentry refuses, or cannot count, is attached by."""
    if machine.exists("sys/bus/event_source/devices/kprobe/type"):
        return ok("kprobe PMU")
    return degraded(
        "no kprobe PMU: functions that fentry refuses are not hooked",
        "boot a kernel with CONFIG_KPROBE_EVENTS=y",
    )


def preemption(machine: Machine) -> Finding:
    """Whether BPF programs of functions can be preempted, and calls of others missed then."""
    try:
        modes = machine.read(MODES)
    except PermissionError:  # debugfs is root's
        return unknown()
    if not preempting(modes or "", machine.version, machine.read("proc/cmdline") or ""):
        return ok("not in the kernel")
    if machine.exists("sys/bus/event_source/devices/kprobe/type"):
        return ok("in the kernel: its functions are hooked by kprobes, which it does not preempt")
    return degraded(
        "in the kernel, and fentry programs with it: calls of others on that CPU are missed",
        "boot a kernel with CONFIG_KPROBE_EVENTS=y",
    )


def function_tracer(machine: Machine) -> Finding:
    """The sysctl that switches off everything that hangs on functions' entries."""
    value = machine.number("proc/sys/kernel/ftrace_enabled")
    if value is None:
        return missing("no function tracing", "boot a kernel with CONFIG_DYNAMIC_FTRACE=y")
    if value == 0:
        return missing("off: no function can be hooked", "sysctl kernel.ftrace_enabled=1")
    return ok("on")


def pressure(machine: Machine) -> Finding:
    """Pressure stall information, for memory and I/O."""
    for name in ("memory", "io"):
        try:
            text = machine.read(f"proc/pressure/{name}")
        except PermissionError:
            return unknown()
        if not text or "some" not in text:
            return missing(f"no /proc/pressure/{name}", "boot with psi=1 (CONFIG_PSI=y)")
    return ok("/proc/pressure")


def schedstat(machine: Machine) -> Finding:
    """The loaders' own clock for run and wait times."""
    if machine.exists("proc/self/schedstat"):
        return ok("/proc/PID/schedstat")
    return missing("no /proc/PID/schedstat", "boot a kernel with CONFIG_SCHED_INFO=y")


def delay_accounting(machine: Machine) -> Finding:
    """Off since Linux 5.14 unless asked for."""
    value = machine.number("proc/sys/kernel/task_delayacct")
    if value is None:
        return missing(
            "this kernel accounts no delays", "boot a kernel with CONFIG_TASK_DELAY_ACCT=y"
        )
    if value == 0:
        return degraded(
            "off: taskstats says 0 for the time in block I/O, reclaim and thrashing",
            "sysctl kernel.task_delayacct=1",
        )
    return ok("on")


def taskstats(_machine: Machine) -> Finding:
    """The generic netlink family; asking for its number needs no right."""
    try:
        pyroute2 = importlib.import_module("pyroute2")
        refusal = importlib.import_module("pyroute2.netlink.exceptions").NetlinkError
    except ImportError as error:
        return missing(f"pyroute2 does not load: {error}", "pip install pyroute2")
    try:
        with pyroute2.TaskStats() as socket:
            socket.bind()
    except refusal:
        return missing("no such netlink family", "boot a kernel with CONFIG_TASKSTATS=y")
    except OSError as error:
        return unknown(f"netlink: {error.strerror}")
    return ok("netlink family TASKSTATS")
