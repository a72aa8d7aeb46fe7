"""dmatrace/bpf's C files, unmodified, compiled for this machine.

The kernel runs them in the guest tests.  Here their arithmetic is driven
event by event, in orders no kernel can be made to produce on demand: between
bpf_on_host/dialect.h, which stands for bcc, and bpf_on_host/driver.c.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from dmatrace.bpf import compiler, layout
from dmatrace.bpf import constants as c_constants
from dmatrace.bpf.hooks import TAPS

_HERE = Path(__file__).parent / "bpf_on_host"
THREADS_MAX = 6
_ENUMS = {
    "PG_head": 6, "__REQ_META": 12, "__REQ_RAHEAD": 19, "__REQ_SWAP": 24,
    "ITER_UBUF": 0, "ITER_IOVEC": 1, "ITER_BVEC": 2,
}  # fmt: skip


class _AnyBtf:
    """Stands for the kernel's type information: every member 8 bytes behind the last."""

    def __init__(self) -> None:
        self._offsets: dict[tuple[str, str], int] = {}

    def offset(self, struct: str, path: str) -> int:
        used = sum(1 for name, _ in self._offsets if name == struct)
        # Registers that are an array (regs[3]) take 8 members' room.
        return self._offsets.setdefault((struct, path), 8 * used)

    def enum_value(self, _enum: str, name: str) -> int:
        return _ENUMS[name]


@functools.cache
def constants(*, follow_fork: bool = True, wqe: int = 0) -> dict[str, int]:
    """What constants.py gives the C files, with made-up offsets and a small map of threads.

    ``wqe``: where struct io_wqe has its io-wq, 0 of a kernel without such structures.
    """
    found = c_constants.constants(_AnyBtf(), follow_fork=follow_fork)  # type: ignore[arg-type]
    # Arrays searched from the start, emptied before each test: not as large as the kernel's.
    found |= {"THREADS_MAX": THREADS_MAX, "WAYS_MAX": 64, "FOLLOWED_MAX": 4}
    return found | {"OFF_io_wqe_wq": wqe}


