"""The phase stack: whatever happens to a thread, its cells add up to the time that passed.

The model keeps a plain list of stretches of time with an owner each, and adds
up at the end; the C code under test is the one that the kernel runs.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from dataclasses import dataclass, field

import bpf_host
import pytest
from bpf_host import Machine
from hypothesis import given, settings
from hypothesis import strategies as st

from dmatrace.bpf import layout
from dmatrace.bpf.constants import MARKER
from dmatrace.phases import PHASE_ID, PHASES

CPU, BLOCKED, RUNNABLE = "cpu", "blocked", "runnable"
MODES = (CPU, BLOCKED, RUNNABLE)
TGID, STRANGER = 10, 99
SYSCALL = 0  # the hook number of the system call itself

# Hooks as attach cookies name them: number -> (phase, whether it reports intervals).
HOOKS = {
    1: ("heap-alloc", True),
    2: ("udmabuf", True),
    3: ("fault", False),
    4: ("shmem", False),
    5: ("gup", False),
    6: ("fault", False),  # two hooks may share a phase
    63: ("module", False),
}


def _cookie(hook: int) -> int:
    phase, interval = HOOKS[hook]
    return hook | PHASE_ID[phase] << 8 | int(interval) << 16


WAIT_MIN_NS = 10_000  # waits.c


@dataclass
class Frame:
    hook: int
    phase: str
    start: int


@dataclass
class Task:
    """What should be known of one followed thread."""

    tid: int
    tgid: int
    since: int
    mode: str
    frames: list[Frame]
    now: int = 0
    over: int = 0
    woken: int = 0
    off: int = 0
    stretches: list[tuple[str, str, int]] = field(default_factory=list)
    entries: Counter[str] = field(default_factory=Counter)
    hits: Counter[int] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)

    @property
    def phase(self) -> str:
        return self.frames[-1].phase if self.frames else "user"

    def until(self, clock: int) -> None:
        """Time passes; a clock that was read before an interrupt's is no later time."""
        if clock > self.now:
            self.stretches.append((self.phase, self.mode, clock - self.now))
            self.now = clock

    def push(self, frame: Frame) -> None:
        if frame.phase != self.phase:
            self.entries[frame.phase] += 1
        self.frames.append(frame)

    def totals(self) -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        for phase, mode, ns in self.stretches:
            found[phase, mode] += ns
        return found


class Model:
    """Events in, expectation out; one method an event, named as in Both."""

    def __init__(self, *, follow_fork: bool) -> None:
        self.tasks: dict[int, Task] = {}
        self.follow_fork = follow_fork
        self.records: list[tuple[object, ...]] = []
        self.full = False
        self.lost = 0

    def _emit(self, *record: object) -> None:
        if self.full:
            self.lost += 1
        else:
            self.records.append(record)

    def _snapshot(self, task: Task, kind: str, load: int, window: int, clock: int) -> None:
        self._emit("snapshot", kind, load, window, clock, *seen_of(task))

    def sys_enter(self, clock: int, tid: int, marker: tuple[str, int, int] | None) -> None:
        if task := self.tasks.get(tid):
            task.until(clock)
            task.mode = CPU
            task.counters["lost_exits"] += len(task.frames)
            task.over = 0
            if task.phase != "syscall":
                task.entries["syscall"] += 1
            task.frames = [Frame(SYSCALL, "syscall", clock)]
            task.hits[SYSCALL] += 1
            if marker:
                self._snapshot(task, *marker, clock)

    def sys_exit(self, clock: int, tid: int) -> None:
        if task := self.tasks.get(tid):
            task.until(clock)
            task.mode = CPU
            task.counters["lost_exits"] += max(0, len(task.frames) - 1)
            task.over = 0
            task.frames = []

    def enter(self, clock: int, tid: int, hook: int) -> None:
        if task := self.tasks.get(tid):
            task.until(clock)
            task.mode = CPU
            task.hits[hook] += 1
            if len(task.frames) == layout.DEPTH_MAX:
                task.over += 1
                task.counters["overflows"] += 1
            else:
                task.push(Frame(hook, HOOKS[hook][0], clock))

    def leave(self, clock: int, tid: int, hook: int) -> None:
        if task := self.tasks.get(tid):
            task.until(clock)
            if task.over:
                task.over -= 1
                return
            open_ = [n for n, frame in enumerate(task.frames) if frame.hook == hook]
            if not open_:
                task.counters["orphan_exits"] += 1
                return
            task.counters["lost_exits"] += len(task.frames) - open_[-1] - 1
            frame = task.frames[open_[-1]]
            del task.frames[open_[-1] :]
            if HOOKS[hook][1]:
                self._emit("interval", frame.phase, tid, task.tgid, frame.start, clock)

    def switch(self, clock: int, prev: int, next_: int, preempt: bool, state: int) -> None:
        if task := self.tasks.get(prev):
            task.until(clock)
            task.mode = RUNNABLE if preempt or state == 0 else BLOCKED
            task.off, task.woken = clock, 0
        if task := self.tasks.get(next_):
            task.until(clock)
            task.mode = CPU
            # A wait that is recorded; the kernel's difference of a clock that went back is large.
            if task.off and not 0 <= clock - task.off < WAIT_MIN_NS:
                self.lost += self.full
            task.off = 0
            if task.woken:
                task.counters["wake_ns"] += max(0, clock - task.woken)
            task.woken = 0

    def wakeup(self, clock: int, tid: int) -> None:
        task = self.tasks.get(tid)
        if task and task.mode == BLOCKED:
            task.until(clock)
            task.mode = RUNNABLE
            task.woken = clock

    def fork(self, clock: int, parent: int, child: int, child_tgid: int) -> None:
        task = self.tasks.get(parent)
        if task is None or (child_tgid != task.tgid and not self.follow_fork):
            return
        if len(self.tasks) == bpf_host.THREADS_MAX:
            self.lost += 1
            return
        born = Task(child, child_tgid, clock, RUNNABLE, [Frame(SYSCALL, "syscall", 0)], clock)
        born.off = clock
        self.tasks[child] = born
        self._snapshot(born, "fork", 0, 0, clock)

    def exit(self, clock: int, tid: int) -> None:
        if task := self.tasks.get(tid):
            task.until(clock)
            self._snapshot(task, "exit", 0, 0, clock)
            del self.tasks[tid]


