"""Work that others do for a load, and bytes that hooks note, event by event.

The C code is the one that the kernel runs; what happens to it here is what no
kernel can be made to do on demand.
"""

from __future__ import annotations

import ctypes
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from bpf_host import Machine
from hypothesis import given, settings
from hypothesis import strategies as st

from dmatrace.bpf import layout
from dmatrace.bpf.constants import MARKER, hook_number
from dmatrace.bpf.hook import Hook
from dmatrace.bpf.hooks import DIO_COMPLETE, HOOKS
from dmatrace.bpf.hooks_module import MODULE_HOOKS
from dmatrace.bpf.program import cookie
from dmatrace.bpf.resolve import Attachment
from dmatrace.phases import PHASES

BACKENDS = ("fentry", "kprobe")
OWNER, TGID, WORKER, STRANGER = 10, 9, 70, 99
EIOCBQUEUED, EAGAIN, EINVAL = 529, 11, 22
_BY_NAME = {hook.name: hook for hook in HOOKS}
_PLAIN = [hook.name for hook in HOOKS if hook.program == "any_hook" and hook.on_entry == "none"]


class Load:
    """One followed thread, and functions that it or others enter and leave."""

    def __init__(self, backend: str, *, wqe: int = 0) -> None:
        self.machine = Machine(wqe=wqe)
        self.backend = backend
        self.clock = 1000
        self._kept: list[Any] = []
        for tid in (OWNER, OWNER + 1):
            self.machine.follow(
                layout.Thread(type=layout.EV_SNAPSHOT, tid=tid, tgid=TGID, last=self.clock)
            )

    def at(self, clock: int, tid: int, comm: bytes = b"loader") -> None:
        self.clock = clock
        self.machine.at(clock, tid, TGID if tid in (OWNER, OWNER + 1) else tid, comm)

    def mark(self, kind: str, load: int, window: int, tid: int = OWNER) -> None:
        self.at(self.clock, tid)
        number = {name: number for number, name in layout.SNAP_KINDS.items()}[kind]
        registers = self.machine.registers(MARKER, number, load, window)
        prctl = self.machine.constants["NR_PRCTL"]
        self.machine.raw("sys_enter", ctypes.addressof(registers), prctl)
        self.machine.raw("sys_exit")

    def _cookie(self, name: str) -> int:
        return cookie(Attachment(_BY_NAME[name], hook_number(name)))

    def enter(self, name: str, *arguments: int) -> None:
        program = _BY_NAME[name].program
        self.machine.hook(self.backend, self._cookie(name), *arguments, program=program)

    def leave(self, name: str, returned: int = 0) -> None:
        program = _BY_NAME[name].program
        self.machine.unhook(self.backend, self._cookie(name), returned, program=program)

    def call(self, name: str, *arguments: int, returned: int = 0) -> None:
        self.enter(name, *arguments)
        self.leave(name, returned)

    def counters(self, tid: int = OWNER) -> dict[str, int]:
        thread = self.machine.thread(tid)
        assert thread is not None
        values = zip(layout.COUNTERS, thread.counters, strict=False)
        return {name: value for name, value in values if value}

    def struct(self, name: str, **members: int) -> int:
        """The address of a kernel structure; it stays for the test."""
        found = self.machine.struct(name, **members)
        self._kept.append(found)
        return ctypes.addressof(found)

    def work(self, owner_tid: int, owner_tgid: int = TGID) -> int:
        """A struct dmatrace_loader_work of native/loader.h."""
        found = (ctypes.c_uint32 * 6)(owner_tgid, owner_tid)
        self._kept.append(found)
        return ctypes.addressof(found)


