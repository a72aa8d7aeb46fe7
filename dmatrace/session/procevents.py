"""Births, ends and new programs of processes, as the kernel's proc connector tells them.

drivers/connector/cn_proc.c sends an event for every fork, exec, change of name
and exit of the machine, with the time of CLOCK_MONOTONIC (ktime_get_ns()), so
no process is missed between two looks at proc, and a thread's begin and end
have a clock that is not the tracer's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dmatrace.session.netlink import Socket

_NETLINK_CONNECTOR, _CN_IDX_PROC, _CN_VAL_PROC = 11, 1, 1
_NLMSG_DONE, _LISTEN, _IGNORE = 3, 1, 2

_KINDS = {
    "PROC_EVENT_FORK": "fork",
    "PROC_EVENT_EXEC": "exec",
    "PROC_EVENT_COMM": "comm",
    "PROC_EVENT_EXIT": "exit",
}


@dataclass(frozen=True)
class Event:
    """One event.

    ``tid`` and ``tgid`` are the child's of a fork, ``parent`` then the parent's tgid.
    ``status`` is an exit's, as wait(2) has it; ``comm`` the new name of a comm event.
    """

    kind: str  # fork, exec, comm or exit
    t_ns: int
    tid: int
    tgid: int
    parent: int = 0
    status: int = 0
    comm: str = ""


def decode(data: bytes) -> Iterator[tuple[int, int, Event | None]]:
    """(CPU, its sequence number, event or None for one we do not need) of a datagram.

    The kernel's answer to our asking is left out.
    """
    # Here, not above: pyroute2 takes 0.4 s to import.
    from pyroute2.netlink.connector.cn_proc import ProcEventMarshal

    for message in ProcEventMarshal().parse(data):
        if message["event"] == "PROC_EVENT_NONE":
            continue
        kind = _KINDS.get(message["event"])
        yield message["cpu"], message["seq"], _event(kind, message) if kind else None


def _event(kind: str, message: Any) -> Event:
    who = "child" if kind == "fork" else "process"
    return Event(
        kind=kind,
        t_ns=message["timestamp_ns"],
        tid=message[f"{who}_pid"],
        tgid=message[f"{who}_tgid"],
        parent=message["parent_tgid"] if kind == "fork" else 0,
        status=message["exit_code"] if kind == "exit" else 0,
        comm=message["comm"] if kind == "comm" else "",
    )


class ProcEvents:
    """Listens from now on.  Raises OSError where the kernel has no proc connector.

    ``missed`` counts events that the kernel could not deliver, by each CPU's own numbering.
    """

    def __init__(self) -> None:
        self.missed = 0
        self._next: dict[int, int] = {}
        self._socket = Socket(_NETLINK_CONNECTOR, _CN_IDX_PROC)
        try:
            self._control(_LISTEN)
        except OSError:
            self._socket.close()
            raise

    def _control(self, action: int) -> None:
        from pyroute2.netlink.connector.cn_proc import proc_event_control

        message = proc_event_control()
        message["action"] = action
        message["idx"], message["val"], message["len"] = _CN_IDX_PROC, _CN_VAL_PROC, 4
        message["header"]["type"] = _NLMSG_DONE
        message["header"]["pid"] = self._socket.port
        message.encode()
        self._socket.send(message.data)

    def fileno(self) -> int:
        """For select(2)."""
        return self._socket.fileno()

    def take(self) -> Iterator[Event]:
        """What has happened since the last call."""
        for data in self._socket.datagrams():
            for cpu, number, event in decode(data):
                self.missed += max(0, number - self._next.get(cpu, number))
                self._next[cpu] = number + 1
                if event is not None:
                    yield event

    def close(self) -> None:
        """Listen no more."""
        with contextlib.suppress(OSError):
            self._control(_IGNORE)
        self._socket.close()
