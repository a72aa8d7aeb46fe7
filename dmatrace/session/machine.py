"""What a table of times must say of the machine it was made on.

Each line is (what, how), for readers; a machine that does not say is "not
known", never guessed at.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import platform
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from dmatrace.sizes import format_size

UNKNOWN = "not known"
Line = tuple[str, str]


def describe(path: str, root: Path = Path("/")) -> tuple[Line, ...]:
    """The machine, and the disk that ``path`` lies on; ``root`` is where /proc and /sys are."""
    cpuinfo = _read(root / "proc/cpuinfo")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    release = platform.release()
    facts: tuple[tuple[str, Callable[[], str]], ...] = (
        ("kernel", lambda: f"{release} {platform.machine()}"),
        ("CPU", lambda: f"{os.cpu_count()} x {cpu_model(cpuinfo)}"),
        ("governor", lambda: _governors(root)),
        ("machine", lambda: virtual(cpuinfo, _read(root / "sys/class/dmi/id/sys_vendor"))),
        ("memory", lambda: format_size(memory)),
        ("init_on_alloc", lambda: init_on_alloc(_read(root / "proc/cmdline"), _config(release))),
        ("THP", lambda: _huge_pages(root)),
        ("file system", lambda: _file_system(path, root)),
        ("disk", lambda: _disk(path, root)),
    )
    return tuple((name, fact()) for name, fact in facts)


def device(root: Path = Path("/")) -> str:
    """What this machine is sold as; "" where neither firmware says so.

    The device tree's ``model`` (Devicetree Specification, 2.3.2), as phones and boards have
    it, or DMI's vendor and product name.
    """
    model = _read(root / "sys/firmware/devicetree/base/model").strip("\0 \n")
    if model:
        return " ".join(model.split())
    names = [_read(root / f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")]
    # Both often begin with the vendor.
    vendor, product = (" ".join(name.split()) for name in names)
    return product if product.startswith(vendor) else f"{vendor} {product}".strip()


def emulated(lines: tuple[Line, ...]) -> bool:
    """Whether the described machine's CPU is emulated."""
    return dict(lines).get("machine", "").startswith("emulated")


def cpu_model(cpuinfo: str) -> str:
    """The CPU's name in /proc/cpuinfo; arm64 kernels give numbers alone."""
    for pattern in (
        r"^model name\s*:\s*(.+)$",
        r"^Hardware\s*:\s*(.+)$",
        r"^cpu model\s*:\s*(.+)$",
    ):
        if found := re.search(pattern, cpuinfo, re.MULTILINE):
            return " ".join(found[1].split())
    parts = [
        f"{name} {found[1]}"
        for name in ("implementer", "part", "revision")
        if (found := re.search(rf"^CPU {name}\s*:\s*(\S+)$", cpuinfo, re.MULTILINE))
    ]
    return ", ".join(parts) or UNKNOWN


def virtual(cpuinfo: str, vendor: str) -> str:
    """Emulated, virtual or not, as far as CPU and firmware tell.

    QEMU without KVM names its CPU "QEMU TCG CPU".  On x86 every hypervisor sets
    the ``hypervisor`` flag; elsewhere the firmware's vendor is all there is.
    """
    vendor = vendor.strip()
    if "TCG" in cpu_model(cpuinfo):
        return "emulated (QEMU without KVM)"
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    if flags and "hypervisor" in flags[1].split():
        return f"virtual ({vendor or 'no vendor given'})"
    if vendor in ("QEMU", "innotek GmbH", "VMware, Inc.", "Xen", "Amazon EC2", "Google"):
        # Without the flag, KVM and emulation look alike.
        return f"virtual or emulated ({vendor})"
    if flags:
        return f"not virtual ({vendor})" if vendor else "not virtual"
    return UNKNOWN