def _cells(record: Any) -> dict[str, tuple[int, ...]]:
    return {
        PHASES[n]: (*cell.ns, cell.count)
        for n, cell in enumerate(record.cells)
        if any(cell.ns) or cell.count
    }


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_worker_by_hand(backend: str) -> None:
    """One batch: it begins, reads, waits for the disk, ends; before and after it is nobody's."""
    load = Load(backend)
    machine = load.machine
    load.mark("begin", 3, 0)
    machine.records()
    for clock, tid in ((1100, WORKER), (1200, WORKER)):
        load.at(clock, tid)
        load.call("filemap_read", returned=4096)  # someone else's work
    assert machine.thread(WORKER) is None

    load.at(2000, WORKER, b"kworker/u8:3")
    load.enter("dmatrace_loader_gather_work", load.work(OWNER))
    load.at(2010, WORKER)
    load.enter("dmatrace_loader_read")
    load.at(2030, WORKER)
    load.enter("__iomap_dio_rw", load.struct("kiocb"))
    a = load.struct("task_struct", pid=WORKER)
    b = load.struct("task_struct", pid=STRANGER)
    load.at(2040, WORKER)
    machine.raw("sched_switch", 0, a, b, 2)
    load.at(2540, STRANGER)
    machine.raw("sched_wakeup", a)
    machine.raw("sched_switch", 0, b, a, 0)
    load.at(2600, WORKER)
    load.leave("__iomap_dio_rw")
    load.call("iomap_dio_complete", load.struct("iomap_dio"), returned=8192)
    load.leave("dmatrace_loader_read")
    load.at(2650, WORKER, b"kworker/u8:3")
    load.leave("dmatrace_loader_gather_work")
    assert machine.thread(WORKER) is None, "after its work it is nobody's"
    load.at(2700, WORKER)
    load.call("filemap_read", returned=4096)

    begin, read, end = machine.records()
    for record, kind in ((begin, "work-begin"), (end, "work-end")):
        assert layout.SNAP_KINDS[record.kind] == kind
        assert (record.tid, record.tgid, record.owner) == (WORKER, TGID, OWNER)
        assert (record.load_id, record.window) == (3, 0)
        assert record.comm == b"kworker/u8:3"
    assert (begin.at, end.at) == (2000, 2650)
    assert _cells(begin) == {}
    assert _cells(end) == {"module": (80, 0, 0, 1), "dio": (70, 500, 0, 2)}
    assert (read.tid, read.start, read.end) == (WORKER, 2010, 2600)
    assert HOOKS[read.hook - 1].name == "dmatrace_loader_read"
    counted = dict(zip(layout.COUNTERS, end.counters, strict=False))
    assert counted == dict.fromkeys(layout.COUNTERS, 0) | {"dio_bytes": 8192}
    assert load.counters() == {}


@pytest.mark.parametrize("backend", BACKENDS)
def test_work_for_someone_who_is_not_traced_is_not_ours(backend: str) -> None:
    load = Load(backend)
    load.at(2000, WORKER)
    for owner in (STRANGER, 0):
        load.enter("dmatrace_loader_gather_work", load.work(owner))
        load.leave("dmatrace_loader_gather_work")
    load.enter("dmatrace_loader_gather_work", 0)  # an item that cannot be read
    assert load.machine.thread(WORKER) is None
    assert load.machine.records() == []


@pytest.mark.parametrize(
    ("marks", "expected"),
    [([], (0, 0)), ([("begin", 4, 0)], (4, 0)), ([("begin", 4, 1)], (4, 1)),
     ([("begin", 4, 0), ("end", 4, 0)], (0, 0))],
)  # fmt: skip
def test_work_belongs_to_its_owner_s_window(
    marks: list[tuple[str, int, int]], expected: tuple[int, int]
) -> None:
    load = Load("fentry")
    for mark in marks:
        load.mark(*mark)
    load.machine.records()
    load.at(2000, WORKER)
    load.call("dmatrace_loader_gather_work", load.work(OWNER))
    assert [(r.load_id, r.window) for r in load.machine.records()] == [expected] * 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_end_that_was_not_seen_is_counted(backend: str) -> None:
    """The worker begins anew: what it did in between belongs to nobody."""
    load = Load(backend)
    load.at(2000, WORKER)
    load.enter("dmatrace_loader_gather_work", load.work(OWNER))
    load.at(9000, WORKER)
    load.enter("dmatrace_loader_gather_work", load.work(OWNER + 1))
    load.at(9100, WORKER)
    load.leave("dmatrace_loader_gather_work")
    assert load.counters(OWNER + 1) == {"lost_exits": 1}
    *_, last = load.machine.records()
    assert _cells(last) == {"module": (100, 0, 0, 1)}
    load.leave("dmatrace_loader_gather_work")  # once more: nothing to end
    assert load.machine.records() == []


def test_a_loading_thread_never_becomes_a_worker() -> None:
    """Its own end_work() finds no owner and leaves it alone."""
    load = Load("fentry")
    load.at(2000, OWNER)
    load.enter("dmatrace_loader_gather_work", load.work(OWNER))
    load.leave("dmatrace_loader_gather_work")
    thread = load.machine.thread(OWNER)
    assert thread is not None
    assert thread.owner == 0


