"""The C files through bcc, to instructions and map definitions that need bcc no more.

bcc makes the maps of a program while it compiles it and writes their file
descriptors into the instructions.  Here those become numbers into a list of map
definitions, so that what was compiled once can be loaded again, in another
process, without clang and without the kernel's headers.  bcc is imported in
``compile_with_bcc`` only: its LLVM alone takes seconds to load in an emulated
guest, and readers of recordings need neither it nor root.
"""

from __future__ import annotations

import base64
import ctypes
import importlib.util
import json
import os
import platform
import struct
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Self

from dmatrace.bpf import libbpf
from dmatrace.bpf.hook import Tap
from dmatrace.errors import CannotHere, DmatraceError

# include/uapi/linux/bpf.h: a 64-bit immediate whose source register says what it stands for.
_LD_IMM64 = 0x18
_PSEUDO_MAP_FD = 1
_INSTRUCTION = 8


@dataclass(frozen=True)
class MapDefinition:
    """What BPF_MAP_CREATE is told; sizes in bytes, ``kind`` is enum bpf_map_type's number."""

    name: str
    kind: int
    key_size: int
    value_size: int
    entries: int
    flags: int


@dataclass(frozen=True)
class Compiled:
    """A program for one kernel: its maps, and the instructions of each function.

    Where an instruction refers to a map, its immediate is the map's place in ``maps``.
    """

    maps: tuple[MapDefinition, ...]
    functions: Mapping[str, bytes]

    def dump(self) -> bytes:
        """For a file."""
        functions = {n: base64.b64encode(code).decode() for n, code in self.functions.items()}
        document = {"maps": [asdict(each) for each in self.maps], "functions": functions}
        return json.dumps(document, sort_keys=True).encode()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """What ``dump`` wrote.  Raises ValueError, KeyError or TypeError for anything else."""
        document = json.loads(data)
        maps = tuple(MapDefinition(**each) for each in document["maps"])
        functions = {n: base64.b64decode(c) for n, c in document["functions"].items()}
        return cls(maps, functions)

    def linked(self, name: str, fds: Sequence[int]) -> bytes:
        """The instructions of a function with the descriptors of this process's maps."""
        return rewritten(self.functions[name], lambda number: fds[number])


def rewritten(code: bytes, change: Any) -> bytes:
    """``code`` with the immediate of every reference to a map changed."""
    found = bytearray(code)
    for at in range(0, len(found), _INSTRUCTION):
        if found[at] != _LD_IMM64:
            continue
        source = found[at + 1] >> 4
        if source == _PSEUDO_MAP_FD:
            (value,) = struct.unpack_from("=i", found, at + 4)
            struct.pack_into("=i", found, at + 4, change(value))
        elif source:
            raise DmatraceError(
                f"an instruction refers to something of kind {source}, not to a map",
                do="please report it with the version of bcc",
            )
    return bytes(found)


def find_bcc() -> Path:
    """The directory of bcc's Python package.  Raises CannotHere with the package to install."""
    found = importlib.util.find_spec("bcc")
    if found is None or found.origin is None:
        raise CannotHere(
            "bcc is not installed for this Python",
            do="apt install python3-bpfcc, and use the distribution's Python"
            " (or run in the lab: dmatrace lab run)",
        )
    where = Path(found.origin).parent
    if not (where / "libbcc.py").exists():
        raise CannotHere(
            "the module 'bcc' found here is not the BPF Compiler Collection",
            do="pip uninstall bcc; apt install python3-bpfcc",
        )
    return where


def import_bcc() -> Any:
    """bcc's module.  Raises CannotHere with the package to install."""
    find_bcc()
    try:
        import bcc
    except (ImportError, OSError) as error:
        raise CannotHere(
            f"bcc does not load: {error}", do="apt install --reinstall python3-bpfcc libbpfcc"
        ) from None
    return bcc


