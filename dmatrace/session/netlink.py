"""Netlink sockets that are read when there is time: pyroute2's messages, our own waiting.

pyroute2's sockets run an event loop of their own and wait for an answer; a
recorder looks at several sources in turn and must not wait for any.  So the
message formats and their decoding are pyroute2's, and the socket is plain.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections.abc import Iterator

NLM_F_REQUEST = 1
_SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h
_ROOM = 4 << 20  # bytes that may wait: a burst of forks between two looks
_LARGEST = 1 << 16


class Socket:
    """One netlink socket, never blocking; ``missed`` counts how often its buffer overflowed.

    Raises OSError where the kernel has no such family.
    """

    def __init__(self, family: int, groups: int = 0) -> None:
        self.missed = 0
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, family
        )
        try:
            with contextlib.suppress(OSError):  # without CAP_NET_ADMIN
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
            self._socket.bind((0, groups))
            self._socket.setblocking(False)
        except OSError:
            self._socket.close()
            raise
        self.port = int(self._socket.getsockname()[0])

    def fileno(self) -> int:
        """For select(2)."""
        return self._socket.fileno()

    def send(self, message: bytes) -> None:
        """One message to the kernel."""
        self._socket.sendto(message, (0, 0))

    def datagrams(self) -> Iterator[bytes]:
        """What has come, each datagram as it is."""
        while True:
            try:
                data, sender = self._socket.recvfrom(_LARGEST)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.missed += 1
                continue
            if sender[0] == 0:  # the kernel's
                yield data

    def wait(self, seconds: float) -> bool:
        """Whether something came in that time."""
        return bool(select.select([self._socket], [], [], seconds)[0])

    def close(self) -> None:
        """Close it; twice does nothing."""
        self._socket.close()
