"""Which phase a kernel stack belongs to, and the BPF program that takes it."""

from __future__ import annotations

import ctypes

import pytest
from bpf_host import Machine

from dmatrace.bpf import layout, stacks
from dmatrace.bpf.hooks import HOOKS
from dmatrace.detail import EXACT, Detail, detail
from dmatrace.phases import PHASE_ID

SAMPLED = Detail("sampled", 199)


def attached(level: Detail, *missing: str) -> stacks.Owners:
    """The owners where every hook is attached that the level does not leave out."""
    rows = [
        {
            "name": hook.name,
            "function": hook.candidates[0],
            "attached": "samples" if hook.name in stacks.left_out(level) else "fentry",
        }
        for hook in HOOKS
    ]
    return stacks.owners(rows, missing)


ZEROING = ["clear_page_erms", "get_page_from_freelist", "shmem_alloc_and_add_folio"]
FAULT = [*ZEROING, "shmem_get_folio_gfp", "handle_mm_fault", "__get_user_pages"]
DIRECT = [*FAULT, "pin_user_pages_fast", "__iomap_dio_rw", "vfs_read", "do_syscall_64"]


def test_the_innermost_function_that_was_left_out_owns_it() -> None:
    owners = attached(SAMPLED)
    assert stacks.phase_of(DIRECT, "gup", owners, exact=False) == "shmem"
    assert stacks.phase_of(DIRECT[4:], "gup", owners, exact=False) == "fault"


def test_inside_an_attached_function_the_cell_knows_better() -> None:
    owners = attached(SAMPLED)
    # The stack is in the function already, its entry has not been charged yet.
    assert stacks.phase_of(DIRECT[6:], "dio", owners, exact=False) == "dio"
    inner = ["xas_load", "filemap_get_pages", "filemap_read", "handle_mm_fault"]
    assert stacks.phase_of(inner, "page-cache", owners, exact=False) == "page-cache"


def test_a_stack_of_nothing_known_is_its_cell_s() -> None:
    owners = attached(SAMPLED)
    for cell, stack in (
        ("user", []),
        ("user", ["handle_softirqs"]),
        ("syscall", ["do_syscall_64"]),
    ):
        assert stacks.phase_of(stack, cell, owners, exact=False) == cell


def test_the_stack_alone_decides_where_every_hook_is_attached() -> None:
    owners = attached(EXACT)
    assert stacks.phase_of(DIRECT, "user", owners, exact=True) == "shmem"
    assert stacks.phase_of(DIRECT[6:], "user", owners, exact=True) == "gup"
    assert stacks.phase_of(DIRECT[8:], "user", owners, exact=True) == "syscall"
    assert stacks.phase_of([], "dio", owners, exact=True) == "user"


def test_names_that_the_compiler_made() -> None:
    owners = attached(SAMPLED)
    assert stacks.phase_of(["handle_mm_fault.part.0"], "user", owners, exact=False) == "fault"


def test_a_hook_that_the_user_left_out_is_its_parent_s() -> None:
    owners = attached(SAMPLED, "shmem_alloc_and_add_folio")
    assert stacks.phase_of(DIRECT, "gup", owners, exact=False) == "fault"


def test_only_rows_of_single_pages_are_left_out() -> None:
    assert stacks.left_out(EXACT) == frozenset()
    assert stacks.left_out(SAMPLED) == {hook.name for hook in HOOKS if hook.per_page} > set()


def test_what_the_user_asks_for() -> None:
    assert detail("exact", None) == EXACT
    assert detail("exact", 99) == Detail("exact", 99)
    assert detail("sampled", None) == Detail("sampled", 199)
    assert detail("sampled", 499).hz == 499


NAMES = {0x1000: "clear_page_erms", 0x2000: "handle_mm_fault", 0x3000: ""}


@pytest.fixture
def machine() -> Machine:
    found = Machine()
    found.at(100, 7, 7)
    found.follow(
        layout.Thread(type=layout.EV_SNAPSHOT, tid=7, tgid=7, last=100, phase=PHASE_ID["gup"])
    )
    return found


def test_a_tick_writes_the_stack_of_a_traced_thread(machine: Machine) -> None:
    machine.at(150, 7, 7)
    machine.tick(0x1000, 0x2000, 0x3000)
    (record,) = machine.raw_records()
    decoder = stacks.Decoder(lambda at: NAMES[at], attached(SAMPLED), exact=False)
    assert decoder.row(record, 3) == {
        "t_ns": 150, "load_id": 3, "tid": 7, "tgid": 7, "cell": "gup", "phase": "fault",
        "functions": "[unknown];handle_mm_fault;clear_page_erms", "count": 1,
    }  # fmt: skip


def test_a_tick_in_user_space_has_no_stack(machine: Machine) -> None:
    thread = machine.thread(7)
    assert thread is not None
    thread.phase = PHASE_ID["user"]
    machine.tick()
    (record,) = machine.raw_records()
    assert len(record) == ctypes.sizeof(layout.SampleHead)
    decoder = stacks.Decoder(lambda at: NAMES[at], attached(SAMPLED), exact=False)
    row = decoder.row(record, 1)
    assert (row["cell"], row["phase"], row["functions"]) == ("user", "user", "")


def test_the_deepest_stack_fits(machine: Machine) -> None:
    machine.tick(*[0x1000] * 100)
    (record,) = machine.raw_records()
    assert len(record) == ctypes.sizeof(layout.SampleHead) + 8 * (layout.FRAMES_MAX - 1)


def test_ticks_of_other_threads_write_nothing(machine: Machine) -> None:
    machine.at(150, 8, 8)
    machine.tick(0x1000)
    assert machine.raw_records() == []


def test_a_sample_that_finds_no_room_is_counted(machine: Machine) -> None:
    machine.ring_full(True)
    machine.tick(0x1000)
    assert machine.lost == 1
