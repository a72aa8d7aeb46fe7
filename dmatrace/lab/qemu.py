"""What a guest is made of, as QEMU's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def kernel(path: Path, initrd: Path, arguments: str) -> list[str]:
    """The kernel, and ``arguments`` for it beside ours."""
    # Retpolines and the like cost two translated blocks each under emulation.
    line = f"console=ttyS0 quiet panic=-1 mitigations=off {arguments}"
    return ["-kernel", str(path), "-initrd", str(initrd), "-append", line.strip()]


def devices(
    here: Path, checkout: Path, root: Path, drives: Mapping[str, str], port: int
) -> list[str]:
    """Disks, network, the shared checkout, the console, and the guest's keys.

    ``here`` is the guest's directory on the host, ``root`` its root disk, ``drives``
    further ones by what they are for, as arguments of -drive with that as their id,
    ``port`` the host's for its sshd.
    """
    argv = ["-name", "dmatrace-lab", "-machine", "q35"]
    argv += ["-nodefaults", "-no-user-config", "-no-reboot"]
    argv += ["-display", "none", "-serial", f"file:{_quoted(here / 'console.log')}"]
    disk = f"file={_quoted(root)},format=raw,snapshot=on,if=none,id=root,cache=unsafe"
    argv += ["-drive", disk, "-device", "virtio-blk-pci,drive=root,serial=dmatrace-root"]
    for name, drive in drives.items():
        argv += ["-drive", drive, "-device", f"virtio-blk-pci,drive={name},serial=dmatrace-{name}"]
    share = f"local,id=checkout,path={_quoted(checkout)},security_model=none"
    argv += ["-fsdev", f"{share},multidevs=remap"]
    argv += ["-device", "virtio-9p-pci,fsdev=checkout,mount_tag=checkout"]
    forward = f"hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:22"
    argv += ["-netdev", f"user,id=net,restrict=on,{forward}"]
    argv += ["-device", "virtio-net-pci,netdev=net,romfile="]
    files = {"host_key": "host_key", "authorized_keys": "user_key.pub", "checkout": "checkout"}
    for name, file in files.items():
        argv += ["-fw_cfg", f"name=opt/dmatrace/{name},file={_quoted(here / file)}"]
    return argv


def _quoted(path: Path) -> str:
    """``path`` for QEMU's option syntax, where a comma is doubled."""
    return str(path).replace(",", ",,")
