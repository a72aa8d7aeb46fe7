"""`dmatrace doctor`: each check on a machine of files, and what is printed of it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dmatrace.bpf import resolve
from dmatrace.bpf.hook import Hook
from dmatrace.bpf.hooks import DIO_TAP, DMABUF_TAP, HOOKS, TAPS
from dmatrace.bpf.preemption import MODES
from dmatrace.cli import doctor as verb
from dmatrace.cli import main
from dmatrace.report.layout import WIDTH, Style
from dmatrace.session.doctor import (
    CHECKS,
    Finding,
    Line,
    Machine,
    State,
    examine,
    kernel,
    loader_module,
    memory,
    records,
    tracing,
)
from dmatrace.session.doctor.check import Check, missing, ok, unknown
from dmatrace_loaders.kernel import DirectIo

_KEYS = {"section", "name", "state", "what", "do", "hides", "needed"}


def _put(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """An empty root, seen by root."""
    return Machine(root=tmp_path, uid=0, release="6.12.0-test")


@pytest.mark.parametrize(
    ("check", "path", "text", "state", "said"),
    [
        (kernel.lockdown, "sys/kernel/security/lockdown", "[none] integrity", "ok", "none"),
        (kernel.lockdown, "sys/kernel/security/lockdown", "none [integrity] x", "degraded", "sign"),
        (
            kernel.lockdown, "sys/kernel/security/lockdown", "none [confidentiality]",
            "missing", "read the kernel",
        ),
        (kernel.lockdown, "", "", "ok", "none"),
        (kernel.unprivileged_bpf, "proc/sys/kernel/unprivileged_bpf_disabled", "2", "ok", "2"),
        (kernel.unprivileged_bpf, "", "", "missing", "CONFIG_BPF_SYSCALL"),
        (kernel.kptr, "proc/sys/kernel/kptr_restrict", "1\n", "ok", "1"),
        (kernel.kptr, "proc/sys/kernel/kptr_restrict", "2\n", "degraded", "kptr_restrict=1"),
        (kernel.bpf_jit, "proc/sys/net/core/bpf_jit_enable", "0", "degraded", "fentry"),
        (kernel.bpf_jit, "proc/sys/net/core/bpf_jit_enable", "1", "ok", "on"),
        (kernel.kprobes, "sys/bus/event_source/devices/kprobe/type", "8", "ok", "PMU"),
        (kernel.kprobes, "", "", "degraded", "CONFIG_KPROBE_EVENTS"),
        (kernel.preemption, MODES, "none (voluntary) full lazy", "ok", "not in the kernel"),
        (kernel.preemption, MODES, "none voluntary (full)", "degraded", "CONFIG_KPROBE_EVENTS"),
        (kernel.function_tracer, "proc/sys/kernel/ftrace_enabled", "0", "missing", "=1"),
        (kernel.function_tracer, "proc/sys/kernel/ftrace_enabled", "1", "ok", "on"),
        (kernel.function_tracer, "", "", "missing", "CONFIG_DYNAMIC_FTRACE"),
        (kernel.schedstat, "", "", "missing", "CONFIG_SCHED_INFO"),
        (kernel.delay_accounting, "proc/sys/kernel/task_delayacct", "0", "degraded", "acct=1"),
        (kernel.delay_accounting, "proc/sys/kernel/task_delayacct", "1", "ok", "on"),
        (kernel.delay_accounting, "", "", "missing", "CONFIG_TASK_DELAY_ACCT"),
        (kernel.pressure, "", "", "missing", "psi=1"),
        (kernel.tracefs, "", "", "missing", "mount -t tracefs"),
        (tracing.headers, "lib/modules/6.12.0-test/build/Makefile", "", "ok", "6.12.0-test"),
        (tracing.headers, "sys/kernel/kheaders.tar.xz", "", "ok", "kheaders"),
        (tracing.headers, "", "", "missing", "apt install linux-headers-6.12.0-test"),
        (memory.heaps, "", "", "missing", "CONFIG_DMABUF_HEAPS_SYSTEM"),
        (memory.heaps, "dev/dma_heap/system", "", "ok", "/dev/dma_heap/system"),
        (memory.udmabuf, "", "", "missing", "modprobe udmabuf"),
        (memory.udmabuf, "dev/udmabuf", "", "ok", "/dev/udmabuf"),
        (memory.size_limit, "", "", "missing", "no udmabuf"),
        (memory.list_limit, "sys/module/udmabuf/parameters/list_limit", "1024", "ok", "1024"),
        (memory.list_limit, "sys/module/udmabuf/parameters/list_limit", "-1", "ok", "any number"),
        (memory.list_limit, "sys/module/udmabuf/parameters/list_limit", "0", "degraded", "refused"),
        (memory.huge_pages, "", "", "missing", "CONFIG_HUGETLBFS"),
        (memory.io_uring, "proc/sys/kernel/io_uring_disabled", "2", "missing", "=0"),
        (memory.io_uring, "proc/sys/kernel/io_uring_disabled", "1", "degraded", "=0"),
        (memory.io_uring, "", "", "ok", "not disabled"),
        (memory.drop_caches, "", "", "missing", "--cache warm"),
        (loader_module.loaded, "", "", "degraded", "--load-module"),
        (
            loader_module.signatures, "proc/sys/kernel/modules_disabled", "1",
            "missing", "modules_disabled",
        ),
        (
            loader_module.signatures, "sys/kernel/security/lockdown", "none [integrity]",
            "missing", "mokutil",
        ),
        (
            loader_module.signatures, "sys/module/module/parameters/sig_enforce", "Y\n",
            "missing", "sig_enforce",
        ),
        (loader_module.signatures, "", "", "ok", "unsigned"),
    ],
)  # fmt: skip
def test_a_check(machine: Machine, check: Any, path: str, text: str, state: str, said: str) -> None:
    if path:
        _put(machine.root, path, text)
    (line,) = examine(machine, [Check("it", "here", check)])
    assert str(line.finding.state) == state
    assert said in f"{line.finding.what} {line.finding.do}"
    if state in ("missing", "degraded"):
        assert line.finding.do or said == "no udmabuf"


def test_pressure(machine: Machine) -> None:
    _put(machine.root, "proc/pressure/memory", "some avg10=0.00\n")
    assert kernel.pressure(machine).state is State.MISSING
    _put(machine.root, "proc/pressure/io", "some avg10=0.00\n")
    assert kernel.pressure(machine).state is State.OK


def test_tracefs(machine: Machine) -> None:
    (machine.root / "sys/kernel/debug/tracing/events").mkdir(parents=True)
    assert kernel.tracefs(machine).state is State.MISSING
    _put(machine.root, "sys/kernel/debug/tracing/available_filter_functions", "vfs_read\n")
    assert kernel.tracefs(machine) == ok("/sys/kernel/debug/tracing")
    # Without root a directory that cannot be looked into may or may not be there.
    away = replace(machine, root=machine.root / "none", uid=1000)
    assert kernel.tracefs(away).state is State.UNKNOWN


@pytest.mark.parametrize(
    ("bits", "absent"),
    [
        (0x1FFFFFFFFFF, set()),
        (0, {name for _, name, _, _ in kernel.CAPABILITIES}),
        ((1 << 41) - 1 - (1 << 38), {"CAP_PERFMON"}),
        ((1 << 41) - 1 - (1 << 12), {"CAP_NET_ADMIN"}),
    ],
)
def test_exactly_the_missing_capabilities_are_named(
    machine: Machine, bits: int, absent: set[str]
) -> None:
    _put(machine.root, "proc/self/status", f"Name:\tx\nCapPrm:\t0\nCapEff:\t{bits:016x}\n")
    lines = examine(machine, [Check("capabilities", "privileges", kernel.capabilities)])
    assert {line.name for line in lines if line.finding.state is State.MISSING} == absent
    assert {line.name for line in lines} == {name for _, name, _, _ in kernel.CAPABILITIES}
    assert records(lines) is not bool(absent - {"CAP_NET_ADMIN"})


def test_capabilities_of_this_process() -> None:
    """The kernel's own word, by capget(2)'s text twin, against what is printed."""
    have = kernel.held(Path("/proc/self/status").read_text())
    assert have is not None
    lines = examine(Machine(), [Check("capabilities", "privileges", kernel.capabilities)])
    for line, (bit, name, _, _) in zip(lines, kernel.CAPABILITIES, strict=True):
        assert (line.name, line.finding.state is State.OK) == (name, bool(have >> bit & 1))


def test_namespaces(machine: Machine) -> None:
    place = machine.root / "proc/self/ns"
    place.mkdir(parents=True)
    (place / "user").symlink_to("user:[4026531837]")
    (place / "pid").symlink_to("pid:[4026531836]")
    assert kernel.namespaces(machine).state is State.OK
    (place / "pid").unlink()
    (place / "pid").symlink_to("pid:[4026532999]")
    assert "other numbers" in kernel.namespaces(machine).what
    (place / "user").unlink()
    (place / "user").symlink_to("user:[4026532998]")
    assert "capabilities" in kernel.namespaces(machine).what


MIB = 1 << 20


@pytest.mark.parametrize(
    ("value", "most", "state", "said"),
    [
        (64, 64 * MIB, "degraded", "up to 64 MiB"),
        (1024, 1024 * MIB, "ok", "up to 1 GiB"),
        (3000, 3000 * MIB, "ok", "up to 2.93 GiB"),  # 64 bits
        (3000, None, "degraded", "any size"),  # negative in an int
        (4096, 0, "degraded", "overflows"),
        (5000, 904 * MIB, "degraded", "up to 904 MiB"),
        (-1, None, "ok", "any size"),
    ],
)
def test_udmabufs_limit(value: int, most: int | None, state: str, said: str) -> None:
    found = memory.size_finding(value, most)
    assert (str(found.state), said in found.what) == (state, True), found


@pytest.mark.parametrize(
    ("found", "state", "said"),
    [
        (DirectIo(4, 512, True), "ok", "memory 4 bytes, offset and length 512"),
        (DirectIo(0, 0, True), "missing", "no direct I/O"),
        (DirectIo(512, 512, False), "degraded", "STATX_DIOALIGN"),
    ],
)
def test_alignment(found: DirectIo, state: str, said: str) -> None:
    line = memory.alignment(found)
    assert (str(line.state), said in line.what) == (state, True)


def test_direct_io_of_files(disk: Path, memory: Path) -> None:
    for place, expected in ((disk, (State.OK, State.DEGRADED)), (memory, (State.MISSING,))):
        path = place / "data"
        path.write_bytes(bytes(8192))
        (line,) = (one for one in examine(Machine(file=str(path))) if one.name == "direct I/O")
        assert line.finding.state in expected, place


def test_building_the_module(machine: Machine) -> None:
    sources = machine.root / "native"
    assert "DKMS" in loader_module.available(machine, sources).do
    _put(machine.root, "native/Kbuild")
    assert "linux-headers" in loader_module.available(machine, sources).do
    _put(machine.root, f"lib/modules/{machine.release}/build/Makefile")
    found = loader_module.available(machine, sources)
    assert found.state in (State.OK, State.MISSING)
    assert "6.12.0-test" in found.what or "there is no" in found.what


def test_secure_boot(machine: Machine) -> None:
    assert not loader_module.secure_boot(machine)
    name = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    place = machine.root / "sys/firmware/efi/efivars"
    place.mkdir(parents=True)
    (place / name).write_bytes(b"\6\0\0\0\0")
    assert not loader_module.secure_boot(machine)
    (place / name).write_bytes(b"\6\0\0\0\1")
    assert loader_module.secure_boot(machine)
    assert "Secure Boot" in loader_module.signatures(machine).what


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The functions that the kernel lists, as a set to change; all of the table at first."""
    known = {name for hook in HOOKS for name in hook.candidates}
    monkeypatch.setattr(resolve, "traceable_functions", lambda: known)
    monkeypatch.setattr(resolve, "listed", lambda: True)
    monkeypatch.setattr(resolve, "exists", lambda hook: not hook.module)
    monkeypatch.setattr(
        resolve, "options",
        lambda hook, number, mode, absent: [
            resolve.Attachment(hook, number, name, "fentry")
            for name in hook.candidates
            if name in known and not any(member in absent for member in hook.members)
        ],
    )  # fmt: skip
    monkeypatch.setattr(tracing, "kernel_btf", lambda: None)
    monkeypatch.setattr(tracing, "lacking", lambda _btf: set())
    return known


