"""The loader process, driven step by step over a socket.

The loaders run in a process of their own so that only loading is traced: the
recorder prepares, lets go, and reads its ledgers while the loader waits at a
gate.  One JSON document per line in both directions.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from dmatrace.errors import CannotHere, DmatraceError


class LoadFailed(DmatraceError):
    """The load itself failed, or its process ``died``; the recording goes on with the next."""

    died = False


class Runner:
    """One ``python3 -m dmatrace_loaders.runner`` child."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._child = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "dmatrace_loaders.runner",
                    "--control-fd",
                    str(theirs.fileno()),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment(),
            )
        self._socket = ours
        self._pending = b""
        self.pid = self._child.pid
        try:
            self._answer("hello")
        except BaseException:
            self.close()
            raise

    def ask(self, step: str, **what: Any) -> None:
        """Send one step; ``wait`` takes its answer."""
        try:
            self._socket.sendall(json.dumps({step: what}).encode() + b"\n")
        except OSError:
            raise self._died() from None

    def wait(
        self, expected: str, idle: Callable[[], None] | None = None, every: float = 0.2
    ) -> Any:
        """The answer to the last step; ``idle`` is called ``every`` so many seconds until then.

        Raises LoadFailed or CannotHere when the loader says so.
        """
        return self._answer(expected, idle, every)

    def _answer(
        self, expected: str, idle: Callable[[], None] | None = None, every: float = 0.2
    ) -> Any:
        while b"\n" not in self._pending:
            readable, _, _ = select.select([self._socket], [], [], every if idle else None)
            if readable:
                try:
                    data = self._socket.recv(1 << 16)
                except ConnectionResetError:
                    data = b""  # it ended with our last step unread
                if not data:
                    raise self._died()
                self._pending += data
            elif idle:
                idle()
        line, self._pending = self._pending.split(b"\n", 1)
        answer = json.loads(line)
        if "cannot" in answer:
            said = answer["cannot"]
            kind = CannotHere if said.get("code") == 3 else DmatraceError
            raise kind(said["why"], do=said.get("do", ""))
        if "failed" in answer:
            raise LoadFailed(answer["failed"]["why"], do=answer["failed"].get("do", ""))
        return answer if expected in ("verified",) else answer[expected]

    def _died(self) -> LoadFailed:
        code = self._child.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        error = LoadFailed(
            f"the loader process ended unexpectedly ({how})",
            do="dmesg tells whether the kernel's OOM killer ended it",
        )
        error.died = True
        return error

    def close(self) -> None:
        """End the child, politely first."""
        if self._child.poll() is None:
            with contextlib.suppress(OSError):
                self._socket.sendall(b'{"bye": {}}\n')
        self._socket.close()
        deadline = time.monotonic() + 2
        while self._child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()


def environment() -> dict[str, str]:
    """The child finds the same packages as we do, wherever they were found."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return environment
