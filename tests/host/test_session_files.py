"""What is known of files and disks beside what the kernel counts: this machine's, or made up."""

from __future__ import annotations

import os
from pathlib import Path

from dmatrace.bpf.layout import FILE_IO, dev_name, kernel_dev
from dmatrace.session.devices import devices
from dmatrace.session.files import described, names
from dmatrace.session.machine import mounted_as
from dmatrace.session.tracer import current_dev_ino


def _sysfs(root: Path) -> None:
    """vda with a partition, a loop device, and dm-0 on both."""
    for device, number, files in (
        ("vda", "254:0", {}),
        ("vda/vda1", "254:1", {"partition": "1"}),
        ("loop0", "7:0", {"loop/backing_file": "/data/x.img"}),
        ("dm-0", "253:0", {"dm/name": "models"}),
    ):
        where = root / "devices" / device
        where.mkdir(parents=True)
        for name, text in {"dev": number, **files}.items():
            (where / name).parent.mkdir(exist_ok=True)
            (where / name).write_text(text + "\n")
        link = root / "dev/block" / number
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(where)
    slaves = root / "devices/dm-0/slaves"
    slaves.mkdir()
    for lower in ("loop0", "vda/vda1"):
        (slaves / lower.rpartition("/")[2]).symlink_to(root / "devices" / lower)


def test_devices_and_what_they_lie_on(tmp_path: Path) -> None:
    _sysfs(tmp_path)
    found = devices([kernel_dev(253, 0), kernel_dev(0, 31)], tmp_path)
    assert [(d["number"], d["name"], d["disk"], d["label"], d["lower"]) for d in found] == [
        ("7:0", "loop0", "loop0", "/data/x.img", []),
        ("253:0", "dm-0", "dm-0", "models", ["loop0", "vda1"]),
        ("254:1", "vda1", "vda", "", []),
    ]
    assert all(dev_name(d["dev"]) == d["number"] for d in found)


def test_names_of_what_a_process_has_open(tmp_path: Path) -> None:
    path = tmp_path / "model bin"
    path.write_bytes(b"x" * 4096)
    with open(path, "rb"):
        assert names(os.getpid())[current_dev_ino(str(path))] == str(path)
    assert current_dev_ino(str(path)) not in names(os.getpid())
    assert names(1 << 22) == {}  # no such process


def test_the_loaded_file_has_a_row_and_its_alignment(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"x" * 4096)
    own = current_dev_ino(str(path))
    other = {"dev": 5, "ino": 6, **dict.fromkeys(FILE_IO, 1)}
    rows = described([other], {own: str(path)}, own, 3)
    assert [(row["load_id"], row["dev"], row["ino"], row["path"]) for row in rows] == [
        (3, 5, 6, ""), (3, *own, str(path)),
    ]  # fmt: skip
    assert rows[1]["direct"] == 0
    assert rows[1]["fs"] == mounted_as(str(path))
    assert rows[1]["align_known"] == ("align_offset" in rows[1])
    # One that is gone meanwhile has a name, and nothing else.
    path.unlink()
    (gone,) = described([{"dev": own[0], "ino": own[1]}], {own: str(path)}, own, 3)
    assert "fs" not in gone


def test_a_file_system_is_told_with_its_own_options() -> None:
    kind, _, options = mounted_as("/proc/self").partition(" (")
    assert kind == "proc"
    assert options.startswith("rw")