def seen_of(task: Task) -> tuple[object, ...]:
    """What the model says of a thread's state, in the form of seen_in()."""
    return (
        task.tid, task.tgid, task.now, task.phase, task.mode, len(task.frames), task.over,
        task.totals(), +task.entries, +task.hits, +task.counters,
    )  # fmt: skip


def seen_in(thread: layout.Thread | layout.Snapshot) -> tuple[object, ...]:
    """The same of the C structure."""
    cells: Counter[tuple[str, str]] = Counter()
    entries: Counter[str] = Counter()
    for number, cell in enumerate(thread.cells):
        if any(cell.ns) or cell.count:  # a number that is no phase's fails here
            phase = PHASES[number]
            entries[phase] = cell.count
            for mode, ns in zip(MODES, cell.ns, strict=True):
                cells[phase, mode] = ns
    return (
        thread.tid, thread.tgid, thread.last, PHASES[thread.phase], MODES[thread.mode],
        thread.depth, thread.over, +cells, +entries,
        +Counter(dict(enumerate(thread.hits))),
        +Counter(dict(zip(layout.COUNTERS, thread.counters, strict=False))),
    )  # fmt: skip


def record_of(record: ctypes.Structure) -> tuple[object, ...]:
    """A ring buffer's record in the model's form."""
    if isinstance(record, layout.Snapshot):
        kind = layout.SNAP_KINDS[record.kind]
        return (
            "snapshot", kind, record.load_id, record.window, record.at, *seen_in(record),
        )  # fmt: skip
    assert isinstance(record, layout.Interval)
    phase = PHASES[record.phase]
    return ("interval", phase, record.tid, record.tgid, record.start, record.end)


