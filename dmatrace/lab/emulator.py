"""Which QEMU runs a guest: the machine's own, or the lab's where that is too old to emulate.

Before 8.1, QEMU read the code it translated without locking its page, so one
emulated CPU could keep a breakpoint that another had just removed (QEMU commit
deba78709ae8 "accel/tcg: Always lock pages before translation").  Linux rewrites
its own code whenever a tracepoint or kprobe is switched on or off, and a stale
breakpoint is a kernel panic: rare, but tracing is all these guests do.  Debian
12 has 7.2, so the lab takes the QEMU of Debian 13, libraries and all, into its
cache and runs it from there; nothing is installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from dmatrace.errors import DmatraceError
from dmatrace.lab import accel, image, places

NAME = "qemu-system-x86_64"
SUITE = "trixie"
FORMAT = 1
_OLDEST = (8, 1)


def command(accelerator: Sequence[str], progress: image.Progress) -> list[str]:
    """The argv that starts a QEMU fit for ``accelerator``, made ready if need be."""
    if tuple(accelerator) == accel.KVM or version() >= _OLDEST:
        return [NAME]
    root = places.cache() / f"{image.EMULATOR_PREFIX}{SUITE}-{FORMAT}"
    if not root.is_dir():
        _extract(root, progress)
    libraries = root / "usr/lib/x86_64-linux-gnu"
    argv = [str(root / NAME), "--library-path", str(libraries), str(root / "usr/bin" / NAME)]
    for data in ("qemu", "seabios"):
        argv += ["-L", str(root / "usr/share" / data)]
    return argv


def version() -> tuple[int, int]:
    """Of the machine's own QEMU.  CannotHere when there is none."""
    image.need(NAME)
    said = subprocess.run([NAME, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"version (\d+)\.(\d+)", said)
    if not found:
        raise DmatraceError(f"{NAME} --version says: {said.strip()!r}")
    return int(found[1]), int(found[2])


def _extract(root: Path, progress: image.Progress) -> None:
    image.need_builder()
    cache = places.cache()
    with places.lock(cache / ".build.lock"):
        if root.is_dir():
            return
        started = time.monotonic()
        progress(f"QEMU of Debian {SUITE}, because this machine's own is older than 8.1")
        with places.Temporary(cache, image.BUILD_PREFIX) as work:
            tree = work / "qemu"
            argv = ["--variant=extract", "--format=directory", "--include=qemu-system-x86"]
            image.debian([*argv, SUITE, str(tree)], work)
            for part in ("usr/share/doc", "usr/share/locale", "usr/share/man", "var"):
                shutil.rmtree(tree / part, ignore_errors=True)
            # The loader under QEMU's name: that is what the process is then called.
            (tree / NAME).symlink_to("usr/lib64/ld-linux-x86-64.so.2")
            tree.rename(root)
        progress(f"QEMU is ready ({time.monotonic() - started:.0f} s): {root}")
