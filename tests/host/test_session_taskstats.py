"""struct taskstats of every version, as C lays it out, and what is read from a message."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dmatrace.session import taskstats
from dmatrace.session.taskstats import DELAYS, Stats, decode, fitting, layout

FAMILY = 31
HEADER = Path("/usr/include/linux/taskstats.h")


def _offsets(version: int) -> dict[str, int]:
    found, code = {}, ""
    for name, kind in layout(version):
        found[name] = struct.calcsize(code + kind) - struct.calcsize(kind)
        code += kind
    return found


def test_offsets_are_the_compilers(tmp_path: Path) -> None:
    """Whatever version this machine's header has: the compiler says where its members are."""
    gcc = shutil.which("gcc")
    if gcc is None or not HEADER.exists():
        pytest.skip("no gcc or no kernel headers: apt install gcc linux-libc-dev")
    version = int(re.findall(r"TASKSTATS_VERSION\s+(\d+)", HEADER.read_text())[0])
    mine = _offsets(version)
    named = re.findall(r"^\s+(?:__u\w+|char)\s+(\w+)", HEADER.read_text(), re.MULTILINE)
    shared = [name for name in named if name in mine]
    assert len(shared) > 40
    lines = "".join(
        f'printf("{name} %zu\\n", offsetof(struct taskstats, {name}));' for name in shared
    )
    text = "#include <stddef.h>\n#include <stdio.h>\n#include <linux/taskstats.h>\n"
    source = tmp_path / "offsets.c"
    source.write_text(text + "int main(void) {" + lines + "}")
    subprocess.run([gcc, "-o", str(tmp_path / "offsets"), str(source)], check=True)
    said = subprocess.run([tmp_path / "offsets"], capture_output=True, text=True, check=True)
    theirs = {name: int(at) for name, at in map(str.split, said.stdout.splitlines())}
    assert theirs == {name: mine[name] for name in shared}


def test_version_15_is_pyroute2s() -> None:
    """The only newer one that it knows."""
    from pyroute2.netlink.taskstats import TStatsBase

    theirs = TStatsBase.tstats_v15.fields
    mine = layout(15)
    assert [(n, k) for n, k in mine if n[0] != "_"] == [(n, k) for n, k in theirs if n[0] != "_"]
    assert struct.calcsize("".join(k for _, k in mine)) == struct.calcsize(
        "".join(k for _, k in theirs)
    )


def _message(version: int, size: int, values: dict[str, int]) -> bytes:
    """A TASKSTATS_CMD_NEW message of one thread, as the kernel nests it."""
    body = bytearray(size)
    offsets, kinds = _offsets(version), dict(layout(version))
    for name, value in {"version": version, **values}.items():
        struct.pack_into(kinds[name], body, offsets[name], value)
    struct.pack_into("32s", body, offsets["ac_comm"], b"llama-server")

    def attribute(kind: int, data: bytes) -> bytes:
        return struct.pack("HH", 4 + len(data), kind) + data

    nested = attribute(1, struct.pack("I", values["ac_pid"])) + attribute(3, bytes(body))
    payload = struct.pack("BBH", 2, 1, 0) + attribute(4, nested)
    return struct.pack("IHHII", 16 + len(payload), FAMILY, 0, 1, 0) + payload


@pytest.mark.parametrize("version", range(11, 20))
def test_every_version_is_read_as_far_as_it_reaches(version: int) -> None:
    known = min(version, 17)
    last = {11: "compact_delay_total", 12: "ac_exe_inode", 13: "wpcopy_delay_total",
            14: "irq_delay_total", 15: "irq_delay_min", 16: "irq_delay_min",
            17: "irq_delay_max_ts_nsec"}[known]  # fmt: skip
    size = _offsets(version)[last] + 8
    values = {"ac_pid": 4711, "cpu_run_virtual_total": 77}
    if version >= 12:
        values["ac_tgid"] = 4700
    lacking = {11: {"wpcopy", "irq"}, 12: {"wpcopy", "irq"}, 13: {"irq"}}.get(known, set())
    there = [name for name in DELAYS if name not in lacking]
    for number, name in enumerate(there, start=1):
        values[f"{name}_count"], values[f"{name}_delay_total"] = number, (1 << 40) + number
    # A kernel newer than we know sends more behind it.
    size += 64 if version > 17 else 0
    (found,) = decode(_message(version, size, values), FAMILY)
    assert (found.version, found.tid, found.tgid) == (version, 4711, 4700 if version > 11 else 0)
    assert (found.comm, found.run_ns) == ("llama-server", 77)
    assert found.delays == {n: (i, (1 << 40) + i) for i, n in enumerate(there, start=1)}


def test_what_does_not_fit_is_left_out() -> None:
    names = [name for name, _ in fitting(14, 100)]
    assert "cpu_delay_total" in names
    assert "freepages_count" not in names
    assert fitting(14, 0) == ()


def test_differences() -> None:
    before = Stats(14, 1, 1, "a", 0, {"cpu": (1, 10), "blkio": (2, 20)})
    after = Stats(14, 1, 1, "a", 0, {"cpu": (4, 100), "blkio": (2, 20)})
    assert after.since(before) == {"cpu": (3, 90), "blkio": (0, 0)}
    assert after.since(None) == after.delays


def test_the_sysctl_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    switch = tmp_path / "task_delayacct"
    switch.write_text("0\n")
    monkeypatch.setattr(taskstats, "SYSCTL", switch)

    class Nothing:
        full_since = 0

        def close(self) -> None:
            pass

    monkeypatch.setattr(taskstats, "Taskstats", Nothing)
    said: list[str] = []
    with taskstats.accounting(said.append) as found:
        assert switch.read_text() == "1"
        assert found is not None
        assert found.full_since > 0
    assert switch.read_text() == "0"
    assert len(said) == 2

    def refused() -> Any:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(taskstats, "Taskstats", refused)
    with taskstats.accounting(said.append) as found:
        assert found is None
    assert said[-1] == "no delay accounting: taskstats: Operation not permitted"