class Both:
    """Every event to the C code and to the model."""

    def __init__(self, backend: str = "fentry", *, follow_fork: bool = True) -> None:
        self.machine = Machine(follow_fork=follow_fork)
        self.model = Model(follow_fork=follow_fork)
        self.backend = backend
        self.clock = 1000
        self.fresh = 20

    def follow(self, tid: int, *, inside: bool) -> None:
        """As the tracer does: a thread that waits in a system call, or one in user space."""
        thread = layout.Thread(
            type=layout.EV_SNAPSHOT, tid=tid, tgid=TGID, last=self.clock, depth=int(inside),
            mode=layout.MODE_BLOCKED if inside else layout.MODE_CPU,
            phase=PHASE_ID["syscall" if inside else "user"],
        )  # fmt: skip
        thread.stack[0].phase = thread.phase
        self.machine.follow(thread)
        self.model.tasks[tid] = Task(
            tid, TGID, self.clock, BLOCKED if inside else CPU,
            [Frame(SYSCALL, "syscall", 0)] if inside else [], self.clock,
        )  # fmt: skip

    def _now(self, tid: int, back: int = 0) -> int:
        clock = max(1, self.clock - back)
        self.machine.at(clock, tid, TGID, b"t%d" % tid)
        return clock

    def _task(self, tid: int, tgid: int = TGID) -> ctypes.Array[ctypes.c_uint32]:
        found = (ctypes.c_uint32 * 32)()
        found[self.machine.constants["OFF_task_struct_pid"] // 4] = tid
        found[self.machine.constants["OFF_task_struct_tgid"] // 4] = tgid
        return found

    def sys_enter(
        self, tid: int, back: int = 0, marker: tuple[str, int, int] | None = None, number: int = 0
    ) -> None:
        kinds = {name: kind for kind, name in layout.SNAP_KINDS.items()}
        arguments = (MARKER, kinds[marker[0]], *marker[1:]) if marker else (MARKER + 1, 1, 2, 3)
        registers = self.machine.registers(*arguments)
        prctl = self.machine.constants["NR_PRCTL"]
        clock = self._now(tid, back)
        self.machine.raw("sys_enter", ctypes.addressof(registers), prctl if marker else number)
        self.model.sys_enter(clock, tid, marker)

    def sys_exit(self, tid: int, back: int = 0) -> None:
        clock = self._now(tid, back)
        self.machine.raw("sys_exit")
        self.model.sys_exit(clock, tid)

    def enter(self, tid: int, hook: int, back: int = 0) -> None:
        clock = self._now(tid, back)
        self.machine.hook(self.backend, _cookie(hook))
        self.model.enter(clock, tid, hook)

    def leave(self, tid: int, hook: int, back: int = 0) -> None:
        clock = self._now(tid, back)
        self.machine.unhook(self.backend, _cookie(hook))
        self.model.leave(clock, tid, hook)

    def switch(self, prev: int, next_: int, preempt: bool, state: int, back: int = 0) -> None:
        clock = self._now(prev, back)
        a, b = self._task(prev), self._task(next_)
        self.machine.raw(
            "sched_switch", int(preempt), ctypes.addressof(a), ctypes.addressof(b), state
        )
        self.model.switch(clock, prev, next_, preempt, state)

    def wakeup(self, tid: int, by: int, back: int = 0) -> None:
        clock = self._now(by, back)
        task = self._task(tid)
        self.machine.raw("sched_wakeup", ctypes.addressof(task))
        self.model.wakeup(clock, tid)

    def fork(self, parent: int, *, process: bool) -> None:
        self.fresh += 1
        tgid = self.fresh if process else TGID
        clock = self._now(parent)
        a, b = self._task(parent), self._task(self.fresh, tgid)
        self.machine.raw("sched_process_fork", ctypes.addressof(a), ctypes.addressof(b))
        self.model.fork(clock, parent, self.fresh, tgid)

    def exit(self, tid: int) -> None:
        clock = self._now(tid)
        self.machine.raw("sched_process_exit")
        self.model.exit(clock, tid)

    def ring_full(self, full: bool) -> None:
        self.machine.ring_full(full)
        self.model.full = full

    def check(self) -> None:
        """Everything the C code holds is what the model says, and it adds up."""
        for tid in (10, 11, *range(21, self.fresh + 1)):
            thread, task = self.machine.thread(tid), self.model.tasks.get(tid)
            assert (thread is None) == (task is None)
            if thread is None or task is None:
                continue
            assert seen_in(thread) == seen_of(task)
            assert sum(sum(cell.ns) for cell in thread.cells) == thread.last - task.since
            open_ = [(f.hook, PHASES[f.phase]) for f in thread.stack[: thread.depth]]
            assert open_ == [(frame.hook, frame.phase) for frame in task.frames]
        assert self.machine.thread(STRANGER) is None
        # Waits are test_bpf_block.py's.
        seen = [r for r in self.machine.records() if not isinstance(r, layout.Wait)]
        assert [record_of(record) for record in seen] == self.model.records
        self.model.records.clear()
        assert self.machine.lost == self.model.lost


_TIME = st.sampled_from([0, 1, 7, 1000, 1 << 33])
_BACK = st.sampled_from([0, 0, 0, 0, 3, 900])
_HOOK = st.sampled_from(sorted(HOOKS))
_WHO = st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 7])  # of those that live then, and a stranger
_STATE = st.sampled_from([0, 1, 2, 0x402])