@functools.cache
def compiled(
    *, follow_fork: bool = True, wqe: int = 0, twice: bool = False, more: str = ""
) -> ctypes.CDLL:
    """The library; ``more`` is C text behind everything else.  Skips without gcc."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no gcc: apt install gcc libc6-dev")
    numbers = constants(follow_fork=follow_fork, wqe=wqe)
    flags = [f"-D{name}={value}" for name, value in numbers.items()]
    text = "\n".join(
        [
            (_HERE / "dialect.h").read_text(),
            compiler.source(TAPS, sampled=True),
            '#line 1 "driver.c"',
            (_HERE / "driver.c").read_text(),
            more,
        ]
    )
    with tempfile.TemporaryDirectory(prefix="dmatrace-test-") as directory:
        library = Path(directory) / "bpf.so"
        command = [gcc, "-x", "c", "-", "-o", str(library), "-shared", "-fPIC", "-O1", "-w"]
        command += ["-DWITH_FENTRY", "-DWITH_KPROBE", *flags]
        command += ["-DTWICE"] if twice else []
        done = subprocess.run(command, input=text, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        return ctypes.CDLL(str(library))


class Machine:
    """One compiled library with its maps empty, its clock at 0."""

    def __init__(self, *, follow_fork: bool = True, wqe: int = 0, twice: bool = False) -> None:
        self.lib = compiled(follow_fork=follow_fork, wqe=wqe, twice=twice)
        self.constants = constants(follow_fork=follow_fork, wqe=wqe)
        lib = self.lib
        lib.host_thread.restype = ctypes.POINTER(layout.Thread)
        lib.host_file.restype = ctypes.POINTER(layout.FilePages)
        lib.host_file.argtypes = [ctypes.c_uint64, ctypes.c_uint64]
        lib.host_file_io.restype = ctypes.POINTER(layout.FileIo)
        lib.host_file_io.argtypes = [ctypes.c_uint64, ctypes.c_uint64]
        lib.host_way.restype = ctypes.POINTER(layout.Way)
        lib.host_regions.restype = ctypes.POINTER(layout.Regions)
        lib.host_lost.restype = lib.host_pinned.restype = ctypes.c_uint64
        lib.host_elsewhere.restype = ctypes.c_uint64
        lib.host_reset()
        u64 = ctypes.c_uint64
        self._clock = u64.in_dll(lib, "host_clock")
        self._current = u64.in_dll(lib, "host_pid_tgid")
        self._task = u64.in_dll(lib, "host_task")
        self._comm = (ctypes.c_char * 16).in_dll(lib, "host_comm")
        self._ring_used = u64.in_dll(lib, "host_ring_used")
        self._ring_full = u64.in_dll(lib, "host_ring_full")
        self._ring = (ctypes.c_char * (1 << 22)).in_dll(lib, "host_ring")
        self._cookie = u64.in_dll(lib, "host_cookie")
        self._args = (u64 * 3).in_dll(lib, "host_args")
        self._return = u64.in_dll(lib, "host_return")

    def at(self, clock: int, tid: int = 0, tgid: int = 0, comm: bytes = b"") -> None:
        """Set the clock and the current task."""
        self._clock.value = clock
        self._current.value = tgid << 32 | tid
        self._comm.value = comm

    def tick(self, *frames: int) -> None:
        """The clock interrupts the current task in these kernel functions, or in user space."""
        found = (ctypes.c_uint64 * 128).in_dll(self.lib, "host_frames")
        found[: len(frames)] = frames
        ctypes.c_uint64.in_dll(self.lib, "host_framed").value = len(frames)
        assert self.lib.on_cpu_clock(None) == 0

    def task(self, address: int) -> None:
        """Where the current task's task_struct is."""
        self._task.value = address

    def raw(self, name: str, *arguments: int) -> None:
        """A raw tracepoint; arguments that are structures come as addresses."""
        context = (ctypes.c_uint64 * 8)(*arguments)
        assert getattr(self.lib, name)(context) == 0

    def hook(self, backend: str, cookie: int, *arguments: int, program: str = "any_hook") -> None:
        """A hooked function's entry."""
        self._fire(backend, cookie, ("entry", program), arguments, 0)

    def unhook(
        self, backend: str, cookie: int, returned: int = 0, *, program: str = "any_hook"
    ) -> None:
        """A hooked function's return."""
        self._fire(backend, cookie, ("exit", program), (), returned)

    def _fire(
        self,
        backend: str,
        cookie: int,
        what: tuple[str, str],
        arguments: tuple[int, ...],
        returned: int,
    ) -> None:
        returned &= (1 << 64) - 1
        self._cookie.value = cookie
        when, program = what
        if backend == "fentry":
            self._args[:] = (*arguments, 0, 0, 0)[:3]
            self._return.value = returned
            assert getattr(self.lib, f"{when}_{program}")(None) == 0
        else:
            registers = self.registers(*arguments, returned=returned)
            assert getattr(self.lib, f"kprobe_{program}_{when}")(registers) == 0

    def registers(
        self, *arguments: int, returned: int | None = None
    ) -> ctypes.Array[ctypes.c_uint64]:
        """A struct pt_regs."""
        found = (ctypes.c_uint64 * 16)()
        for number, value in enumerate(arguments):
            found[self.constants[f"OFF_ARG{number}"] // 8] = value
        # On some machines the result's register is also the first argument's.
        if returned is not None and not arguments:
            found[self.constants["OFF_RETURN"] // 8] = returned
        return found

    def struct(self, name: str, /, **members: int) -> ctypes.Array[ctypes.c_uint64]:
        """A kernel structure with these members (OFF_name_member), else zeros."""
        found = (ctypes.c_uint64 * 16)()
        for member, value in members.items():
            found[self.constants[f"OFF_{name}_{member}"] // 8] = value
        return found

    def thread(self, tid: int) -> layout.Thread | None:
        """The map's entry itself, not a copy."""
        found = self.lib.host_thread(tid)
        return found.contents if found else None

    def follow(self, thread: layout.Thread) -> None:
        """What the tracer does with a thread that runs already."""
        assert self.lib.host_follow(thread.tid, ctypes.byref(thread)) == 0

    def file(self, ino: int, dev: int) -> layout.FilePages | None:
        """A file's ledger."""
        found = self.lib.host_file(ino, dev)
        return found.contents if found else None

    def file_io(self, ino: int, dev: int) -> layout.FileIo | None:
        """What was read of a file, by path."""
        found = self.lib.host_file_io(ino, dev)
        return found.contents if found else None

    def ways(self) -> list[tuple[layout.WayKey, layout.Way]]:
        """Every way with its key, the map's entries themselves."""
        found: list[tuple[layout.WayKey, layout.Way]] = []
        while True:
            key = layout.WayKey()
            way = self.lib.host_way(len(found), ctypes.byref(key))
            if not way:
                return found
            found.append((key, way.contents))

    def regions(self, tgid: int) -> layout.Regions | None:
        """What is known of a process's mappings."""
        found = self.lib.host_regions(tgid)
        return found.contents if found else None

    @property
    def lost(self) -> int:
        """Records and threads that found no room."""
        return int(self.lib.host_lost())

    @property
    def pinned(self) -> tuple[int, int]:
        """(now, peak) in bytes."""
        return int(self.lib.host_pinned(0)), int(self.lib.host_pinned(1))

    def blind(self, name: str, times: int = 1) -> None:
        """The map's next look-ups find nothing, as if another CPU made the entry behind them."""
        ctypes.c_int.in_dll(self.lib, f"{name}_blind").value = times

    def ring_full(self, full: bool) -> None:
        """Whether the ring buffer refuses records."""
        self._ring_full.value = int(full)

    def raw_records(self) -> list[bytes]:
        """Everything in the ring buffer as it is there; empties it."""
        found, at = [], 0
        content = ctypes.string_at(self._ring, self._ring_used.value)
        while at < len(content):
            size = int.from_bytes(content[at : at + 8], "little")
            found.append(content[at + 8 : at + 8 + size])
            at += 8 + size
        self._ring_used.value = 0
        return found

    def records(self) -> list[ctypes.Structure]:
        """Everything in the ring buffer, as the structures of layout.py; empties it."""
        kinds: dict[int, type[ctypes.Structure]] = {
            layout.EV_SNAPSHOT: layout.Snapshot,
            layout.EV_REQUEST: layout.Request,
            layout.EV_BUFFER: layout.Buffer,
            layout.EV_INTERVAL: layout.Interval,
            layout.EV_WAIT: layout.Wait,
            layout.EV_RUN: layout.Run,
            layout.EV_CALL: layout.Call,
        }
        found, at = [], 0
        content = ctypes.string_at(self._ring, self._ring_used.value)
        while at < len(content):
            size = int.from_bytes(content[at : at + 8], "little")
            kind = kinds[int.from_bytes(content[at + 8 : at + 12], "little")]
            assert size == ctypes.sizeof(kind)
            found.append(kind.from_buffer_copy(content, at + 8))
            at += 8 + size
        self._ring_used.value = 0
        return found