def source(present: Collection[Tap], *, sampled: bool = False, newcomers: bool = False) -> str:
    """The C text: one translation unit, because bcc rewrites only its main file."""
    package = resources.files("dmatrace.bpf")
    ledger = ["ledger.c"] if any(tap.source == "pagecache.c" for tap in present) else []
    names = ["dmatrace.h", "stack.c", "waits.c", "access.c", "files.c", "ways.c", "runs.c"]
    names += [*ledger, "ledger_hooks.c", "calls.c", "handlers.c", "reads.c", "probes.c"]
    names += ["heap.c", "devices.c", "work.c", "direct.c"]
    names += [tap.source for tap in present if tap.source not in names]
    if any(tap.source == "block.c" for tap in present):
        names.append("pins.c")
    if sampled:
        names.append("samples.c")
    if newcomers:
        names.append("newcomers.c")
    return "".join(f'#line 1 "{name}"\n{(package / name).read_text()}\n' for name in names)


def compile_with_bcc(text: str, flags: Sequence[str], messages: list[str]) -> Compiled:
    """Compile; what clang and bcc say goes to ``messages``.  CannotHere or DmatraceError."""
    bcc = import_bcc()

    class Unattached(bcc.BPF):  # type: ignore[misc, name-defined]
        def _trace_autoload(self) -> None:
            """bcc would attach by name, and let one refusal end everything."""

    try:
        with output_kept(messages):
            compiled = Unattached(text=text.encode(), cflags=list(flags))
    except Exception as error:
        raise failure("the BPF program does not compile", error, messages) from None
    try:
        return _taken_from(compiled.module)
    finally:
        compiled.cleanup()


def _taken_from(module: Any) -> Compiled:
    """Maps and functions of a module that bcc compiled."""
    from bcc.libbcc import lib

    lib.bpf_num_tables.argtypes = lib.bpf_num_functions.argtypes = [ctypes.c_void_p]
    lib.bpf_num_tables.restype = lib.bpf_num_functions.restype = ctypes.c_size_t
    for name, result in (
        ("bpf_table_name", ctypes.c_char_p),
        ("bpf_table_fd_id", ctypes.c_int),
        ("bpf_function_name", ctypes.c_char_p),
        ("bpf_function_start_id", ctypes.c_void_p),
        ("bpf_function_size_id", ctypes.c_size_t),
    ):
        getattr(lib, name).argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        getattr(lib, name).restype = result
    maps: list[MapDefinition] = []
    places: dict[int, int] = {}
    for number in range(lib.bpf_num_tables(module)):
        fd = lib.bpf_table_fd_id(module, number)
        places[fd] = number
        name = lib.bpf_table_name(module, number).decode()
        maps.append(MapDefinition(name, *libbpf.map_definition(fd)))
    functions = {}
    for number in range(lib.bpf_num_functions(module)):
        start = lib.bpf_function_start_id(module, number)
        code = ctypes.string_at(start, lib.bpf_function_size_id(module, number))
        name = lib.bpf_function_name(module, number).decode()
        functions[name] = rewritten(code, places.__getitem__)
    return Compiled(tuple(maps), functions)


@contextmanager
def output_kept(into: list[str]) -> Iterator[None]:
    """Hold back what clang, libbpf and bcc print (on both streams), to show it on failure."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.memfd_create("output")
    saved = [os.dup(stream) for stream in (1, 2)]
    for stream in (1, 2):
        os.dup2(kept, stream)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # C's stdout is buffered where it is no terminal
        for stream, old in zip((1, 2), saved, strict=True):
            os.dup2(old, stream)
            os.close(old)
        os.lseek(kept, 0, os.SEEK_SET)
        into += os.read(kept, 1 << 20).decode(errors="replace").strip().splitlines()
        os.close(kept)


def failure(what: str, error: Exception, said: Sequence[str]) -> DmatraceError:
    """Why the program cannot be used, from what was ``said``, and what to do."""
    telling = [line for line in said if "error" in line.lower() or "headers" in line.lower()]
    first = (telling or list(said) or [str(error)])[0].strip()
    if os.geteuid() != 0:
        return CannotHere(f"{what}: {first}", do="run it with sudo")
    if any("kernel headers" in line for line in said) or "/linux/" in first:
        return CannotHere(
            "bcc needs this kernel's headers to compile",
            do=f"apt install linux-headers-{platform.release()}",
        )
    return DmatraceError(f"{what}: {first}", do="please report it with the kernel's version")
