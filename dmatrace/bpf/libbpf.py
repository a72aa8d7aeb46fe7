"""The libbpf calls that make maps, load programs and attach them.

bcc only compiles: its own attach functions take no cookie and parse the
kernel's whole BTF again for every fentry program, and what it compiled it
cannot load a second time.  Structures are libbpf's extensible "opts", whose
first field is their size.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import platform
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from dmatrace.errors import CannotHere

PROG_TYPE_KPROBE, PROG_TYPE_PERF_EVENT, PROG_TYPE_TRACING = 2, 7, 26
PROG_TYPE_TRACEPOINT, PROG_TYPE_RAW_TRACEPOINT = 5, 17
TRACE_FENTRY, TRACE_FEXIT, PERF_EVENT = 24, 25, 41  # enum bpf_attach_type

_LINK_PERF_EVENT, _PERF_KPROBES = 7, (3, 4)  # enum bpf_link_type, bpf_perf_event_type
_KPROBE_PMU = Path("/sys/bus/event_source/devices/kprobe/type")
_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_TYPE_SOFTWARE, _PERF_TYPE_TRACEPOINT, _PERF_COUNT_SW_CPU_CLOCK = 1, 2, 0
_EXCLUDE_IDLE, _FREQUENCY = 1 << 7, 1 << 10  # bits of perf_event_attr's flags


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


def error_number(result: int) -> int:
    """The errno of a negative ``result``."""
    return -result if result < -1 else ctypes.get_errno()


def checked(result: int, what: str) -> int:
    """``result``, or OSError if it is negative."""
    if result < 0:
        number = error_number(result)
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


class _MapInfo(ctypes.Structure):
    """The beginning of struct bpf_map_info."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
    )


def map_definition(fd: int) -> tuple[int, int, int, int, int]:
    """(type, key size, value size, entries, flags) of a map, as the kernel has it."""
    info = _MapInfo()
    size = ctypes.c_uint32(ctypes.sizeof(info))
    said = library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
    checked(said, "ask for a map")
    return info.type, info.key_size, info.value_size, info.max_entries, info.map_flags


class _MapOptions(ctypes.Structure):
    """struct bpf_map_create_opts up to map_flags."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf_fd", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
    )


def create_map(
    name: str, kind: int, key_size: int, value_size: int, entries: int, flags: int
) -> int:
    """BPF_MAP_CREATE; the map's fd.  OSError."""
    options = _MapOptions(sz=ctypes.sizeof(_MapOptions), map_flags=flags)
    fd = library().bpf_map_create(
        kind, name.encode()[:15], key_size, value_size, entries, ctypes.byref(options)
    )
    return checked(fd, f"create the map {name}")


@lru_cache(maxsize=1)
def possible_cpus() -> int:
    """How many values an entry of a per-CPU map has."""
    return checked(library().libbpf_num_possible_cpus(), "count the CPUs")


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
    instructions: bytes,
    *,
    attach_type: int = 0,
    btf_id: int = 0,
    btf_fd: int = 0,
) -> int:
    """BPF_PROG_LOAD of ``instructions``; the program's fd.

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
                instructions,
                ctypes.c_size_t(len(instructions) // 8),
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
    return [checked(link, "attach")]


def iterate(prog_fd: int, attach_type: int, keep: Callable[[int], int]) -> int:
    """BPF_LINK_CREATE and BPF_ITER_CREATE of an iterator; the fd that reads its output.

    ``keep`` is given the link's fd, which must live as long.
    """
    link = checked(library().bpf_link_create(prog_fd, 0, attach_type, None), "attach")
    return checked(library().bpf_iter_create(keep(link)), "iterate")


def attach_kprobe(prog_fd: int, function: str, cookie: int, *, on_return: bool) -> list[int]:
    """A kprobe or kretprobe through the kprobe PMU; the event's and the link's fd.

    Both vanish with this process (Linux kernel commit e12f03d7031a
    "perf/core: Implement the 'perf_kprobe' PMU" in v4.17); a probe made in
    tracefs would outlive it.
    """
    if not _KPROBE_PMU.exists():
        raise CannotHere("this kernel has no kprobe PMU", do="boot one with CONFIG_KPROBE_EVENTS=y")
    name = ctypes.create_string_buffer(function.encode())
    kind = int(_KPROBE_PMU.read_text())
    return _attach_event(
        prog_fd, function, cookie, type=kind, config=int(on_return), config1=ctypes.addressof(name)
    )


def attach_tracepoint(prog_fd: int, event: str, number: int) -> list[int]:
    """A program on a tracepoint of tracefs, whose id is ``number``; the event's and link's fd.

    The event is opened on one CPU; the program hangs on the tracepoint, and runs on all.
    """
    return _attach_event(prog_fd, event, 0, type=_PERF_TYPE_TRACEPOINT, config=number)


def attach_raw_tracepoint(prog_fd: int, event: str) -> list[int]:
    """BPF_RAW_TRACEPOINT_OPEN; the link's fd."""
    return [checked(library().bpf_raw_tracepoint_open(event.encode(), prog_fd), event)]


def attach_clock(prog_fd: int, cpu: int, hz: int) -> list[int]:
    """A software clock that interrupts ``cpu`` ``hz`` times a second, unless it idles.

    The event's and the link's fd; both vanish with this process.
    """
    return _attach_event(
        prog_fd,
        f"cpu-clock at {hz} Hz",
        0,
        cpu=cpu,
        type=_PERF_TYPE_SOFTWARE,
        config=_PERF_COUNT_SW_CPU_CLOCK,
        sample_period=hz,
        flags=_EXCLUDE_IDLE | _FREQUENCY,
    )


def _attach_event(
    prog_fd: int, what: str, cookie: int, *, cpu: int = 0, **attributes: int
) -> list[int]:
    attr = _PerfAttr(size=ctypes.sizeof(_PerfAttr), **attributes)
    libc = ctypes.CDLL(None, use_errno=True)
    number = _PERF_EVENT_OPEN[platform.machine()]
    event = libc.syscall(number, ctypes.byref(attr), -1, cpu, -1, _PERF_FLAG_FD_CLOEXEC)
    if event < 0:
        raise OSError(ctypes.get_errno(), f"perf event of {what}")
    options = _LinkOptions(sz=ctypes.sizeof(_LinkOptions), cookie=cookie)
    try:
        link = checked(
            library().bpf_link_create(prog_fd, event, PERF_EVENT, ctypes.byref(options)), what
        )
    except OSError:
        os.close(event)
        raise
    return [link, event]
