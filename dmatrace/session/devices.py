"""Block devices by number: their names, and what lies beneath them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dmatrace.bpf.layout import dev_name, kernel_dev


def devices(numbers: Iterable[int], root: Path = Path("/sys")) -> list[dict[str, Any]]:
    """What sysfs says of devices (the kernel's dev_t), and of those beneath them.

    ``disk`` is the whole disk of a partition; ``lower`` the devices that a stacked one
    lies on; ``label`` device mapper's name or the file behind a loop device.  A number
    that is no block device (tmpfs, btrfs) is left out.
    """
    found: dict[int, dict[str, Any]] = {}
    todo = list(numbers)
    while todo:
        number = todo.pop()
        entry = root / "dev/block" / dev_name(number)
        if number in found or not entry.exists():
            continue
        entry = entry.resolve()
        disk = entry.parent if (entry / "partition").exists() else entry
        lower = sorted(os.listdir(disk / "slaves")) if (disk / "slaves").is_dir() else []
        found[number] = {
            "dev": number,
            "number": dev_name(number),
            "name": entry.name,
            "disk": disk.name,
            "label": _read(disk / "dm/name") or _read(disk / "loop/backing_file"),
            "lower": lower,
        }
        for name in lower:
            major, _, minor = _read(disk / "slaves" / name / "dev").partition(":")
            if major.isdigit() and minor.isdigit():
                todo.append(kernel_dev(int(major), int(minor)))
    return [found[number] for number in sorted(found)]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
