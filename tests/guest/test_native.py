"""The loader module in the guest: what it reads, refuses and survives, and its life as a module."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from dmatrace.lab import places
from dmatrace.lab.guest import Guest
from tests.guest.lab import Lab
from tests.guest.native import contents, faults, fuzzing, limits, mappings, memfds, races, refusals
from tests.guest.native.build import Module, Results, built, loaded, run_cases


@pytest.fixture(scope="module")
def module(lab: Lab) -> Iterator[Module]:
    """Loaded for this file's tests; unloading it is a test as well (of the last one)."""
    found = built(lab)
    with loaded(lab, found):
        yield found


#: A case that unloads the module, so it does not run with the others.
_UNLOADS = "unmapped_in_flight"


class _Ran:
    """Runs each module of cases once, when its first test wants it, and a case again alone."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._results: dict[str, Results] = {}
        self._checked: set[tuple[str, str]] = set()

    def check(self, name: str, case: str) -> None:
        if (name, case) in self._checked:
            run_cases(self._lab, name, case).check(case)
            return
        self._checked.add((name, case))
        if name not in self._results:
            self._results[name] = run_cases(self._lab, name, *_cases(name))
        self._results[name].check(case)


def _cases(name: str) -> list[str]:
    return [case for case in races.CASES if case != _UNLOADS] if name == "races" else []


@pytest.fixture(scope="module")
def ran(lab: Lab, module: Module) -> _Ran:
    return _Ran(lab)


@pytest.mark.parametrize("case", contents.CASES)
def test_content(ran: _Ran, case: str) -> None:
    ran.check("contents", case)


@pytest.mark.parametrize("case", refusals.CASES)
def test_refusal(ran: _Ran, case: str) -> None:
    ran.check("refusals", case)


@pytest.mark.parametrize("case", mappings.CASES)
def test_mapping(ran: _Ran, case: str) -> None:
    ran.check("mappings", case)


@pytest.mark.parametrize("case", memfds.CASES)
def test_memfd(ran: _Ran, case: str) -> None:
    ran.check("memfds", case)


@pytest.mark.parametrize("case", faults.CASES)
def test_fault(ran: _Ran, case: str) -> None:
    ran.check("faults", case)


@pytest.mark.parametrize("case", limits.CASES)
def test_limit(ran: _Ran, case: str) -> None:
    ran.check("limits", case)


@pytest.mark.parametrize("case", [case for case in races.CASES if case != _UNLOADS])
def test_race(ran: _Ran, case: str) -> None:
    ran.check("races", case)


def test_unloaded_while_a_disk_writes_to_its_pages(lab: Lab, module: Module) -> None:
    try:
        run_cases(lab, "races", _UNLOADS).check(_UNLOADS)
    finally:
        lab.must(f"test -e /sys/module/dmatrace_loader || insmod {module.path}")


_HOLD = """
import mmap, os, sys
from dmatrace_loaders import native
with native.Device() as device:
    buffer = device.alloc(1 << 20, mmap=native.Mmap.INSERT).fd
    if sys.argv[1] == "stream":
        held = device.stream(buffer)
    elif sys.argv[1] == "mapping":
        held = mmap.mmap(buffer, 1 << 20)
    if sys.argv[1] == "device":
        held = native.Device()
if sys.argv[1] == "mapping":
    # Python's mapping has a fd of its own; only what is mapped shall be left.
    os.closerange(3, 64)
elif sys.argv[1] != "buffer":
    os.close(buffer)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("what", ["buffer", "stream", "mapping", "device"])
@pytest.mark.usefixtures("module")
def test_cannot_be_unloaded_while_in_use(lab: Lab, module: Module, what: str) -> None:
    script = lab.shared / "hold.py"
    script.write_text(_HOLD)
    done = lab.shell(
        f"coproc python3 {script} {what}; read -r line <&${{COPROC[0]}}; echo $line;"
        " rmmod dmatrace_loader; echo $?; exec {COPROC[1]}>&-; wait $COPROC_PID;"
        f" rmmod dmatrace_loader; echo $?; insmod {module.path}"
    )
    assert done.out.split() == ["held", "1", "0"], done.out + done.err
    assert "in use" in done.err
    assert done.code == 0


