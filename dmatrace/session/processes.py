"""Processes as proc shows them: which ones are meant, and which cannot be traced and why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dmatrace.errors import CannotHere, DmatraceError, UsageError

_PF_KTHREAD = 0x00200000  # include/linux/sched.h
_INIT_PID_NS = "pid:[4026531836]"  # PROC_PID_INIT_INO, include/linux/proc_ns.h
_COMM_MAX = 15  # TASK_COMM_LEN - 1
_CGROUPS = "/sys/fs/cgroup"


@dataclass(frozen=True)
class Process:
    """One process at one moment."""

    pid: int
    comm: str
    state: str
    kernel: bool
    command: str  # its arguments with blanks between; "" for a kernel thread or a zombie


def look(pid: int, proc: str = "/proc") -> Process | None:
    """The process, or None if there is none with that number."""
    try:
        text = Path(proc, str(pid), "stat").read_text(errors="replace")
        words = Path(proc, str(pid), "cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return None
    head, _, rest = text.rpartition(")")
    fields = rest.split()
    return Process(
        pid=pid,
        comm=head.partition("(")[2],
        state=fields[0],
        kernel=bool(int(fields[6]) & _PF_KTHREAD),
        command=b" ".join(words).decode(errors="replace").strip(),
    )


def pids(proc: str = "/proc") -> Iterator[int]:
    """The numbers of all processes."""
    return (int(name) for name in os.listdir(proc) if name.isdecimal())


def check(pid: int, proc: str = "/proc") -> Process:
    """The process ``pid``.  Raises DmatraceError or UsageError if it cannot be traced."""
    if pid == os.getpid():
        raise UsageError(f"{pid} is dmatrace itself", do="name another process with -p")
    found = look(pid, proc)
    if found is None:
        raise DmatraceError(f"there is no process {pid}{_elsewhere(pid, proc)}", do="check -p")
    leader = _status(pid, "Tgid", proc)
    if leader and int(leader[0]) != pid:
        raise DmatraceError(
            f"{pid} is a thread of process {leader[0]} ({found.comm})",
            do=f"trace the process: -p {leader[0]}",
        )
    if found.state in ("Z", "X"):
        raise DmatraceError(
            f"process {pid} ({found.comm}) has ended already: a zombie, which its parent"
            " has not waited for",
            do="name one that runs",
        )
    if found.kernel:
        raise DmatraceError(
            f"{pid} ({found.comm}) is a kernel thread, which loads no file",
            do="name the process it works for",
        )
    return found


def check_namespace(proc: str = "/proc") -> None:
    """Raise CannotHere unless proc's numbers are the kernel's own, which BPF programs see."""
    where = os.readlink(f"{proc}/self/ns/pid")
    if where != _INIT_PID_NS:
        raise CannotHere(
            "in this PID namespace processes have other numbers than in the kernel's view",
            do="run dmatrace outside of the container, or with its host's (docker run --pid=host)",
        )


def _elsewhere(pid: int, proc: str) -> str:
    """Which process calls itself ``pid``, in a PID namespace of its own; "" if none does."""
    for other in pids(proc):
        numbers = _status(other, "NSpid", proc)
        if len(numbers) > 1 and numbers[-1] == str(pid):
            found = look(other, proc)
            if found is not None:
                return f" here; in its PID namespace {other} ({found.comm}) has that number"
    return ""


def _status(pid: int, name: str, proc: str) -> list[str]:
    """A line's words of proc_pid_status(5); [] without it."""
    try:
        lines = Path(proc, str(pid), "status").read_text(errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return next((line.split()[1:] for line in lines if line.startswith(f"{name}:")), [])


def alive(pid: int, proc: str = "/proc") -> bool:
    """Whether a thread of it is there and no zombie; the first may have ended before others."""
    try:
        tids = os.listdir(f"{proc}/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return any((found := look(int(tid), proc)) and found.state not in ("Z", "X") for tid in tids)


def called(comm: str, proc: str = "/proc") -> list[int]:
    """The processes of that name, as the kernel keeps it: its first 15 bytes."""
    return [
        pid
        for pid in sorted(pids(proc))
        if (found := look(pid, proc))
        and found.comm == comm[:_COMM_MAX]
        and not found.kernel
        and found.state not in ("Z", "X")
        and pid != os.getpid()
    ]


def children(pid: int, proc: str = "/proc") -> list[int]:
    """Its children and theirs, that run now."""
    found: list[int] = []
    left = [pid]
    while left:
        try:
            tasks = os.listdir(f"{proc}/{left[0]}/task")
        except (FileNotFoundError, ProcessLookupError):
            tasks = []
        for tid in tasks:
            try:
                text = Path(proc, str(left[0]), "task", tid, "children").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            new = [int(word) for word in text.split() if int(word) not in found]
            found += new
            left += new
        del left[0]
    return found


class Cgroup:
    """A control group (version 2) and what is below it.

    Raises DmatraceError if there is none at ``path``, which may begin at the root of the
    hierarchy (/system.slice/x.service) or at the file system's.
    """

    def __init__(self, path: str, root: str = _CGROUPS) -> None:
        below = os.path.normpath("/" + path.removeprefix(root).lstrip("/"))
        self.path = below
        self._directory = Path(root + below)
        if not (self._directory / "cgroup.procs").is_file():
            raise DmatraceError(
                f"there is no control group {path}", do=f"look below {root}: systemd-cgls"
            )

    def members(self) -> list[int]:
        """The processes in it now."""
        found: list[int] = []
        for directory, _, files in os.walk(self._directory):
            if "cgroup.procs" in files:
                try:
                    text = Path(directory, "cgroup.procs").read_text()
                except OSError:  # removed meanwhile, or a threaded one
                    continue
                found += [int(word) for word in text.split()]
        return found

    def holds(self, pid: int, proc: str = "/proc") -> bool:
        """Whether that process is in it."""
        try:
            lines = Path(proc, str(pid), "cgroup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return False
        mine = next((line[3:] for line in lines if line.startswith("0::")), "")
        return mine == self.path or mine.startswith(self.path.rstrip("/") + "/")

    @property
    def gone(self) -> bool:
        """Whether it was removed, or nobody is left in it."""
        try:
            return "populated 0" in (self._directory / "cgroup.events").read_text()
        except FileNotFoundError:
            return self._directory.exists() is False
