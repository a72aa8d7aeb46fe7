"""Changes to the system, said aloud and undone on every way out.

A change that outlives its file descriptor (a module, a module parameter, a file
we made) is handed to a small watcher process: it blocks on a pipe whose other
end this process holds, so the change is undone even after SIGKILL.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from dmatrace.errors import CannotHere, DmatraceError

Say = Callable[[str], None]

_BPF_NUMBER = {"x86_64": 321, "aarch64": 280}
_BPF_ENABLE_STATS = 32

# Ignores the terminal's signals, and that nobody may hear it any more: only the closing of
# its standard input ends it.
_IGNORE = 'trap "" INT TERM HUP QUIT PIPE; '
_WATCH = "echo; exec >/dev/null; cat; "
# Root's own commands, which the PATH of a root by su may lack.
_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


class _Watcher:
    """A shell command, with arguments $1, $2 ..., that runs when this object or process ends.

    ``first`` is run at once.  It ends the watcher, with what it says, where it exits.
    """

    def __init__(self, command: str, *arguments: str, first: str = "") -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _IGNORE + first + _WATCH + command, "sh", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PATH": _PATH},
            start_new_session=True,
        )
        assert self._process.stdout is not None
        with self._process.stdout as ready:
            said = ready.readline()
            if said != b"\n":
                said += ready.read()
                self.fire()
                raise DmatraceError(said.decode(errors="replace").strip() or "no watcher started")

    def fire(self) -> int | None:
        """Run the command now and wait for it: its exit code, or None if it has run before."""
        if self._process is None:
            return None
        assert self._process.stdin is not None
        self._process.stdin.close()
        code = self._process.wait()
        self._process = None
        return code

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
        if self._watcher.fire() is not None:
            self._say(f"{self.path}: restored to {self.old}")


class Module:
    """A kernel module, loaded by ``command``, that is unloaded by ``unload()`` or by our death.

    The watcher loads it itself, so that there is no moment at which it is
    loaded and nobody would unload it.  Whoever used it may take a while to be
    gone, so unloading is tried for half a minute.
    """

    _LOAD = 'name=$1; shift; said=$("$@" 2>&1) || { echo "$* failed: $said"; exit; }; '
    _UNLOAD = 'for n in $(seq 300); do rmmod "$name" && exit; sleep 0.1; done; exit 1'

    def __init__(self, name: str, command: Sequence[str], say: Say) -> None:
        self.name = name
        self._say = say
        try:
            self._watcher = _Watcher(self._UNLOAD, name, *command, first=self._LOAD)
        except DmatraceError as error:
            why = " ".join(error.message.split())
            raise CannotHere(
                f"cannot load the module {name}: {why}",
                do="dmesg tells more; where Secure Boot is on, it must be signed",
            ) from None
        say(f"{name}: loaded by {' '.join(command)} (unloaded at the end)")

    def unload(self) -> None:
        """Unload it and wait until it is gone."""
        code = self._watcher.fire()
        if code == 0:
            self._say(f"{self.name}: unloaded")
        elif code is not None:
            self._say(f"{self.name}: still in use, not unloaded; rmmod {self.name} when it is not")


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
