"""The layouts in dmatrace_loaders.native are those of native/uapi/dmatrace_loader.h."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from dmatrace_loaders import native

UAPI = Path(__file__).parents[2] / "native" / "uapi"
HEADER = (UAPI / "dmatrace_loader.h").read_text()

#: Structure -> its struct.Struct, and fields in the order in which that has them.
LAYOUTS = {
    "query": (native._QUERY, "version page_size features missing max_length"),
    "rw_file": (
        native._RW_FILE,
        "file_fd buffer_fd flags file_offset buffer_offset length chunk bytes map_ns read_ns"
        " total_ns",
    ),
    "alloc": (native._ALLOC, "length flags fd_flags fd alloc_ns total_ns"),
    "alloc_read": (
        native._ALLOC_READ,
        "file_fd flags fd_flags fd file_offset length chunk gather jobs batches buffer_length"
        " bytes alloc_ns vmap_ns read_ns zero_ns overlap_ns wait_ns total_ns",
    ),
    "stream": (native._STREAM, "buffer_fd fd_flags offset length fd"),
}


def _compiled(tmp_path: Path, statements: list[str]) -> str:
    source = tmp_path / "probe.c"
    source.write_text(
        '#include <stddef.h>\n#include <stdio.h>\n#include "dmatrace_loader.h"\n'
        "int main(void)\n{\n" + "".join(f"\t{line}\n" for line in statements) + "}\n"
    )
    program = tmp_path / "probe"
    subprocess.run(["cc", "-Werror", "-I", UAPI, source, "-o", program], check=True)
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout


def test_the_header_says_what_the_loaders_pack(tmp_path: Path) -> None:
    wanted: dict[str, int] = {}
    statements = []

    def compare(expression: str, value: int) -> None:
        wanted[expression] = value
        text = json.dumps(expression)
        statements.append(f'printf("%s = %llu\\n", {text}, (unsigned long long)({expression}));')

    for name, (layout, fields) in LAYOUTS.items():
        compare(f"sizeof(struct dmatrace_loader_{name})", layout.size)
        # A number in one field at a time: where it comes out is where the field is.
        for index, field in enumerate(fields.split()):
            values = [0] * len(layout.unpack(bytes(layout.size)))
            values[index] = 1
            at = layout.pack(*values).index(1)
            compare(f"offsetof(struct dmatrace_loader_{name}, {field})", at)
        compare(f"DMATRACE_LOADER_{name.upper()}", getattr(native, name.upper()))
    for bit in native.Feature:
        compare(f"DMATRACE_LOADER_FEATURE_{bit.name}", bit.value)
    for how in native.Mmap:
        compare(f"DMATRACE_LOADER_MMAP_{how.name}", how.value)
    compare("DMATRACE_LOADER_RW_DIRECT", native._RW_DIRECT)
    for flag in ("DIRECT", "VMAP", "GATHER", "NOZERO"):
        compare(f"DMATRACE_LOADER_ALLOC_{flag}", getattr(native, f"_ALLOC_{flag}"))
    compare("DMATRACE_LOADER_VERSION", native.VERSION)
    said = dict(line.rsplit(" = ", 1) for line in _compiled(tmp_path, statements).splitlines())
    assert {name: int(value) for name, value in said.items()} == wanted
    assert f'DMATRACE_LOADER_DEVICE		"{native.DEVICE}"' in HEADER
    assert f'DMATRACE_LOADER_EXPORTER	"{native.EXPORTER}"' in HEADER


def test_every_field_and_flag_of_the_header_is_compared() -> None:
    for name, (_, fields) in LAYOUTS.items():
        body = re.search(rf"\nstruct dmatrace_loader_{name} {{(.*?)}};", HEADER, re.DOTALL)
        assert body
        names = re.findall(r"__[us]\d+ (\w+)", body[1])
        assert [field for field in names if not field.startswith("reserved")] == fields.split()
    assert len(LAYOUTS) == HEADER.count("\nstruct dmatrace_loader_")
    bits = re.findall(r"#define DMATRACE_LOADER_FEATURE_(\w+)", HEADER)
    assert bits == [bit.name for bit in native.Feature]


def test_a_32_bit_program_has_the_same_layouts(tmp_path: Path) -> None:
    """The device's compat_ioctl hands arguments on as they are."""
    checks = [
        f'_Static_assert(sizeof(struct dmatrace_loader_{name}) == {layout.size}, "{name}");'
        for name, (layout, _) in LAYOUTS.items()
    ]
    source = tmp_path / "narrow.c"
    source.write_text('#include "dmatrace_loader.h"\n' + "\n".join(checks) + "\n")
    machine = subprocess.run(["cc", "-dumpmachine"], capture_output=True, text=True, check=True)
    if not machine.stdout.startswith("x86_64"):
        pytest.skip("not an x86-64 compiler")
    # asm/ of the 64-bit C library will do: nothing is linked.
    asm = "/usr/include/x86_64-linux-gnu"
    subprocess.run(
        ["cc", "-m32", "-fsyntax-only", "-Werror", "-I", UAPI, "-I", asm, source], check=True
    )