@pytest.mark.parametrize("wqe", [0, 16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_io_wq_worker_works_for_the_task_of_its_io_wq(backend: str, wqe: int) -> None:
    """Before 6.4 by way of its struct io_wqe."""
    load = Load(backend, wqe=wqe)
    owner = load.struct("task_struct", pid=OWNER)
    wq = load.struct("io_wq", task=owner)
    if wqe:
        wq = load.struct("io_wqe", wq=wq)
    worker = load.struct("io_worker", wq=wq)
    load.mark("begin", 6, 0)
    load.machine.records()
    load.machine.task(load.struct("task_struct", pid=WORKER, worker_private=worker))
    load.at(2000, WORKER, b"iou-wrk-10")
    load.enter("io_wq_submit_work", 0xDEAD)
    load.at(2100, WORKER, b"iou-wrk-10")
    load.leave("io_wq_submit_work")
    begin, end = load.machine.records()
    assert (begin.owner, begin.load_id, end.comm) == (OWNER, 6, b"iou-wrk-10")
    assert _cells(end) == {"syscall": (100, 0, 0, 1)}
    load.machine.task(load.struct("task_struct", pid=WORKER))  # no worker of any io-wq
    load.call("io_wq_submit_work", 0xDEAD)
    assert load.machine.records() == []


_CALLS = st.recursive(
    st.just([]),
    lambda inner: st.lists(
        st.tuples(st.sampled_from(_PLAIN), st.integers(0, 50), inner), max_size=3
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(calls=_CALLS, gaps=st.lists(st.integers(0, 50), min_size=2, max_size=2))
def test_a_worker_s_time_closes_whatever_it_calls(
    backend: str, calls: list[Any], gaps: list[int]
) -> None:
    load = Load(backend)
    expected: dict[str, int] = {}

    def spend(phase: str, ns: int) -> None:
        expected[phase] = expected.get(phase, 0) + ns
        load.at(load.clock + ns, WORKER)

    def run(phase: str, inner: list[Any]) -> None:
        for name, ns, more in inner:
            own = _BY_NAME[name].phase or phase
            load.enter(name)
            spend(own, ns)
            run(own, more)
            load.leave(name)
            spend(phase, ns // 3)

    load.at(5000, WORKER)
    load.enter("dmatrace_loader_gather_work", load.work(OWNER))
    spend("module", gaps[0])
    run("module", calls)
    spend("module", gaps[1])
    load.leave("dmatrace_loader_gather_work")
    *_, end = load.machine.records()
    assert {phase: sum(cell[:3]) for phase, cell in _cells(end).items() if sum(cell[:3])} == {
        phase: ns for phase, ns in expected.items() if ns
    }
    assert sum(expected.values()) == end.at - 5000


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("hook", "counter"),
    [
        ("filemap_splice_read", "splice_cache_bytes"),
        ("shmem_file_splice_read", "splice_shmem_bytes"),
        ("copy_splice_read", "splice_pages_bytes"),
        ("iter_file_splice_write", "splice_write_bytes"),
        ("dmatrace_loader_stream_write", "copy_stream_bytes"),
    ],
)
def test_bytes_by_return_value(backend: str, hook: str, counter: str) -> None:
    load = Load(backend)
    load.at(1100, OWNER)
    for returned in (4096, 0, -EAGAIN, 523):
        load.call(hook, returned=returned)
    assert load.counters() == {counter: 4619}


@pytest.mark.parametrize("backend", BACKENDS)
def test_filemap_read_into_a_pipe_copies_nothing(backend: str) -> None:
    """As kernels without filemap_splice_read() do it; a read before and after is copied."""
    load = Load(backend)
    load.at(1100, OWNER)
    load.call("filemap_read", 0, 0, 0, returned=100)
    load.enter("generic_file_splice_read")
    load.call("filemap_read", 0, 0, 0, returned=4096)
    load.call("iomap_dio_complete", load.struct("iomap_dio"), returned=512)
    load.leave("generic_file_splice_read", 4608)
    load.call("filemap_read", 0, 0, 0, returned=30)
    assert load.counters() == {
        "copy_read_bytes": 130, "splice_cache_bytes": 4096, "dio_bytes": 512,
    }  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_module_s_pins_of_a_memfd_last_for_one_read(backend: str) -> None:
    load = Load(backend)
    load.at(1100, OWNER)
    load.enter("udmabuf_create")
    load.call("memfd_pin_folios", 1, 0, 0xFFFF, returned=16)
    load.leave("udmabuf_create")
    assert load.machine.pinned == (0x10000, 0x10000)
    for _ in range(2):
        load.enter("dmatrace_loader_read")
        for chunk in (0x4000, 0x4000, 0x1000):
            load.call("memfd_pin_folios", 1, 0, chunk - 1, returned=1)
            assert load.machine.pinned[0] == 0x10000 + chunk
        load.call("memfd_pin_folios", 1, 0, 0xFFF, returned=-EINVAL)
        load.leave("dmatrace_loader_read")
        assert load.machine.pinned == (0x10000, 0x14000)
    assert load.counters() == {"pin_bytes": 0x10000 + 2 * 0x9000}


def test_pinning_stays_in_the_phase_around_it() -> None:
    for outer, phase in (("udmabuf_create", "udmabuf"), ("dmatrace_loader_read", "module")):
        load = Load("fentry")
        load.at(1100, OWNER)
        load.enter(outer)
        load.enter("memfd_pin_folios", 1, 0, 0xFFF)
        load.at(1150, OWNER)
        load.leave("memfd_pin_folios", -EINVAL)
        load.leave(outer)
        thread = load.machine.thread(OWNER)
        assert thread is not None
        assert _cells(thread) == {"user": (100, 0, 0, 0), phase: (50, 0, 0, 1)}


#: Of the reads below in their file.
POSITION = 1 << 20


def _complete(
    load: Load, tapped: bool, iocb: int, size: int, *, i_size: int = 1 << 40, error: int = 0
) -> None:
    """iomap_dio_complete() in whoever's context: its own pair of probes, and what counts bytes."""
    code = error & 0xFFFFFFFF
    dio = load.struct("iomap_dio", iocb=iocb, size=size, i_size=i_size, error=code)
    if tapped:
        # What it returns: an error, or what lies before the file's end.
        ret = error or min(size, i_size - POSITION)
        load.machine.raw("iomap_dio_complete", iocb, code, ret & 0xFFFFFFFFFFFFFFFF)
    else:
        item = cookie(Attachment(DIO_COMPLETE, 0))
        load.machine.hook(load.backend, item, dio, program="dio_complete")
    load.call("iomap_dio_complete", dio, returned=77777)


@pytest.mark.parametrize("tapped", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("completer", [OWNER, OWNER + 1, STRANGER])
def test_an_asynchronous_read_counts_for_who_began_it(
    backend: str, tapped: bool, completer: int
) -> None:
    load = Load(backend)
    iocb = load.struct("kiocb", ki_complete=0xF00, ki_pos=POSITION)
    load.at(1100, OWNER)
    load.call("__iomap_dio_rw", iocb, returned=-EIOCBQUEUED)
    load.at(1200, completer)
    _complete(load, tapped, iocb, 8192, i_size=POSITION + 5000)
    assert load.counters() == {"dio_bytes": 5000}
    assert load.counters(OWNER + 1) == {}
    _complete(load, tapped, iocb, 8192)  # its kiocb is used again by someone else
    assert load.counters() == {"dio_bytes": 5000}


@pytest.mark.parametrize("tapped", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_asynchronous_read_that_must_be_asked_again(backend: str, tapped: bool) -> None:
    """io_uring first tries without waiting; what fails then is no failure of the load."""
    load = Load(backend)
    iocb = load.struct("kiocb", ki_complete=0xF00, ki_pos=POSITION)
    load.at(1100, OWNER)
    load.call("__iomap_dio_rw", iocb, returned=-EAGAIN)
    _complete(load, tapped, iocb, 4096)  # nobody asked for this one
    load.call("__iomap_dio_rw", iocb, returned=-EIOCBQUEUED)
    _complete(load, tapped, iocb, 4096, error=-EAGAIN)
    assert load.counters() == {}
    load.mark("begin", 2, 0)
    load.at(1300, WORKER)
    load.enter("dmatrace_loader_gather_work", load.work(OWNER))
    load.call("__iomap_dio_rw", iocb, returned=-EIOCBQUEUED)
    load.leave("dmatrace_loader_gather_work")
    load.at(1400, STRANGER)
    _complete(load, tapped, iocb, 4096)
    assert load.counters() == {"dio_bytes": 4096}, "the worker is gone, its owner is not"


@pytest.mark.parametrize("tapped", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_synchronous_read_counts_by_its_return_value(backend: str, tapped: bool) -> None:
    load = Load(backend)
    iocb = load.struct("kiocb")
    load.at(1100, OWNER)
    load.call("__iomap_dio_rw", iocb, returned=0xFFFF888000000000)
    _complete(load, tapped, iocb, 4096)
    load.call("__iomap_dio_rw", iocb, returned=-EINVAL)
    assert load.counters() == {"dio_bytes": 77777, "dio_errors": 1}


def _row(**more: Any) -> Hook:
    return Hook("x", None, ("a", "b"), "x", **more)


@pytest.mark.parametrize(
    ("hook", "modules", "functions", "expected"),
    [
        (_row(), (), (), True),
        (_row(module="m"), (), ("a",), False),
        (_row(module="m"), ("m",), (), True),
        (_row(unless="c"), (), (), True),
        (_row(unless="c"), (), ("c",), False),
        (_row(unless="c"), (), ("c", "b"), True),
    ],
)
def test_rows_that_a_kernel_cannot_have_hide_nothing(
    monkeypatch: pytest.MonkeyPatch, hook: Hook, modules: Any, functions: Any, expected: bool
) -> None:
    from dmatrace.bpf import resolve

    monkeypatch.setattr(resolve, "has_module", modules.__contains__)
    monkeypatch.setattr(resolve, "traceable_functions", lambda: frozenset(functions))
    assert resolve.exists(hook) == expected


def test_a_hook_without_its_members_is_not_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    from dmatrace.bpf import resolve

    monkeypatch.setattr(resolve, "traceable_functions", lambda: frozenset({"a", "b"}))
    monkeypatch.setattr(resolve, "preempts", lambda: False)
    hook = _row(members=("io_wq_task",))

    def nowhere(_hook: Hook, name: str) -> tuple[int, int] | None:
        return (7, 3) if name == "b" else None

    assert resolve.options(hook, 1, "auto", {"io_wq_task"}, nowhere) == []
    found = resolve.options(hook, 1, "auto", set(), nowhere)
    assert [(item.function, item.backend, item.btf_id, item.btf_fd) for item in found] == [
        ("a", "kprobe", 0, 0), ("b", "fentry", 7, 3), ("b", "kprobe", 0, 0),
    ]  # fmt: skip
    # fentry programs are preempted with the kernel, and kprobes are not.
    monkeypatch.setattr(resolve, "preempts", lambda: True)
    found = resolve.options(hook, 1, "auto", set(), nowhere)
    assert [item.backend for item in found] == ["kprobe", "kprobe", "fentry"]
    found = resolve.options(hook, 1, "fentry", set(), nowhere)
    assert [item.backend for item in found] == ["fentry"]


def test_every_hook_has_a_program_and_says_what_it_hides() -> None:
    names = [hook.name for hook in HOOKS]
    assert len(set(names)) == len(names)
    for hook in HOOKS:
        assert hook.candidates
        assert hook.hides
        assert hook.program in ("any_hook", "read_hook", "work")
        assert hook.phase is None or hook.phase in PHASES
        # Handlers of reads.c are in no other program.
        reads = {*_handlers("reads.c")} & {f"ENTRY_{hook.on_entry}", f"EXIT_{hook.on_exit}"}
        assert bool(reads) == (hook.program == "read_hook"), hook.name


def _handlers(source: str) -> list[str]:
    text = (resources.files("dmatrace.bpf") / source).read_text()
    return [
        f"{kind}_{name.lower()}" for kind, name in re.findall(r"case (ENTRY|EXIT)_(\w+):", text)
    ]


def test_every_function_of_the_module_that_is_for_tracers_has_a_hook() -> None:
    """In native/ they are those called dmatrace_loader_* that are never inlined."""
    sources = [path.read_text() for path in (Path(__file__).parents[2] / "native").glob("*.c")]
    found = set()
    for text in sources:
        found |= set(re.findall(r"noinline __noclone[^;{(]*?\b(dmatrace_loader_\w+)\(", text))
    hooked = {name for hook in MODULE_HOOKS for name in hook.candidates}
    assert found == {name for name in hooked if name.startswith("dmatrace_loader_")}
    for name in hooked - found:  # what is only called through a pointer is not inlined either
        assert any(re.search(rf"= {name},", text) for text in sources), name