def _hook(name: str) -> Hook:
    (found,) = (hook for hook in HOOKS if hook.name == name)
    return found


@pytest.mark.usefixtures("functions")
def test_every_hook_has_a_line(machine: Machine) -> None:
    names = [finding.name for finding in tracing.hooks(machine)]
    assert names[: len(HOOKS)] == [hook.name for hook in HOOKS]
    assert names[len(HOOKS) :] == [
        "bio release", "heap name", "drop_caches", "inode eviction", "shmem inode eviction",
        "truncate", "shmem truncate", "invalidate", "invalidate range", "device attach",
        "device detach",
    ]  # fmt: skip


def test_a_missing_function_is_named_with_what_it_hides(functions: set[str]) -> None:
    hook = _hook("shmem_alloc_and_add_folio")
    assert tracing.hook_finding(hook, 1, set()) == ok(
        "fentry shmem_alloc_and_add_folio", name=hook.name
    )
    functions.remove("shmem_alloc_and_add_folio")
    assert "shmem_alloc_and_acct_folio" in tracing.hook_finding(hook, 1, set()).what
    functions.remove("shmem_alloc_and_acct_folio")
    found = tracing.hook_finding(hook, 1, set())
    assert (found.state, found.hides) == (State.MISSING, hook.hides)
    assert "shmem_alloc_and_add_folio or shmem_alloc_and_acct_folio" in found.what