# What happens -> its arguments.
_EVENTS: dict[str, tuple[st.SearchStrategy[object], ...]] = {
    "enter": (_WHO, _HOOK, _BACK),
    "leave": (_WHO, _HOOK, _BACK),
    "leave_open": (_WHO, st.integers(0, layout.DEPTH_MAX), _BACK),  # 0: the innermost
    "leave_innermost": (_WHO, st.just(0), _BACK),
    "sys_enter": (_WHO, _BACK),
    "sys_exit": (_WHO, _BACK),
    "marker": (_WHO, st.sampled_from(["begin", "end"]), st.integers(0, 9), st.integers(0, 3)),
    "switch": (_WHO, _WHO, st.booleans(), _STATE, _BACK),
    "wakeup": (_WHO, _WHO),
    "nest": (_WHO, st.integers(1, layout.DEPTH_MAX + 6), st.permutations(sorted(HOOKS)),
             st.integers(0, layout.DEPTH_MAX + 6)),
    "fork": (_WHO, st.booleans()),
    "exit": (_WHO,),
    "ring_full": (st.booleans(),),
}  # fmt: skip
_STEP = st.one_of(
    *(st.tuples(st.just(what), st.tuples(*arguments)) for what, arguments in _EVENTS.items())
)


def _apply(both: Both, what: str, arguments: tuple[object, ...]) -> None:
    living = [*sorted(both.model.tasks), STRANGER]

    def one(number: object) -> int:
        assert isinstance(number, int)
        return living[number % len(living)]

    match what, arguments:
        case "enter" | "leave" as name, (who, hook, back):
            getattr(both, name)(one(who), hook, back)
        case "leave_open" | "leave_innermost", (who, outer, back):
            task = both.model.tasks.get(one(who))
            open_ = [frame.hook for frame in task.frames if frame.hook != SYSCALL] if task else []
            if open_:
                both.leave(one(who), open_[-1 - outer % len(open_)], back)
        case "sys_enter" | "sys_exit" as name, (who, back):
            getattr(both, name)(one(who), back)
        case "marker", (who, kind, load, window):
            both.sys_enter(one(who), marker=(kind, load, window))
        case "switch", (prev, next_, preempt, state, back):
            if one(prev) != one(next_):
                both.switch(one(prev), one(next_), preempt, state, back)
        case "wakeup", (who, by):
            both.wakeup(one(who), one(by))
        case "nest", (who, depth, order, returns):
            hooks = [order[n % len(order)] for n in range(depth)]
            for hook in hooks:
                both.clock += 5
                both.enter(one(who), hook)
            for hook in hooks[::-1][:returns]:
                both.clock += 3
                both.leave(one(who), hook)
        case "fork", (who, process):
            both.fork(one(who), process=process)
        case "exit", (who,):
            both.exit(one(who))
        case "ring_full", (full,):
            both.ring_full(full)
        case _:
            raise AssertionError(what)


@pytest.mark.parametrize("follow_fork", [True, False], ids=["all-children", "threads-only"])
@pytest.mark.parametrize("backend", ["fentry", "kprobe"])
@settings(max_examples=75, deadline=None)
@given(steps=st.lists(st.tuples(_TIME, _STEP), min_size=1, max_size=60))
def test_any_sequence_adds_up(
    backend: str, follow_fork: bool, steps: list[tuple[int, tuple[str, tuple[object, ...]]]]
) -> None:
    both = Both(backend, follow_fork=follow_fork)
    both.follow(10, inside=False)
    both.follow(11, inside=True)
    for elapsed, (what, arguments) in steps:
        both.clock += elapsed
        _apply(both, what, arguments)
        both.check()


