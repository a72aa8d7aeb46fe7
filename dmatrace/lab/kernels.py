"""The guests there are: one row per kernel, each with its own distribution's bpfcc."""

from __future__ import annotations

from dataclasses import dataclass

from dmatrace.errors import UsageError

#: What every guest carries; the init script is the whole of user space, so
#: what it calls (mount, ip, modprobe) is listed although a Debian host has it.
COMMON_PACKAGES = (
    "linux-image-amd64",
    "linux-headers-amd64",
    "python3",
    "passwd",
    "python3-bpfcc",
    "bpftrace",
    "bpftool",
    "busybox-static",
    "openssh-server",
    "kmod",
    "iproute2",
    "mount",
    "procps",
    "util-linux-extra",
    "e2fsprogs",
    "xfsprogs",
    "dmsetup",
    "liburing2",
    "less",
    "tmux",
    "gcc",
    "make",
)


@dataclass(frozen=True)
class Kernel:
    """One guest: the suite that brings the kernel, and its Python."""

    name: str
    suite: str
    python: str
    packages: tuple[str, ...] = COMMON_PACKAGES
    #: Passed to mmdebstrap as --aptopt, one each.
    apt_options: tuple[str, ...] = ()


# mmdebstrap is given the suite alone: it then takes Debian's default mirror, or
# the one in the machine's own apt sources, so that no host is named here.
KERNELS = (
    # bpfcc-tools: what `make bench-peers` compares with.
    Kernel("6.12", suite="trixie", python="3.13", packages=(*COMMON_PACKAGES, "bpfcc-tools")),
    # No dma-heaps and no udmabuf: what can run there is told, and why the rest cannot.
    Kernel("6.1", suite="bookworm", python="3.11"),
    Kernel(
        "7.2",
        suite="sid",
        python="3.14",
        # A mirror of sid that is behind for a week has an index past its date.
        apt_options=('Acquire::Check-Valid-Until "false"',),
    ),
)
DEFAULT = KERNELS[0]


def find(name: str | None) -> Kernel:
    """The row called ``name`` (None: the default); UsageError when there is none."""
    if name is None:
        return DEFAULT
    for kernel in KERNELS:
        if kernel.name == name:
            return kernel
    known = ", ".join(kernel.name for kernel in KERNELS)
    raise UsageError(f"there is no guest with kernel {name}", do=f"take one of: {known}")