@pytest.mark.usefixtures("functions")
def test_a_hook_that_lacks_a_member() -> None:
    found = tracing.hook_finding(_hook("io_wq_submit_work"), 1, {"io_wq_task"})
    assert found.state is State.MISSING
    assert "io_wq_task" in found.what


def test_taps(functions: set[str]) -> None:
    for tap in TAPS:
        assert tracing.tap_finding(tap, []).state is State.OK
        absent = tracing.tap_finding(tap, [tap.events[0]])
        if tap in (DIO_TAP, DMABUF_TAP):
            # A function does the same.
            assert absent.state is State.OK
            assert absent.what.startswith("fentry ")
        else:
            assert (absent.state, absent.hides) == (State.MISSING, tap.hides)
        assert bool(absent.needed) is tap.required
    functions.remove("dma_buf_export")
    assert tracing.tap_finding(DMABUF_TAP, list(DMABUF_TAP.events)).hides == DMABUF_TAP.hides


def test_unseen_hooks(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def may_not() -> frozenset[str]:
        raise PermissionError

    monkeypatch.setattr(resolve, "traceable_functions", may_not)
    user = replace(machine, uid=1000)
    assert list(tracing.hooks(user)) == [unknown(do="run it with sudo")]


def test_functions_that_root_may_not_list(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A kernel that is locked down: symbols say what could be, the doctor that it is unknown."""

    def refused(*_args: object, **_more: object) -> object:
        raise PermissionError(1, "Operation not permitted")

    resolve.traceable_functions.cache_clear()
    monkeypatch.setattr(resolve, "tracefs", lambda: str(tmp_path))
    monkeypatch.setattr("builtins.open", refused)
    monkeypatch.setattr(resolve.symbols, "functions", lambda: ["a", "b", "a", "c"])
    monkeypatch.setattr(resolve.os, "geteuid", lambda: 0)
    assert resolve.traceable_functions() == {"b", "c"}
    resolve.traceable_functions.cache_clear()
    (line,) = tracing.hooks(machine)
    assert line.state is State.UNKNOWN
    assert "lockdown" in line.do
    resolve.traceable_functions.cache_clear()
    monkeypatch.setattr(resolve.os, "geteuid", lambda: 1000)
    with pytest.raises(PermissionError):
        resolve.traceable_functions()
    monkeypatch.undo()
    resolve.traceable_functions.cache_clear()


def test_a_check_that_may_not_look(machine: Machine) -> None:
    def look(_machine: Machine) -> Finding:
        raise PermissionError(13, "Permission denied", "/sys/x")

    (line,) = examine(replace(machine, uid=1000), [Check("x", "y", look)])
    assert line.finding == Finding(
        State.UNKNOWN, "/sys/x may not be read", "run it with sudo", needed=False
    )


def test_only_what_is_needed_and_missing_forbids_recording(machine: Machine) -> None:
    def lines(*found: tuple[Finding, bool]) -> list[Line]:
        checks = [Check("x", "y", lambda _m, f=f: f, needed) for f, needed in found]
        return examine(machine, checks)

    assert records(lines((ok("x"), True), (missing("x"), False), (unknown(), True)))
    assert not records(lines((ok("x"), True), (missing("x"), True)))
    # A finding may say otherwise than its row.
    assert records(lines((Finding(State.MISSING, "x", needed=False), True)))


def test_rows_are_named_once() -> None:
    names = [(check.section, check.name) for check in CHECKS]
    assert len(set(names)) == len(names)
    sections = [section for section, _ in names]
    assert sorted(set(sections), key=sections.index) == [
        section for n, section in enumerate(sections) if n == 0 or sections[n - 1] != section
    ]


def test_json_and_text_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = main(["doctor", "--json"])
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert set(found) == {"schema", "dmatrace", "kernel", "machine", "file", "records", "checks"}
    assert (found["schema"], found["kernel"]) == (1, os.uname().release)
    assert code == (0 if found["records"] else 3)
    assert len(said.err.splitlines()) == (0 if found["records"] else 1)
    for check in found["checks"]:
        assert set(check) == _KEYS
        assert check["state"] in ("ok", "degraded", "missing", "unknown")
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["doctor"]) == code
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if len(line) > WIDTH] == []
    assert "\033" not in text
    flat = " ".join(text.split())
    for check in found["checks"]:
        assert f"{check['name']} : {check['state']}" in flat
        for part in ("what", "do", "hides"):
            assert not check[part] or " ".join(check[part].split()) in flat


def test_colour_is_put_around_states_alone() -> None:
    lines = [
        Line("a", "one", ok("fine")),
        Line("a", "two", missing("gone " * 40, "go", hides="all")),
    ]
    plain = list(verb.text(lines, False, Style()))
    colored = list(verb.text(lines, False, Style(color=True)))
    assert [line for line in plain if len(line) > WIDTH] == []
    assert any("two : \033[1;31mmissing\033[0m" in line for line in colored)
    assert plain[-1] == "Recording cannot work here. 1 ok, 1 missing."


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--file", "/none/such"]) == 1
    assert "/none/such" in capsys.readouterr().err
