"""Which devices' folios are memory: those that are mounted, and the kernel's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dmatrace.bpf import layout
from dmatrace.session import memorydevs

MOUNTS = """\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
25 22 0:23 / /dev/shm rw,nosuid shared:4 - tmpfs tmpfs rw
26 22 0:25 / /dev/hugepages rw - hugetlbfs hugetlbfs rw,pagesize=2M
27 22 0:26 / /mnt\\040tmpfs rw - 9p tmpfs rw
"""


def _kernel(dev: int) -> int:
    return layout.kernel_dev(os.major(dev), os.minor(dev))


def test_mounted_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    monkeypatch.setattr(memorydevs, "_MOUNTS", tmp_path / "mountinfo")
    monkeypatch.setattr(memorydevs, "_SIZES", tmp_path)
    fd = os.memfd_create("test")
    own = _kernel(os.fstat(fd).st_dev)
    os.close(fd)
    # In this order: a machine may have more tmpfs mounts than the map has room for.
    assert list(memorydevs.devices().items()) == [
        (own, layout.DEV_SHMEM),
        (layout.kernel_dev(0, 23), layout.DEV_SHMEM),
        (layout.kernel_dev(0, 25), layout.DEV_HUGETLB),
    ]


def test_of_this_machine() -> None:
    found = memorydevs.devices()
    for flags, kind in ((0, layout.DEV_SHMEM), (os.MFD_HUGETLB, layout.DEV_HUGETLB)):
        try:
            fd = os.memfd_create("test", flags)
        except OSError:
            continue  # a kernel without huge pages
        assert found[_kernel(os.fstat(fd).st_dev)] == kind
        os.close(fd)