# One scenario a line: what is entered (+), left (-), or done to the only thread, and what the
# counters say then: lost exits, orphans, overflows.
_DEEP = [f"+{1 + n % 6}" for n in range(layout.DEPTH_MAX + 2)]
_SCENARIOS: dict[str, tuple[list[str], tuple[int, int, int]]] = {
    "a call": (["sys", "+1", "-1", "end"], (0, 0, 0)),
    "two lost exits": (["sys", "+1", "+2", "+3", "-1", "end"], (2, 0, 0)),
    "lost at the end of the system call": (["sys", "+1", "+2", "end"], (2, 0, 0)),
    "a lost sys_exit": (["sys", "sys", "end"], (1, 0, 0)),
    "an exit attached late": (["sys", "-1", "end"], (0, 1, 0)),
    "an exit in user space": (["-1"], (0, 1, 0)),
    "an unknown exit below an open hook": (["sys", "+1", "-2", "-1", "end"], (0, 1, 0)),
    "a fault in user space": (["+3", "-3"], (0, 0, 0)),
    "the outermost of a full stack": (["+63", *_DEEP[:15], "-63"], (15, 0, 0)),
    "none of a full stack": ([*_DEEP[:16], "-63"], (0, 1, 0)),
    "a full stack": ([*_DEEP[:16], *(f"-{h[1:]}" for h in _DEEP[15::-1])], (0, 0, 0)),
    "two too many": ([*_DEEP, *(f"-{h[1:]}" for h in _DEEP[::-1])], (0, 0, 2)),
    "too many, ended by the system call": (
        ["sys", *_DEEP[:17], "end", "sys", "+1", "-1", "end"], (15, 0, 2),
    ),
    "too many, ended by the next system call": (
        ["sys", *_DEEP[:17], "sys", "+1", "-1", "end"], (16, 0, 2),
    ),
    "an older clock": (["sys", "+1<", "-1", "end"], (0, 0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("backend", ["fentry", "kprobe"])
@pytest.mark.parametrize("name", _SCENARIOS)
def test_scenarios(name: str, backend: str) -> None:
    steps, (lost, orphans, overflows) = _SCENARIOS[name]
    both = Both(backend)
    both.follow(10, inside=False)
    for step in steps:
        both.clock += 10
        if step == "sys":
            both.sys_enter(10)
        elif step == "end":
            both.sys_exit(10)
        elif step[0] == "+":
            both.enter(10, int(step[1:].rstrip("<")), back=17 * step.endswith("<"))
        else:
            both.leave(10, int(step[1:]))
        both.check()
    thread = both.machine.thread(10)
    assert thread
    counted = dict(zip(layout.COUNTERS, thread.counters, strict=False))
    assert counted["lost_exits"] == lost
    assert counted["orphan_exits"] == orphans
    assert counted["overflows"] == overflows
    if not lost and not overflows:
        assert (thread.depth, PHASES[thread.phase]) in ((0, "user"), (16, HOOKS[4][0]))


def test_the_innermost_phase_owns_the_time_by_hand() -> None:
    """One load in numbers, without the model: a write fault inside a read, preempted once."""
    both = Both()
    machine = both.machine
    thread = layout.Thread(type=layout.EV_SNAPSHOT, tid=10, tgid=TGID, last=100)
    machine.follow(thread)
    other = STRANGER

    def at(clock: int, event: str, *arguments: int) -> None:
        both.clock = clock
        getattr(both, event)(10, *arguments)

    at(110, "sys_enter")  # user 10
    at(115, "enter", 5)  # syscall 5
    at(135, "enter", 3)  # gup 20
    at(138, "enter", 4)  # fault 3
    at(142, "switch", other, True, 0)  # shmem cpu 4
    both.clock = 242
    both.switch(other, 10, False, 1)  # shmem runnable 100
    at(250, "leave", 4)  # shmem cpu 8
    at(251, "leave", 3)  # fault 1
    at(261, "switch", other, False, 2)  # gup 10
    both.clock = 1261
    both.wakeup(10, other)  # gup blocked 1000
    both.clock = 1264
    both.switch(other, 10, False, 1)  # gup runnable 3
    at(1266, "leave", 5)  # gup 2
    at(1270, "sys_exit")  # syscall 4
    at(1290, "sys_enter")  # user 20
    found = machine.thread(10)
    assert found
    cells = {
        PHASES[n]: (*cell.ns, cell.count)
        for n, cell in enumerate(found.cells)
        if sum(cell.ns) or cell.count
    }
    assert cells == {
        "user": (30, 0, 0, 0),
        "syscall": (9, 0, 0, 2),
        "gup": (32, 1000, 3, 1),
        "fault": (4, 0, 0, 1),
        "shmem": (12, 0, 100, 1),
    }
    assert sum(sum(cell[:3]) for cell in cells.values()) == 1290 - 100
    # Runnable after its wakeup; not after it was preempted.
    assert found.counters[layout.COUNTERS.index("wake_ns")] == 3
