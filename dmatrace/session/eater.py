"""A process that holds memory, so that a load runs where little is free.

``python3 -m dmatrace.session.eater BYTES`` maps anonymous memory and locks it
(mlock(2)), which allocates every page and lets none be swapped or reclaimed;
where it may not be locked, every page is written again and again, so that none
grows cold.  It says ``ready`` when all of it is held, and ends when its
standard input ends or its parent dies, whichever way (PR_SET_PDEATHSIG), so
nothing can leave it behind.  If the machine runs out of memory all the same, it
is the process that the kernel ends first (oom_score_adj 1000).

It needs no cgroup, which phones and old distributions may not let us make.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from dmatrace import safe
from dmatrace.errors import CannotHere, DmatraceError
from dmatrace.session.runner import environment
from dmatrace.sizes import format_size

#: What the loader, the kernel and everyone else need beside a load's buffer.
HEADROOM = 128 << 20
_AGAIN_S = 1.0  # between two rounds of touching memory that may not be locked
_PR_SET_PDEATHSIG = 1


def check_room(eaten: int, load: int) -> None:
    """CannotHere if eating ``eaten`` bytes would leave too little for a load of ``load``."""
    most = available() - load - HEADROOM
    if eaten > most:
        at_most = f"at most {format_size(most)}" if most > 0 else "nothing"
        raise CannotHere(
            f"--memory-pressure {format_size(eaten)} would leave too little for a load of"
            f" {format_size(load)}: {at_most} can be taken here",
            do="use a smaller --memory-pressure or --sizes",
        )


def available(meminfo: str | None = None) -> int:
    """MemAvailable of /proc/meminfo in bytes."""
    text = Path("/proc/meminfo").read_text() if meminfo is None else meminfo
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise DmatraceError("/proc/meminfo has no MemAvailable")


class Eater:
    """A process that holds ``size`` bytes from its making until ``close``."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dmatrace.session.eater", str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
        )
        self.pid = self._process.pid
        try:
            assert self._process.stdout is not None
            if self._process.stdout.readline() != b"ready\n":
                raise DmatraceError(
                    f"{format_size(size)} of memory cannot be taken: {self._how()}",
                    do="use a smaller --memory-pressure",
                )
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """DmatraceError if it is gone: what was measured since is not under pressure."""
        if self._process.poll() is not None:
            raise DmatraceError(
                f"the process that held {format_size(self.size)} of memory is gone: {self._how()}",
                do="use a smaller --memory-pressure",
            )

    def _how(self) -> str:
        code = self._process.wait()
        return f"ended by signal {-code}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """Give the memory back; returns when it is free."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        # It may be in the middle of allocating, where it does not look at its input.
        self._process.kill()
        self._process.wait()


def _eat(size: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    # Ctrl-C reaches the whole group of the terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError, OverflowError) as error:
        print(f"dmatrace: {safe.line(str(error))}", file=sys.stderr)
        return 1
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    locked = libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(size)) == 0
    _touch(memory)
    os.write(1, b"ready\n")
    while not select.select([0], [], [], None if locked else _AGAIN_S)[0]:
        _touch(memory)
    return 0


def _touch(memory: mmap.mmap) -> None:
    """Write a byte of each page: one that was never written may share the page of zeros."""
    with memoryview(memory) as view:
        pages = -(-len(view) // mmap.PAGESIZE)
        view[:: mmap.PAGESIZE] = b"\x01" * pages


if __name__ == "__main__":
    sys.exit(_eat(int(sys.argv[1])))
