"""Threads that are first followed in the middle of something, and one that takes a new number."""

from __future__ import annotations

import ctypes

import pytest
from bpf_host import Machine

from dmatrace.bpf import layout
from dmatrace.phases import PHASE_ID, PHASES
from dmatrace.session import follow

TGID = TID = 10
READ, PAGES, FAULT = (
    number | PHASE_ID[phase] << 8
    for number, phase in ((1, "copy"), (2, "page-cache"), (3, "fault"))
)


def _machine(number: int, **members: int) -> tuple[Machine, layout.Thread]:
    """A machine that follows one thread from 100 ns on, in the kernel by call ``number``."""
    machine = Machine()
    values = {"type": layout.EV_SNAPSHOT, "tid": TID, "tgid": TGID, "last": 100}
    machine.follow(layout.Thread(**values, **members))
    registers = (ctypes.c_int32 * 64).in_dll(machine.lib, "host_registers")
    registers[machine.constants["OFF_SYSCALL_NUMBER"] // 4] = number
    thread = machine.thread(TID)
    assert thread is not None
    return machine, thread


def _cells(thread: layout.Thread) -> dict[str, tuple[int, int, int]]:
    return {
        phase: tuple(thread.cells[n].ns)
        for n, phase in enumerate(PHASES)
        if any(thread.cells[n].ns)
    }


def _task(machine: Machine, tid: int) -> int:
    found = (ctypes.c_uint32 * 32)()
    found[machine.constants["OFF_task_struct_pid"] // 4] = tid
    machine.kept = [*getattr(machine, "kept", []), found]  # type: ignore[attr-defined]
    return ctypes.addressof(found)


def test_in_a_system_call_whose_begin_was_not_seen() -> None:
    machine, thread = _machine(0, late=layout.LATE_ALL)
    machine.at(300, TID, TGID)
    machine.unhook("fentry", PAGES)
    assert _cells(thread) == {"page-cache": (200, 0, 0)}
    machine.at(340, TID, TGID)
    machine.hook("fentry", PAGES)
    machine.at(350, TID, TGID)
    machine.unhook("fentry", PAGES)
    machine.at(360, TID, TGID)
    machine.unhook("fentry", READ)
    assert (thread.depth, PHASES[thread.phase]) == (1, "syscall")
    machine.at(400, TID, TGID)
    machine.raw("sys_exit")
    machine.at(450, TID, TGID)
    registers = machine.registers(0)
    machine.raw("sys_enter", ctypes.addressof(registers), 1)
    assert _cells(thread) == {
        "page-cache": (210, 0, 0), "syscall": (80, 0, 0), "copy": (10, 0, 0), "user": (50, 0, 0),
    }  # fmt: skip
    assert thread.late == layout.LATE_NOT
    assert thread.counters[layout.COUNTERS.index("lost_exits")] == 0


def test_in_a_fault_of_user_space() -> None:
    machine, thread = _machine(-1, late=layout.LATE_ALL)
    machine.at(300, TID, TGID)
    machine.unhook("kprobe", FAULT)
    assert _cells(thread) == {"fault": (200, 0, 0)}
    assert (thread.depth, PHASES[thread.phase]) == (0, "user")


def test_in_user_space() -> None:
    machine, thread = _machine(0, late=layout.LATE_ALL)
    machine.at(300, TID, TGID)
    registers = machine.registers(0)
    machine.raw("sys_enter", ctypes.addressof(registers), 1)
    assert _cells(thread) == {"user": (200, 0, 0)}
    assert (thread.depth, PHASES[thread.phase]) == (1, "syscall")


@pytest.mark.parametrize(("number", "phase"), [(0, "syscall"), (-1, "user")])
def test_switched_away(number: int, phase: str) -> None:
    machine, thread = _machine(number, late=layout.LATE_ALL)
    machine.at(300, TID, TGID)
    machine.raw("sched_switch", 0, _task(machine, TID), _task(machine, 5), 1)
    machine.at(400, 5, 5)
    machine.raw("sched_wakeup", _task(machine, TID))
    assert _cells(thread) == {phase: (200, 100, 0)}


def test_waiting_for_a_cpu() -> None:
    machine, thread = _machine(0, late=layout.LATE_ALL)
    machine.at(300, 5, 5)
    machine.raw("sched_switch", 1, _task(machine, 5), _task(machine, TID), 0)
    assert _cells(thread) == {"user": (0, 0, 200)}
    machine.at(310, TID, TGID)
    machine.unhook("fentry", READ)
    assert _cells(thread) == {"user": (0, 0, 200), "copy": (10, 0, 0)}


def test_blocked_behind_functions() -> None:
    thread = layout.Thread(type=layout.EV_SNAPSHOT, tid=TID, tgid=TGID, last=100)
    frames = {
        "filemap_read": (1, PHASE_ID["copy"]),
        "filemap_get_pages": (2, PHASE_ID["page-cache"]),
    }
    follow.open_frames(thread, True, ["io_schedule", "filemap_get_pages", "filemap_read"], frames)
    machine = Machine()
    machine.follow(thread)
    machine.at(200, 5, 5)
    machine.raw("sched_wakeup", _task(machine, TID))
    machine.at(230, 5, 5)
    machine.raw("sched_switch", 1, _task(machine, 5), _task(machine, TID), 0)
    machine.at(240, TID, TGID)
    machine.unhook("fentry", PAGES)
    machine.at(300, TID, TGID)
    machine.unhook("fentry", READ, 4096)
    machine.at(310, TID, TGID)
    machine.raw("sys_exit")
    found = machine.thread(TID)
    assert found is not None
    assert _cells(found) == {
        "page-cache": (10, 100, 30), "copy": (60, 0, 0), "syscall": (10, 0, 0),
    }  # fmt: skip
    assert found.counters[layout.COUNTERS.index("orphan_exits")] == 0


@pytest.mark.parametrize("room", [True, False])
def test_exec_by_a_thread_that_is_not_the_first(room: bool) -> None:
    machine, _ = _machine(0)
    machine.at(150, TID, TGID)
    machine.raw("sched_process_exit")
    machine.records()
    machine.follow(layout.Thread(type=layout.EV_SNAPSHOT, tid=11, tgid=TGID, last=100))
    for other in range(50, 50 if room else 55):
        machine.follow(layout.Thread(tid=other))
    machine.at(300, TID, TGID, b"dd")
    machine.raw("sched_process_exec", 0, 11, 0)
    assert machine.thread(11) is None
    found = machine.thread(TID)
    kinds = [(layout.SNAP_KINDS[one.kind], one.tid) for one in machine.records()]
    if not room:
        assert found is None
        assert kinds == [("exit", 11)]
        assert machine.lost == 1
        return
    # The new number's begin first: the process never has no thread.
    assert kinds == [("fork", TID), ("exit", 11)]
    assert found is not None
    assert (found.comm, found.tgid, found.last) == (b"dd", TGID, 300)
    assert sum(sum(cell.ns) for cell in found.cells) == 200


def _exec_by(machine: Machine, tid: int) -> tuple[layout.Thread, int]:
    """A second thread calls execve(2) at 120 ns, and the first one ends for it at 150.

    Its state, and its struct task_struct, which has the first one's number by then.
    """
    machine.follow(layout.Thread(type=layout.EV_SNAPSHOT, tid=tid, tgid=TGID, last=100))
    first, task = _task(machine, TID), _task(machine, TID)
    current = ctypes.c_uint64.in_dll(machine.lib, "host_task")
    machine.at(120, tid, TGID)
    current.value = task
    registers = machine.registers(0)
    number = machine.constants["NR_EXECVE"]
    machine.raw("sys_enter", ctypes.addressof(registers), number)
    machine.at(150, TID, TGID)
    current.value = first
    machine.raw("sched_process_exit")
    assert machine.thread(TID) is None
    # A dead thread has its number until it has left the CPU.
    machine.raw("sched_switch", 0, first, _task(machine, 5), 0x80)
    current.value = task
    found = machine.thread(tid)
    assert found is not None
    return found, task


def test_a_thread_that_waits_under_its_new_number_before_exec_is_told() -> None:
    """The kernel reads the program in between: that time is no CPU time."""
    machine, _ = _machine(0)
    thread, task = _exec_by(machine, 11)
    machine.at(200, TID, TGID)
    machine.raw("sched_switch", 0, task, _task(machine, 5), 2)
    machine.at(260, 5, 5)
    machine.raw("sched_wakeup", task)
    machine.at(280, 5, 5)
    machine.raw("sched_switch", 0, _task(machine, 5), task, 0)
    assert _cells(thread) == {"user": (20, 0, 0), "syscall": (80, 60, 20)}
    machine.at(300, TID, TGID, b"dd")
    machine.raw("sched_process_exec", 0, 11, 0)
    found = machine.thread(TID)
    assert found is not None
    assert _cells(found) == {"user": (20, 0, 0), "syscall": (100, 60, 20)}
    # It is known by that number alone from now on.
    machine.at(310, TID, TGID)
    machine.raw("sys_exit")
    machine.at(320, TID, TGID)
    machine.raw("sched_process_exit")
    assert machine.thread(TID) is None
    machine.at(330, 5, 5)
    machine.raw("sched_wakeup", task)


def test_an_exec_that_kills_its_thread() -> None:
    """It has its new number by then, and is told of by the one it was known by."""
    machine, _ = _machine(0)
    _exec_by(machine, 11)
    machine.records()
    machine.at(400, TID, TGID)
    machine.raw("sched_process_exit")
    assert machine.thread(11) is None
    (told,) = machine.records()
    assert (layout.SNAP_KINDS[told.kind], told.tid, told.at) == ("exit", 11, 400)


def test_an_exec_that_fails() -> None:
    """No program of that name: the thread goes on as it was."""
    machine, _ = _machine(0)
    machine.follow(layout.Thread(type=layout.EV_SNAPSHOT, tid=11, tgid=TGID, last=100))
    task = _task(machine, 11)
    ctypes.c_uint64.in_dll(machine.lib, "host_task").value = task
    machine.at(120, 11, TGID)
    registers = machine.registers(0)
    machine.raw("sys_enter", ctypes.addressof(registers), machine.constants["NR_EXECVE"])
    machine.at(130, 11, TGID)
    machine.raw("sys_exit")
    machine.at(150, 11, TGID)
    machine.raw("sched_process_exit")
    assert machine.thread(11) is None
    # Nobody has that place in memory any more, whoever has it next.
    machine.follow(layout.Thread(type=layout.EV_SNAPSHOT, tid=11, tgid=TGID, last=200))
    machine.at(300, 5, 5)
    other = (ctypes.c_uint32 * 32).from_address(task)
    other[machine.constants["OFF_task_struct_pid"] // 4] = 77
    machine.raw("sched_switch", 0, task, _task(machine, 5), 2)
    again = machine.thread(11)
    assert again is not None
    assert _cells(again) == {}
