"""taskstats: what the kernel's delay accounting says of a thread, by another clock than ours.

pyroute2 decodes only struct taskstats of old kernels.  Its declarations are
extended here, up to version 17 (include/uapi/linux/taskstats.h): every version
appends to the one before, but for 15, which put maxima and minima into the
middle, and 16, which moved them to the end (Linux kernel commit "taskstats:
fix struct taskstats breaks backward compatibility since version 15").  What a
kernel sends is decoded as far as it reaches, so an older one lacks the newer
fields, and a newer one shows those known here.

A thread has delays only if it began while the accounting was on (the sysctl
kernel.task_delayacct; __delayacct_tsk_init() in kernel/delayacct.c); waiting
for a CPU is known of every thread.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dmatrace.errors import DmatraceError
from dmatrace.session.changes import Parameter, Say
from dmatrace.session.netlink import NLM_F_REQUEST, Socket

SYSCTL = Path("/proc/sys/kernel/task_delayacct")

#: What a thread can be delayed by, in the kernel's words (Documentation/accounting).
DELAYS = ("cpu", "blkio", "swapin", "freepages", "thrashing", "compact", "wpcopy", "irq")
_TAILED = DELAYS[3:]  # those added behind the accounting fields

_NETLINK_GENERIC = 16
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY = 16, 3
_CMD_GET = 1
_ANSWER_S = 1.0

Fields = tuple[tuple[str, str], ...]


def _delay(name: str, *, extremes: bool) -> Fields:
    ends = ("count", "delay_total", *(("delay_max", "delay_min") if extremes else ()))
    return tuple((f"{name}_{end}", "Q") for end in ends)


def layout(version: int) -> Fields:
    """The members of struct taskstats, with struct's codes; aligned as C does."""
    inside = version == 15
    head: Fields = (("version", "H"), ("ac_exitcode", "I"), ("ac_flag", "B"), ("ac_nice", "B"))
    for name in DELAYS[:3]:
        head += _delay(name, extremes=inside)
    head += (("cpu_run_real_total", "Q"), ("cpu_run_virtual_total", "Q"), ("ac_comm", "32s"))
    head += (("ac_sched", "B"), ("__pad", "3x"), ("__align", "4x"))
    head += tuple((f"ac_{name}", "I") for name in ("uid", "gid", "pid", "ppid", "btime"))
    plain = (
        "ac_etime ac_utime ac_stime ac_minflt ac_majflt coremem virtmem hiwater_rss hiwater_vm"
        " read_char write_char read_syscalls write_syscalls read_bytes write_bytes"
        " cancelled_write_bytes nvcsw nivcsw ac_utimescaled ac_stimescaled"
        " cpu_scaled_run_real_total"
    )
    head += tuple((name, "Q") for name in plain.split())
    tail = (
        *_delay("freepages", extremes=inside),
        *_delay("thrashing", extremes=inside),
        ("ac_btime64", "Q"),
        *_delay("compact", extremes=inside),
        ("ac_tgid", "I"),
        ("ac_tgetime", "Q"),
        ("ac_exe_dev", "Q"),
        ("ac_exe_inode", "Q"),
        *_delay("wpcopy", extremes=inside),
        *_delay("irq", extremes=inside),
    )
    if inside:
        return head + tail
    ends = tuple((f"{name}_delay_{end}", "Q") for name in DELAYS for end in ("max", "min"))
    stamps = tuple(
        (f"{name}_delay_max_ts_{part}", "q") for name in DELAYS for part in ("sec", "nsec")
    )
    return head + tail + ends + stamps


def fitting(version: int, size: int) -> Fields:
    """As many members of that version as ``size`` bytes hold whole."""
    found: Fields = ()
    code = ""
    for name, kind in layout(version):
        if struct.calcsize(code + kind) > size:
            break
        code += kind
        found += ((name, kind),)
    return found


@lru_cache(maxsize=1)
def _messages() -> Any:
    """pyroute2's taskstatsmsg with every version's layout."""
    # Here, not above: 0.4 s that a reader of recordings should not wait.
    from pyroute2.netlink import genlmsg, nla, nla_struct
    from pyroute2.netlink.taskstats import TStatsDecoder, taskstatsmsg

    @lru_cache
    def declared(version: int, size: int) -> Any:
        members = {"fields": fitting(version, size), "__slots__": ()}
        return type(f"tstats_v{version}", (_Decoder, nla_struct), members)

    class _Decoder(TStatsDecoder):  # type: ignore[misc]
        __slots__ = ()

        def decode(self) -> None:
            nla_struct.decode(self)
            self["ac_comm"] = self["ac_comm"].partition(b"\0")[0].decode(errors="replace")

    class _Versions:
        @staticmethod
        def versioned_stats(_self: Any, *_argv: Any, data: Any, offset: int, **_kwarg: Any) -> Any:
            length, _kind, version = struct.unpack_from("HHH", data, offset)
            return declared(version, length - 4)

    class _Message(_Versions, genlmsg):  # type: ignore[misc]
        nla_map = taskstatsmsg.nla_map

        class aggr_pid(_Versions, nla):  # type: ignore[misc]
            nla_map = taskstatsmsg.aggr_id.nla_map

        class aggr_tgid(aggr_pid):
            pass

    return _Message


@dataclass(frozen=True)
class Stats:
    """One thread's account: ns and numbers of waits since it began; tgid 0 before version 12."""

    version: int
    tid: int
    tgid: int
    comm: str
    run_ns: int
    delays: dict[str, tuple[int, int]]  # name -> (count, ns); those its version has

    def since(self, before: Stats | None) -> dict[str, tuple[int, int]]:
        """What was added to ``before``."""
        old = before.delays if before else {}
        return {
            name: (count - old.get(name, (0, 0))[0], ns - old.get(name, (0, 0))[1])
            for name, (count, ns) in self.delays.items()
        }


