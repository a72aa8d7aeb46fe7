"""What benchmarks of several tracers share: ending one, and naming the machine."""

from __future__ import annotations

import contextlib
import mmap
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PATIENCE_S = 60


def touch_memory() -> None:
    """Use every free page once: of a virtual machine's, its host has the first use to pay for."""
    with open("/proc/meminfo") as lines:
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemFree:"))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    mmap.mmap(-1, free - (free >> 4), flags=flags).close()


@contextlib.contextmanager
def disk_of_memory(size: int) -> Iterator[str]:
    """A directory with room for ``size`` bytes on a disk of memory.

    ext4 on a loop device whose file is in /dev/shm.  All of it is gone afterwards.
    """
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place, contextlib.ExitStack() as stack:
        backing, mounted = Path(place) / "disk", Path(place) / "mounted"
        with backing.open("wb") as file:
            file.truncate(size + (size >> 3) + (64 << 20))
        mounted.mkdir()
        command = ["losetup", "--find", "--show", str(backing)]
        device = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()
        stack.callback(subprocess.run, ["losetup", "-d", device], check=False)
        options = "lazy_itable_init=0,lazy_journal_init=0"
        subprocess.run(["mkfs.ext4", "-q", "-E", options, device], check=True)
        subprocess.run(["mount", device, str(mounted)], check=True)
        stack.callback(subprocess.run, ["umount", str(mounted)], check=False)
        yield str(mounted)


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
