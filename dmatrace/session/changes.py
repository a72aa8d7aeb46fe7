"""Changes to the system, said aloud and undone on every way out.

A change that outlives its file descriptor (a module parameter, a file we made)
is handed to a small watcher process: it blocks on a pipe whose other end this
process holds, so the change is undone even after SIGKILL.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

from dmatrace.errors import DmatraceError

Say = Callable[[str], None]

_BPF_NUMBER = {"x86_64": 321, "aarch64": 280}
_BPF_ENABLE_STATS = 32

# Ignores the terminal's signals: only the closing of its standard input ends it.
_WATCH = 'trap "" INT TERM HUP QUIT; echo; exec >/dev/null; cat; '


class _Watcher:
    """A shell command, with arguments $1, $2 ..., that runs when this object or process ends."""

    def __init__(self, command: str, *arguments: str) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH + command, "sh", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        with self._process.stdout as ready:
            ready.readline()

    def fire(self) -> bool:
        """Run the command now and wait for it; False if it has run before."""
        if self._process is None:
            return False
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._process = None
        return True

    def __del__(self) -> None:
        # A dropped Popen that was not waited for is kept by subprocess, pipe and all.
        self.fire()


class Parameter:
    """A sysfs or procfs value that is put back by ``restore()`` or by our death."""

    def __init__(self, path: str, value: str, say: Say) -> None:
        self.path = path
        self._say = say
        try:
            self.old = Path(path).read_text().strip()
        except OSError as error:
            raise DmatraceError(f"cannot read {path}: {error.strerror}") from None
        self._watcher = _Watcher('printf %s "$1" >"$2"', self.old, path)
        try:
            Path(path).write_text(value)
        except OSError as error:
            self._watcher.fire()
            raise DmatraceError(f"cannot set {path}: {error.strerror}", do="run as root") from None
        say(f"{path}: {self.old} -> {value} (restored at the end)")

    def restore(self) -> None:
        """Put the old value back and wait until it is there."""
        if self._watcher.fire():
            self._say(f"{self.path}: restored to {self.old}")


class TemporaryFile:
    """A path whose file is removed by ``remove()`` or by our death."""

    def __init__(self, path: str) -> None:
        self._watcher = _Watcher('rm -f -- "$1"', path)

    def remove(self) -> None:
        """Remove the file, if it is there."""
        self._watcher.fire()


def drop_caches() -> None:
    """Write back and drop the page cache (vm.drop_caches=1), so that a load is cold."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1\n")
    except OSError as error:
        raise DmatraceError(
            f"cannot drop the page cache: {error.strerror}", do="run as root, or use --cache warm"
        ) from None


class BpfStats:
    """BPF run-time statistics while this object lives.

    BPF_ENABLE_STATS (Linux kernel commit d46edd671a14 "bpf: Sharing bpf
    runtime stats with BPF_ENABLE_STATS" in v5.8) ties them to a file
    descriptor, so they end with this process; the sysctl would not.
    """

    def __init__(self) -> None:
        self._fd = -1
        number = _BPF_NUMBER.get(platform.machine())
        if number is None:
            return
        attr = (ctypes.c_uint32 * 32)()  # type 0: BPF_STATS_RUN_TIME
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.syscall(number, _BPF_ENABLE_STATS, ctypes.byref(attr), ctypes.sizeof(attr))

    @property
    def on(self) -> bool:
        """Whether the kernel granted them."""
        return self._fd >= 0

    def close(self) -> None:
        """Switch them off (unless someone else has them on too)."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1