def test_needs(lab: Lab, module: Module) -> None:
    """What a strategy is told where the module, the device or a feature is missing."""
    script = """
import sys
from dmatrace_loaders import native
from dmatrace_loaders.errors import LoadError
for need in (native.module, native.feature(native.Feature.MMAP_INSERT_NO_RSS)):
    try:
        need(0)
        print("fine")
    except LoadError as error:
        print(error.code, error.message, "|", error.do)
"""
    path = lab.shared / "needs.py"
    path.write_text(script)
    fine, lacking = lab.must(f"python3 {path}").splitlines()
    assert fine == "fine"
    assert lacking.startswith("3 the loader module cannot do MMAP_INSERT_NO_RSS here: no module")
    user = f"setpriv --reuid 1000 --clear-groups python3 {path}"
    for line in lab.must(user).splitlines():
        assert line == "3 /dev/dmatrace_loader may not be opened | run as root"
    lab.must("mv /dev/dmatrace_loader /dev/away")
    try:
        for line in lab.must(f"python3 {path}").splitlines():
            assert line.startswith("3 /dev/dmatrace_loader is missing | ")
    finally:
        lab.must("mv /dev/away /dev/dmatrace_loader")
    lab.must("rmmod dmatrace_loader")
    try:
        for line in lab.must(f"python3 {path}").splitlines():
            assert line.startswith("3 the loader module is not loaded | use dmatrace record --load")
    finally:
        lab.must(f"insmod {module.path}")


def test_functions_for_tracers_can_be_probed(lab: Lab, module: Module) -> None:
    """Each is a symbol of its own, and kprobes take it; BTF types them where it is built."""
    names = ["alloc", "zero", "vmap", "vunmap", "read", "map", "unmap", "export", "mmap"]
    names += ["stream_write", "gather_work", "gather_wait"]
    symbols = lab.must("grep dmatrace_loader_ /proc/kallsyms").split()
    for name in names:
        assert symbols.count(f"dmatrace_loader_{name}") == 1, name
    lab.must(
        "cd /sys/kernel/tracing; for f in "
        + " ".join(f"dmatrace_loader_{name}" for name in names)
        + "; do echo p:native/$f $f; done > kprobe_events && wc -l < kprobe_events;"
        " echo > kprobe_events"
    )


def test_workers_carry_their_owner(lab: Lab, module: Module) -> None:
    """Offsets 0 and 4 of dmatrace_loader_gather_work()'s argument: tgid and tid of the caller."""
    script = lab.shared / "owner.py"
    script.write_text(
        "import os, threading\n"
        "from dmatrace_loaders import native\n"
        "open('/data/native/own', 'wb').write(bytes(4 << 20))\n"
        "def load():\n"
        "    with native.Device() as device:\n"
        "        file = os.open('/data/native/own', os.O_RDONLY)\n"
        "        os.close(device.alloc_read(file, gather=1 << 20).fd)\n"
        "        print(os.getpid(), threading.get_native_id())\n"
        "thread = threading.Thread(target=load)\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    out = lab.must(
        "mkdir -p /data/native; cd /sys/kernel/tracing; echo > trace;"
        " echo 'p:native/work dmatrace_loader_gather_work tgid=+0($arg1):u32 tid=+4($arg1):u32"
        " offset=+8($arg1):u64 length=+16($arg1):u64' > kprobe_events;"
        f" echo 1 > events/native/enable; python3 {script}; echo 0 > events/native/enable;"
        " grep -a tgid= trace; echo > kprobe_events"
    )
    first, *lines = out.splitlines()
    tgid, tid = first.split()
    assert tgid != tid
    wanted = [f"tgid={tgid} tid={tid} offset={i << 20} length={1 << 20}" for i in range(4)]
    assert sorted(line[line.index("tgid=") :] for line in lines) == wanted
    assert all("kworker" in line for line in lines)


def _fuzz(lab: Lab, module: Module, seed: int, calls: int) -> None:
    """Runs the fuzzer; the module must go afterwards, at once, and can be loaded again."""
    said = fuzzing.run(lab, seed, calls)
    print(said)
    assert int(said.split()[2]) >= calls
    lab.must(f"rmmod dmatrace_loader && insmod {module.path}")


def test_fuzz(lab: Lab, module: Module) -> None:
    _fuzz(lab, module, 1, 4000)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 6))
def test_fuzz_100000_calls(lab: Lab, module: Module, seed: int) -> None:
    _fuzz(lab, module, seed, 25_000)


#: Red zones, poison and checks of every slab object and free page, which stock
#: kernels have built in; and an electric fence around some (KFENCE).
_CHECKS = "slab_debug=FZPU slub_debug=FZPU page_poison=1 init_on_free=0 kfence.sample_interval=10"


@pytest.mark.long
def test_fuzz_with_the_kernels_own_checks(guest: Guest) -> None:
    with Guest(guest.kernel, memory=4 << 30, kernel_arguments=_CHECKS) as checked:
        shared = places.checkout() / "build" / "tests" / f"{guest.kernel.name}-checked"
        shutil.rmtree(shared, ignore_errors=True)
        shared.mkdir(parents=True)
        lab = Lab(checked, shared)
        assert "slab_debug=FZPU" in lab.must("cat /proc/cmdline")
        module = built(lab)
        with loaded(lab, module):
            _fuzz(lab, module, 7, 10_000)
        shutil.rmtree(shared)
