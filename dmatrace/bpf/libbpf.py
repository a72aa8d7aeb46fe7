"""The few libbpf calls that bcc does not offer: attaching with a cookie.

bcc compiles, owns the maps and the ring buffer; its own attach functions take
no cookie and parse the kernel's whole BTF again for every fentry program.
Structures are libbpf's extensible "opts", whose first field is their size.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import platform
from functools import lru_cache
from pathlib import Path
from typing import Any

from dmatrace.errors import CannotHere

PROG_TYPE_KPROBE, PROG_TYPE_TRACING = 2, 26
TRACE_FENTRY, TRACE_FEXIT, PERF_EVENT = 24, 25, 41  # enum bpf_attach_type

_LINK_PERF_EVENT, _PERF_KPROBES = 7, (3, 4)  # enum bpf_link_type, bpf_perf_event_type
_KPROBE_PMU = Path("/sys/bus/event_source/devices/kprobe/type")
_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_PERF_FLAG_FD_CLOEXEC = 8


@lru_cache(maxsize=1)
def library() -> Any:
    """libbpf itself.  Raises CannotHere where it is not installed."""
    for name in ("libbpf.so.1", ctypes.util.find_library("bpf")):
        if not name:
            continue
        try:
            lib = ctypes.CDLL(name, use_errno=True)
        except OSError:
            continue
        lib.libbpf_set_print(None)
        return lib
    raise CannotHere(
        "libbpf is not installed",
        do="install it with your distribution's bcc: apt install python3-bpfcc",
    )


class _LoadOptions(ctypes.Structure):
    """struct bpf_prog_load_opts."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_uint32),
        ("prog_btf_fd", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_ifindex", ctypes.c_uint32),
        ("kern_version", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
        ("attach_prog_fd", ctypes.c_uint32),
        ("attach_btf_obj_fd", ctypes.c_uint32),
        ("fd_array", ctypes.c_void_p),
        ("func_info", ctypes.c_void_p),
        ("func_info_cnt", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("line_info", ctypes.c_void_p),
        ("line_info_cnt", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_char_p),
    )


class _LinkOptions(ctypes.Structure):
    """struct bpf_link_create_opts; the union's first word is the cookie for both kinds used."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("flags", ctypes.c_uint32),
        ("iter_info", ctypes.c_void_p),
        ("iter_info_len", ctypes.c_uint32),
        ("target_btf_id", ctypes.c_uint32),
        ("cookie", ctypes.c_uint64),
    )


class _PerfAttr(ctypes.Structure):
    """struct perf_event_attr up to config2 (PERF_ATTR_SIZE_VER1)."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup_events", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("config1", ctypes.c_uint64),
        ("config2", ctypes.c_uint64),
    )


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = -result if result < -1 else ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


class _BtfInfo(ctypes.Structure):
    """struct bpf_btf_info."""

    _fields_ = (
        ("btf", ctypes.c_uint64),
        ("btf_size", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("name", ctypes.c_uint64),
        ("name_len", ctypes.c_uint32),
        ("kernel_btf", ctypes.c_uint32),
    )


def btf_fd(module: str) -> int | None:
    """A fd of a module's BTF, which fentry programs are loaded against; None: there is none."""
    lib = library()
    number = ctypes.c_uint32(0)
    while lib.bpf_btf_get_next_id(number, ctypes.byref(number)) == 0:
        fd = int(lib.bpf_btf_get_fd_by_id(number))
        if fd < 0:  # gone meanwhile
            continue
        name = ctypes.create_string_buffer(64)
        info = _BtfInfo(name=ctypes.addressof(name), name_len=len(name))
        size = ctypes.c_uint32(ctypes.sizeof(info))
        said = lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
        if said == 0 and info.kernel_btf and name.value == module.encode():
            return fd
        os.close(fd)
    return None


class _LinkInfo(ctypes.Structure):
    """struct bpf_link_info of a kprobe's perf event, up to the calls it missed."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("perf_type", ctypes.c_uint64),
        ("func_name", ctypes.c_uint64),
        ("name_len", ctypes.c_uint32),
        ("offset", ctypes.c_uint32),
        ("addr", ctypes.c_uint64),
        ("missed", ctypes.c_uint64),
    )


def missed(link: int) -> int | None:
    """Calls that a kprobe's link missed; None if it is none or this kernel does not tell.

    Linux kernel commit 3acf8ace6823 "bpf: Add missed value to kprobe perf link info" (in
    v6.7); an older kernel's structure is shorter.
    """
    info = _LinkInfo()
    size = ctypes.c_uint32(ctypes.sizeof(info))
    if library().bpf_obj_get_info_by_fd(link, ctypes.byref(info), ctypes.byref(size)):
        return None
    if info.type != _LINK_PERF_EVENT or info.perf_type not in _PERF_KPROBES:
        return None
    return int(info.missed) if size.value == ctypes.sizeof(info) else None


def load(
    name: str,
    kind: int,
    instructions: int,
    size: int,
    *,
    attach_type: int = 0,
    btf_id: int = 0,
    btf_fd: int = 0,
) -> int:
    """BPF_PROG_LOAD of ``size`` bytes at ``instructions``; the program's fd.

    A second try keeps the verifier's log, which the OSError then carries in
    its last lines.
    """
    lib = library()
    for log_level in (0, 1):
        log = ctypes.create_string_buffer(1 << 20) if log_level else None
        options = _LoadOptions(
            sz=ctypes.sizeof(_LoadOptions),
            expected_attach_type=attach_type,
            attach_btf_id=btf_id,
            attach_btf_obj_fd=btf_fd,
            log_level=log_level,
            log_size=len(log) if log else 0,
            log_buf=ctypes.cast(log, ctypes.c_char_p) if log else None,
        )
        fd = int(
            lib.bpf_prog_load(
                kind,
                name.encode()[:15],
                b"GPL",
                ctypes.c_void_p(instructions),
                ctypes.c_size_t(size // 8),
                ctypes.byref(options),
            )
        )
        if fd >= 0:
            return fd
        if log is not None:
            last = log.value.decode(errors="replace").strip().splitlines()[-3:]
            raise OSError(-fd, f"{name}: {os.strerror(-fd)}: {' | '.join(last)}")
    raise AssertionError("unreachable")


def attach_tracing(prog_fd: int, attach_type: int, cookie: int) -> list[int]:
    """BPF_LINK_CREATE of an fentry or fexit program; the link's fd."""
    options = _LinkOptions(sz=ctypes.sizeof(_LinkOptions), cookie=cookie)
    link = library().bpf_link_create(prog_fd, 0, attach_type, ctypes.byref(options))
    return [_checked(link, "attach")]


def attach_kprobe(prog_fd: int, function: str, cookie: int, *, on_return: bool) -> list[int]:
    """A kprobe or kretprobe through the kprobe PMU; the event's and the link's fd.

    Both vanish with this process (Linux kernel commit e12f03d7031a
    "perf/core: Implement the 'perf_kprobe' PMU" in v4.17); a probe made in
    tracefs would outlive it.
    """
    if not _KPROBE_PMU.exists():
        raise CannotHere("this kernel has no kprobe PMU", do="boot one with CONFIG_KPROBE_EVENTS=y")
    name = ctypes.create_string_buffer(function.encode())
    attr = _PerfAttr(
        type=int(_KPROBE_PMU.read_text()),
        size=ctypes.sizeof(_PerfAttr),
        config=int(on_return),
        config1=ctypes.addressof(name),
    )
    number = _PERF_EVENT_OPEN[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    event = libc.syscall(number, ctypes.byref(attr), -1, 0, -1, _PERF_FLAG_FD_CLOEXEC)
    if event < 0:
        raise OSError(ctypes.get_errno(), f"kprobe {function}")
    options = _LinkOptions(sz=ctypes.sizeof(_LinkOptions), cookie=cookie)
    try:
        link = _checked(
            library().bpf_link_create(prog_fd, event, PERF_EVENT, ctypes.byref(options)), function
        )
    except OSError:
        os.close(event)
        raise
    return [link, event]
