"""What benchmarks of several tracers share: ending one, and naming the machine."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping
from typing import Any

PATIENCE_S = 60


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
