"""Whether KVM works here, found by booting: /dev/kvm may exist and hang.

The probe is the guest's own kernel and initrd, which say one line and power off.
The answer is kept for the host's boot.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from dmatrace.lab import places
from dmatrace.lab.image import Image

#: Seconds a KVM guest may take to its first user-space line; it takes about one.
PROBE_SECONDS = 15.0
# An emulated "rep movsb" goes byte by byte: without ERMS and FSRM, Linux and glibc copy
# and zero in words, two to four times as fast.
TCG = ("-accel", "tcg,thread=multi", "-cpu", "max,erms=off,fsrm=off")
KVM = ("-accel", "kvm", "-cpu", "host")


def probe(image: Image, accelerator: tuple[str, ...], seconds: float) -> bool:
    """True if a guest comes to its initrd within ``seconds``."""
    argv = ["setpriv", "--pdeathsig", "KILL", "--", "qemu-system-x86_64", "-machine", "q35"]
    argv += [*accelerator, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    argv += ["-m", "512M", "-serial", "stdio", "-kernel", str(image.kernel)]
    argv += ["-initrd", str(image.initrd), "-append", "console=ttyS0 quiet panic=-1 dmatrace.probe"]
    try:
        run = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return b"dmatrace: initrd runs" in run.stdout


def choose(image: Image) -> tuple[str, ...]:
    """QEMU's options for the fastest accelerator that works."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return TCG
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    answer = places.cache() / f"accel-{boot}"
    try:
        known = answer.read_text()
    except OSError:
        known = "kvm" if probe(image, KVM, PROBE_SECONDS) else "tcg"
        for old in places.cache().glob("accel-*"):
            old.unlink(missing_ok=True)
        answer.write_text(known)
    return KVM if known == "kvm" else TCG