def init_on_alloc(cmdline: str, config: str) -> str:
    """Whether the kernel zeroes pages when it allocates them: boot option, else its default."""
    given = re.findall(r"\binit_on_alloc=(\S+)", cmdline)
    if given:
        return f"{'on' if given[-1] in ('1', 'y', 'Y', 'on') else 'off'} (boot option)"
    if "CONFIG_INIT_ON_ALLOC_DEFAULT_ON=y" in config:
        return "on (kernel's default)"
    return "off (kernel's default)" if config else UNKNOWN


def chosen(text: str) -> str:
    """The value in brackets of ``always [madvise] never``."""
    found = re.search(r"\[(\S+)\]", text)
    return found[1] if found else text.strip() or UNKNOWN


def mounted(mountinfo: str, path: str) -> tuple[str, str, str] | None:
    """(file system, its options, device number) of the mount that holds ``path``."""
    found = _mount(mountinfo, path)
    return found and found[:3]


def mounted_as(path: str) -> str:
    """The file system that holds ``path`` with its own options: "ext4 (rw,data=journal)"."""
    found = _mount(_read(Path("/proc/self/mountinfo")), os.path.realpath(path))
    return f"{found[0]} ({found[3]})" if found else ""


def _mount(mountinfo: str, path: str) -> tuple[str, str, str, str] | None:
    """(file system, mount's options, device number, file system's options).

    As proc_pid_mountinfo(5): the last one listed lies on top.
    """
    best: tuple[str, str, str, str] | None = None
    longest = -1
    for point, found in _mounts(mountinfo):
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:
            longest, best = len(point), found
    return best


@lru_cache(maxsize=4)  # who asks of each of a process's mappings asks of one table
def _mounts(mountinfo: str) -> list[tuple[str, tuple[str, str, str, str]]]:
    """(mount point, as ``_mount`` gives it) of each line."""
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if len(fields) < 6 or len(rest) < 3:
            continue
        # Blanks in it are written as \\040.
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        found.append((point, (rest[0], fields[5], fields[2], rest[2])))
    return found


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""


def _config(release: str) -> str:
    found = _read(Path(f"/boot/config-{release}")) or _read(
        Path(f"/lib/modules/{release}/build/.config")
    )
    if not found:
        with contextlib.suppress(OSError, EOFError):
            found = gzip.decompress(Path("/proc/config.gz").read_bytes()).decode()
    return found


def _governors(root: Path) -> str:
    names = {
        _read(path).strip()
        for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")
    }
    return ", ".join(sorted(filter(None, names))) or "none (no cpufreq)"


def _huge_pages(root: Path) -> str:
    directory = root / "sys/kernel/mm/transparent_hugepage"
    return (
        f"{chosen(_read(directory / 'enabled'))},"
        f" shmem {chosen(_read(directory / 'shmem_enabled'))}"
    )


def _file_system(path: str, root: Path) -> str:
    found = mounted(_read(root / "proc/self/mountinfo"), os.path.realpath(path))
    return f"{found[0]} ({found[1]})" if found else UNKNOWN


def _disk(path: str, root: Path) -> str:
    try:
        device = os.stat(path).st_dev
    except OSError:
        return UNKNOWN
    entry = root / f"sys/dev/block/{os.major(device)}:{os.minor(device)}"
    if not entry.exists():
        return "none (no block device of its own)"
    entry = entry.resolve()
    # A partition has no queue: its disk has.
    disk = entry if (entry / "queue").is_dir() else entry.parent
    queue = disk / "queue"

    def value(name: str) -> str:
        return chosen(_read(queue / name))

    model = " ".join(_read(disk / "device/model").split())
    kind = "rotating" if value("rotational") == "1" else "not rotating"
    return (
        f"{disk.name}{' ' + model if model else ''}, {kind}, scheduler {value('scheduler')},"
        f" nr_requests {value('nr_requests')}, max_sectors_kb {value('max_sectors_kb')},"
        f" logical block {value('logical_block_size')}, cache {value('write_cache')}"
    )
