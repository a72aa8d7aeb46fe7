"""The running kernel's own type information (BTF), read through libbpf.

Field offsets and the numbers of functions come from /sys/kernel/btf/vmlinux, so
the BPF programs need no kernel headers and follow the kernel that runs.
libbpf does the parsing; it is a dependency of every distribution's bcc.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from typing import Any

from dmatrace.bpf.hook import Hook
from dmatrace.bpf.libbpf import btf_fd, library
from dmatrace.errors import CannotHere

DIRECTORY = "/sys/kernel/btf"
VMLINUX = f"{DIRECTORY}/vmlinux"

# include/uapi/linux/btf.h
_KIND_STRUCT, _KIND_UNION, _KIND_ENUM, _KIND_FUNC = 4, 5, 6, 12
_KIND_MODIFIERS = {8, 9, 10, 11, 18}  # typedef, volatile, const, restrict, type_tag


class _Type(ctypes.Structure):
    """struct btf_type."""

    _fields_ = (
        ("name_off", ctypes.c_uint32),
        ("info", ctypes.c_uint32),
        ("size_or_type", ctypes.c_uint32),
    )

    @property
    def kind(self) -> int:
        return int(self.info >> 24) & 0x1F

    @property
    def vlen(self) -> int:
        return int(self.info) & 0xFFFF

    @property
    def kind_flag(self) -> bool:
        return bool(self.info >> 31)


class _Member(ctypes.Structure):
    """struct btf_member; also read as struct btf_enum (name, value)."""

    _fields_ = (
        ("name_off", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("offset", ctypes.c_uint32),
    )


class _Enum(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("value", ctypes.c_int32))


def _libbpf() -> Any:
    lib = library()
    lib.btf__parse_split.restype = ctypes.c_void_p
    lib.btf__parse_split.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    lib.btf__find_by_name_kind.restype = ctypes.c_int32
    lib.btf__find_by_name_kind.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32]
    lib.btf__type_by_id.restype = ctypes.POINTER(_Type)
    lib.btf__type_by_id.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    lib.btf__name_by_offset.restype = ctypes.c_char_p
    lib.btf__name_by_offset.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    return lib


class Btf:
    """Type look-ups by name; offsets in bytes."""

    def __init__(self, path: str = VMLINUX, base: Btf | None = None) -> None:
        if not os.path.exists(path):
            raise CannotHere(
                f"this kernel has no type information ({path} is missing)",
                do="boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (all current distributions')",
            )
        self._lib = _libbpf()
        # A module's BTF goes on where the kernel's ends.
        under = base._btf if base else None
        self._btf: int | None = self._lib.btf__parse_split(path.encode(), under)
        if not self._btf:
            raise CannotHere(
                f"libbpf cannot read {path}: {os.strerror(ctypes.get_errno())}",
                do="check the kernel's CONFIG_DEBUG_INFO_BTF",
            )

    def _find(self, name: str, kind: int) -> int:
        return int(self._lib.btf__find_by_name_kind(self._btf, name.encode(), kind))

    def _name(self, offset: int) -> str:
        raw = self._lib.btf__name_by_offset(self._btf, offset)
        return raw.decode() if raw else ""

    def _type(self, number: int) -> Any:
        return self._lib.btf__type_by_id(self._btf, number)

    def _after(self, pointer: Any, element: Any, count: int) -> Any:
        address = ctypes.addressof(pointer.contents) + ctypes.sizeof(_Type)
        return (element * count).from_address(address)

    def _strip(self, number: int) -> int:
        while (kind := self._type(number).contents).kind in _KIND_MODIFIERS:
            number = kind.size_or_type
        return number

    def _member(self, number: int, name: str) -> tuple[int, int] | None:
        """(bit offset, type) of a member, also inside anonymous members."""
        pointer = self._type(number)
        kind = pointer.contents
        for member in self._after(pointer, _Member, kind.vlen):
            bits = member.offset & 0xFFFFFF if kind.kind_flag else member.offset
            found = self._name(member.name_off)
            if found == name:
                return bits, member.type
            if not found:
                inner_type = self._strip(member.type)
                if self._type(inner_type).contents.kind in (_KIND_STRUCT, _KIND_UNION):
                    inner = self._member(inner_type, name)
                    if inner is not None:
                        return bits + inner[0], inner[1]
        return None

    def offset(self, struct: str, path: str) -> int | None:
        """Byte offset of ``path`` ("bi_iter.bi_size") in ``struct``, or None if absent."""
        number = self._find(struct, _KIND_STRUCT)
        if number < 0:
            return None
        bits = 0
        for name in path.split("."):
            number = self._strip(number)
            if self._type(number).contents.kind not in (_KIND_STRUCT, _KIND_UNION):
                return None
            found = self._member(number, name)
            if found is None:
                return None
            bits += found[0]
            number = found[1]
        return bits // 8

    def enum_value(self, enum: str, name: str) -> int | None:
        """Value of an enumerator, or None if absent."""
        number = self._find(enum, _KIND_ENUM)
        if number < 0:
            return None
        pointer = self._type(number)
        for item in self._after(pointer, _Enum, pointer.contents.vlen):
            if self._name(item.name_off) == name:
                return int(item.value)
        return None

    def function(self, name: str) -> int | None:
        """A function's type number (what fentry attaches to), or None if BTF lacks it."""
        number = self._find(name, _KIND_FUNC)
        return number if number >= 0 else None


@lru_cache(maxsize=1)
def kernel_btf() -> Btf:
    """The running kernel's BTF, parsed once.  Raises CannotHere without one."""
    return Btf()


def has_module(name: str) -> bool:
    """Whether a module is loaded."""
    return os.path.isdir(f"/sys/module/{name}")


@lru_cache
def _module_btf(name: str) -> tuple[Btf, int] | None:
    """A loaded module's BTF and a fd of it (kept), or None where it was built without."""
    path = f"{DIRECTORY}/{name}"
    fd = btf_fd(name) if os.path.exists(path) else None
    return None if fd is None else (Btf(path, kernel_btf()), fd)


def function_btf(hook: Hook, function: str) -> tuple[int, int] | None:
    """(type number, fd of the module's BTF or 0) of a function, or None if BTF lacks it."""
    if not hook.module:
        number = kernel_btf().function(function)
        return None if number is None else (number, 0)
    found = _module_btf(hook.module)
    number = found[0].function(function) if found else None
    return None if found is None or number is None else (number, found[1])
