"""What benchmarks of several tracers share: ending one, and naming the machine."""

from __future__ import annotations

import mmap
import signal
import subprocess
from collections.abc import Mapping
from typing import Any

PATIENCE_S = 60


def touch_memory() -> None:
    """Use every free page once: of a virtual machine's, its host has the first use to pay for."""
    with open("/proc/meminfo") as lines:
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemFree:"))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    mmap.mmap(-1, free - (free >> 4), flags=flags).close()


def end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    """End a tool by a signal that it heeds, if it runs, and wait for what it prints then."""
    if process.poll() is not None:
        return
    process.send_signal(how)
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def machine(found: Mapping[str, Any]) -> str:
    """Where a benchmark's document was made, in a line."""
    about = found["machine"]
    return f"{found['kernel']}, {', '.join(about[n] for n in ('CPU', 'machine', 'memory', 'disk'))}"
