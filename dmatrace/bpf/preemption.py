"""Whether the kernel may preempt a task inside the kernel, and so inside a BPF program.

A program that a trampoline or a raw tracepoint calls (fentry, fexit) can be preempted
where the kernel can, and does not run for any other task of that CPU until it has
ended: what these do is not counted (the recursion check of __bpf_prog_enter_recur() in
kernel/bpf/trampoline.c and of __bpf_trace_run() in kernel/trace/bpf_trace.c).  A kprobe
and perf's side of a tracepoint run with preemption off.  Kernels built with
CONFIG_PREEMPT=y preempt, and those with lazy preemption: 7.2 in the lab, where of eight
threads that read 16 MiB together fentry programs counted less than half.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

#: Says "none voluntary (full)": sched_dynamic_show() in kernel/sched/debug.c.
MODES = "sys/kernel/debug/sched/preempt"
_PREEMPTING = ("full", "lazy")


@lru_cache(maxsize=1)
def preempts() -> bool:
    """Whether this kernel does, as far as it says."""
    try:
        modes = Path("/", MODES).read_text()
    except OSError:
        modes = ""
    try:
        boot = Path("/proc/cmdline").read_text()
    except OSError:
        boot = ""
    return preempting(modes, os.uname().version, boot)


def preempting(modes: str, version: str, boot: str) -> bool:
    """The same from debugfs' list of modes, uname's version and the boot parameters.

    A kernel that can choose when it boots, and does not tell what it chose, is taken for one
    that preempts: what is right there is right everywhere.
    """
    for word in modes.split():
        if word.startswith("("):
            return word.strip("()") in _PREEMPTING
    built = version.split()
    if "PREEMPT_DYNAMIC" in built:
        chosen = [
            word.removeprefix("preempt=") for word in boot.split() if word.startswith("preempt=")
        ]
        return not chosen or chosen[-1] in _PREEMPTING
    return "PREEMPT" in built or "PREEMPT_RT" in built
