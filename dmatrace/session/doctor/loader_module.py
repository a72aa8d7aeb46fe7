"""The loader module: whether it is loaded, and if not, what loading it would take."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from dmatrace.bpf.btf import DIRECTORY
from dmatrace.session import module
from dmatrace.session.doctor.check import (
    SUDO,
    Finding,
    Machine,
    degraded,
    missing,
    ok,
    refused,
    unknown,
)
from dmatrace.session.machine import chosen
from dmatrace_loaders import native
from dmatrace_loaders.errors import LoadError, Unseen

_HIDES = "the strategies that need it (dmatrace strategies names them)"
_TOOLS = ("make", "gcc")
# The GUID of EFI's global variables; a byte follows four of attributes.
_SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


def is_loaded(machine: Machine) -> bool:
    """Whether the module is there now."""
    return machine.exists(f"sys/module/{module.NAME}")


def loaded(machine: Machine) -> Finding:
    """The module itself."""
    if not is_loaded(machine):
        return degraded("not loaded", "use dmatrace record --load-module", hides=_HIDES)
    try:
        native.module()
    except Unseen as error:
        return unknown(error.message, SUDO)
    except LoadError as error:
        return refused(error)
    if not os.path.exists(f"{DIRECTORY}/{module.NAME}"):
        return ok("loaded, without type information: hooked by kprobes")
    return ok("loaded")


def installed(machine: Machine) -> Finding:
    """What --load-module would load: the installed one, or one built of the checkout."""
    if module.installed():
        return ok("modprobe finds it")
    return available(machine)


def available(machine: Machine, sources: Path | None = None) -> Finding:
    """Whether the module could be built here."""
    if sources is None:
        sources = Path(module.__file__).resolve().parents[2] / "native"
    if not (sources / "Kbuild").is_file():
        return missing("not installed, and there are no sources here", "install it with DKMS")
    directory = f"lib/modules/{machine.release}/build"
    if not machine.exists(f"{directory}/Makefile"):
        return missing(
            f"not installed, and /{directory} has no kernel headers to build it with",
            f"apt install linux-headers-{machine.release}",
        )
    lacking = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if lacking:
        return missing(
            f"not installed, and there is no {' and no '.join(lacking)} to build it with",
            f"apt install {' '.join(lacking)}",
        )
    return ok("--load-module builds it for " + machine.release)


def signatures(machine: Machine) -> Finding:
    """Whether the kernel takes a module that nobody signed."""
    if is_loaded(machine):
        return ok("it is loaded")
    if machine.number("proc/sys/kernel/modules_disabled") == 1:
        return missing("no module can be loaded any more (modules_disabled)", "reboot")
    secure = secure_boot(machine)
    try:
        lockdown = machine.read("sys/kernel/security/lockdown")
        enforced = (machine.read("sys/module/module/parameters/sig_enforce") or "").strip()
    except PermissionError:
        return unknown()
    if lockdown is not None and chosen(lockdown) != "none":
        return missing(
            f"lockdown is {chosen(lockdown)}{' (Secure Boot)' if secure else ''}:"
            " modules have to be signed",
            "sign it with an enrolled key (mokutil --import)",
        )
    if enforced == "Y":
        return missing("module.sig_enforce: modules have to be signed", "sign it")
    return ok("unsigned modules are taken" + (", under Secure Boot" if secure else ""))


def secure_boot(machine: Machine) -> bool:
    """Whether the firmware checks what it boots; False also where there is no EFI."""
    try:
        return (machine.root / _SECURE_BOOT).read_bytes()[4:5] == b"\1"
    except OSError:
        return False