def decode(data: bytes, family: int) -> Iterator[Stats]:
    """The threads' accounts in a datagram of ``family``; those of whole processes are left out."""
    from pyroute2.netlink.marshal import Marshal

    marshal = Marshal()
    marshal.msg_map[family] = _messages()
    for message in marshal.parse(data):
        if message["header"]["type"] != family:
            continue
        for name, aggregate in message["attrs"]:
            if name == "TASKSTATS_TYPE_AGGR_PID":
                found = aggregate.get_attr("TASKSTATS_TYPE_STATS")
                if found is not None:
                    yield _stats(found)


def _stats(found: Any) -> Stats:
    delays = {
        name: (int(found[f"{name}_count"]), int(found[f"{name}_delay_total"]))
        for name in DELAYS
        if f"{name}_delay_total" in found
    }
    return Stats(
        version=found["version"],
        tid=found["ac_pid"],
        tgid=found.get("ac_tgid", 0),
        comm=found["ac_comm"],
        run_ns=found["cpu_run_virtual_total"],
        delays=delays,
    )


class Taskstats:
    """Asks for threads' accounts, and hears the last ones of threads that end.

    Raises OSError where the kernel has no taskstats or does not let us.
    """

    def __init__(self) -> None:
        from pyroute2.netlink import ctrlmsg
        from pyroute2.netlink.marshal import Marshal
        from pyroute2.netlink.taskstats import tcmd

        self._tcmd = tcmd
        self._asking = Socket(_NETLINK_GENERIC)
        self._hearing = Socket(_NETLINK_GENERIC)
        self.full_since = 0
        try:
            message = ctrlmsg()
            message["cmd"], message["version"] = _CTRL_CMD_GETFAMILY, 1
            message["attrs"] = [["CTRL_ATTR_FAMILY_NAME", "TASKSTATS"]]
            self._send(self._asking, message, _GENL_ID_CTRL)
            marshal = Marshal()
            marshal.msg_map[_GENL_ID_CTRL] = ctrlmsg
            (answer,) = marshal.parse(self._answer())
            if answer["header"]["error"] is not None:
                raise OSError(int(answer["header"]["error"].code), "TASKSTATS")
            self.family = int(answer.get_attr("CTRL_ATTR_FAMILY_ID"))
            self._register("REGISTER")
        except BaseException:
            self._asking.close()
            self._hearing.close()
            raise

    def _register(self, what: str) -> None:
        message = self._tcmd()
        cpus = Path("/sys/devices/system/cpu/possible").read_text().strip()
        message["cmd"], message["version"] = _CMD_GET, 1
        message["attrs"] = [[f"TASKSTATS_CMD_ATTR_{what}_CPUMASK", cpus]]
        self._send(self._hearing, message, self.family)

    def _send(self, to: Socket, message: Any, kind: int) -> None:
        message["header"]["type"] = kind
        message["header"]["flags"] = NLM_F_REQUEST
        message["header"]["pid"] = to.port
        message.encode()
        to.send(message.data)

    def _answer(self) -> bytes:
        if self._asking.wait(_ANSWER_S):
            for data in self._asking.datagrams():
                return data
        raise OSError("taskstats did not answer")

    def of(self, tid: int) -> Stats | None:
        """One thread's account now; None if it has ended, or we may not know."""
        message = self._tcmd()
        message["cmd"], message["version"] = _CMD_GET, 1
        message["attrs"] = [["TASKSTATS_CMD_ATTR_PID", tid]]
        self._send(self._asking, message, self.family)
        with contextlib.suppress(OSError):
            return next(decode(self._answer(), self.family), None)
        return None

    def process(self, pid: int) -> dict[int, Stats]:
        """The accounts of a process's threads by tid; {} if it has ended."""
        found: dict[int, Stats] = {}
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for name in os.listdir(f"/proc/{pid}/task"):
                stats = self.of(int(name))
                if stats is not None:
                    found[int(name)] = stats
        return found

    def ended(self) -> Iterator[Stats]:
        """The last accounts of threads that ended since the last call, whosever they were."""
        for data in self._hearing.datagrams():
            yield from decode(data, self.family)

    def close(self) -> None:
        """Hear no more."""
        with contextlib.suppress(OSError):
            self._register("DEREGISTER")
        self._asking.close()
        self._hearing.close()


@contextlib.contextmanager
def accounting(say: Say) -> Iterator[Taskstats | None]:
    """taskstats with delay accounting switched on meanwhile; None, said, where it cannot be.

    ``full_since`` of what is yielded is when it was switched on (CLOCK_BOOTTIME, ns): a
    thread that began before has no delays but for a CPU; 0 if it was on before us.
    """
    with contextlib.ExitStack() as stack:
        try:
            taskstats = Taskstats()
        except OSError as error:
            say(f"no delay accounting: taskstats: {error.strerror or error}")
            yield None
            return
        stack.callback(taskstats.close)
        try:
            if SYSCTL.read_text().strip() == "0":
                change = Parameter(str(SYSCTL), "1", say)
                stack.callback(change.restore)
                taskstats.full_since = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
                # proc tells a thread's begin in these ticks, rounded down.
                time.sleep(2 / os.sysconf("SC_CLK_TCK"))
        except (OSError, DmatraceError) as error:
            say(f"delay accounting may be off: {error}")
        yield taskstats
