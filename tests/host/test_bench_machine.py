"""The machine's description: from texts of kernels and firmware, and from this machine itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dmatrace.session import machine
from dmatrace.session.machine import UNKNOWN

TCG = "model name\t: QEMU TCG CPU version 2.5+\nflags\t\t: fpu hypervisor\n"
REAL = "model name\t: AMD  Ryzen 7 5800X\nflags\t\t: fpu vme de\n"
KVM = "model name\t: Intel(R) Xeon(R) Processor\nflags\t\t: fpu hypervisor\n"
ARM = "CPU implementer\t: 0x41\nCPU part\t: 0xd4b\nCPU revision\t: 0\n\nCPU implementer\t: 0x41\n"


@pytest.mark.parametrize(
    ("cpuinfo", "said"),
    [
        (TCG, "QEMU TCG CPU version 2.5+"),
        (REAL, "AMD Ryzen 7 5800X"),
        (ARM, "implementer 0x41, part 0xd4b, revision 0"),
        ("", UNKNOWN),
    ],
)
def test_the_cpu(cpuinfo: str, said: str) -> None:
    assert machine.cpu_model(cpuinfo) == said


@pytest.mark.parametrize(
    ("cpuinfo", "vendor", "said"),
    [
        (TCG, "QEMU\n", "emulated (QEMU without KVM)"),
        (KVM, "QEMU\n", "virtual (QEMU)"),
        (KVM, "", "virtual (no vendor given)"),
        (REAL, "ASUS\n", "not virtual (ASUS)"),
        (REAL, "", "not virtual"),
        (ARM, "QEMU", "virtual or emulated (QEMU)"),
        (ARM, "", UNKNOWN),
    ],
)
def test_virtual_or_not(cpuinfo: str, vendor: str, said: str) -> None:
    assert machine.virtual(cpuinfo, vendor) == said
    assert machine.emulated((("machine", said),)) == said.startswith("emulated")


@pytest.mark.parametrize(
    ("cmdline", "config", "said"),
    [
        ("quiet init_on_alloc=0", "CONFIG_INIT_ON_ALLOC_DEFAULT_ON=y", "off (boot option)"),
        ("init_on_alloc=0 init_on_alloc=1", "", "on (boot option)"),
        ("quiet", "X=y\nCONFIG_INIT_ON_ALLOC_DEFAULT_ON=y\n", "on (kernel's default)"),
        ("quiet", "# CONFIG_INIT_ON_ALLOC_DEFAULT_ON is not set\n", "off (kernel's default)"),
        ("quiet", "", UNKNOWN),
    ],
)
def test_zeroing_on_allocation(cmdline: str, config: str, said: str) -> None:
    assert machine.init_on_alloc(cmdline, config) == said


def test_what_is_chosen() -> None:
    assert machine.chosen("always [madvise] never\n") == "madvise"
    assert machine.chosen("[mq-deadline] none") == "mq-deadline"
    assert machine.chosen("512\n") == "512"
    assert machine.chosen("") == UNKNOWN


MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:25 / /data rw,noatime - tmpfs data rw
31 22 254:16 / /data rw,noatime - xfs /dev/vdb rw
32 22 254:32 / /with\\040blank rw - f2fs /dev/vdc rw
torn line
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/home/x", ("ext4", "rw,relatime", "254:0")),
        ("/data/x", ("xfs", "rw,noatime", "254:16")),  # the later mount lies on top
        ("/data", ("xfs", "rw,noatime", "254:16")),
        ("/database/x", ("ext4", "rw,relatime", "254:0")),
        ("/with blank/x", ("f2fs", "rw", "254:32")),
    ],
)
def test_the_mount_of_a_path(path: str, found: tuple[str, str, str]) -> None:
    assert machine.mounted(MOUNTS, path) == found


def test_no_mount() -> None:
    assert machine.mounted("", "/x") is None


def test_this_machine(disk: Path) -> None:
    """Each line says something; the file system is what statfs and the mount table say."""
    found = dict(machine.describe(str(disk)))
    assert list(found) == [
        "kernel", "CPU", "governor", "machine", "memory", "init_on_alloc", "THP", "file system",
        "disk",
    ]  # fmt: skip
    assert all(found.values())
    assert found["kernel"].startswith(os.uname().release)
    assert found["CPU"].startswith(f"{os.cpu_count()} x ")
    mounts = Path("/proc/self/mounts").read_text()
    assert f" {found['file system'].split()[0]} " in mounts


def test_a_disk_and_its_partition(tmp_path: Path) -> None:
    """The queue is the disk's, whichever of its partitions the file lies on."""
    (tmp_path / "file").touch()
    device = os.stat(tmp_path / "file").st_dev
    queue = tmp_path / "sys/devices/sda/queue"
    partition = tmp_path / "sys/devices/sda/sda1"
    queue.mkdir(parents=True)
    partition.mkdir()
    for name, value in {
        "rotational": "0", "scheduler": "[none] mq-deadline", "nr_requests": "256",
        "max_sectors_kb": "1280", "logical_block_size": "4096", "write_cache": "write back",
    }.items():  # fmt: skip
        (queue / name).write_text(value + "\n")
    (tmp_path / "sys/devices/sda/device").mkdir()
    (tmp_path / "sys/devices/sda/device/model").write_text("FAST  DISK \n")
    link = tmp_path / f"sys/dev/block/{os.major(device)}:{os.minor(device)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(partition)
    found = dict(machine.describe(str(tmp_path / "file"), tmp_path))
    assert found["disk"] == (
        "sda FAST DISK, not rotating, scheduler none, nr_requests 256, max_sectors_kb 1280,"
        " logical block 4096, cache write back"
    )
    assert found["CPU"].endswith(UNKNOWN)
    assert found["file system"] == UNKNOWN


def test_a_file_that_lies_nowhere(tmp_path: Path) -> None:
    assert dict(machine.describe("/proc/self/nosuch"))["disk"] == UNKNOWN
    assert "no block device" in dict(machine.describe(str(tmp_path), tmp_path))["disk"]
