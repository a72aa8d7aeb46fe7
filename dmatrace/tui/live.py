"""A live view's source: a recorder as a child process, and the tail of what it writes.

The child is ``dmatrace record`` with the user's own options, writing into a
directory of ours.  It has a session of its own, so that Ctrl-C and Ctrl-Z reach
the view alone; it gets SIGINT when the view ends (a recorder then keeps what it
has, and puts back what it changed) and, by the kernel, when the view is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from dmatrace.errors import CannotHere, DmatraceError, UsageError
from dmatrace.recording import schema
from dmatrace.recording.tail import Tail, prepare
from dmatrace.tui.fold import COLUMNS, Fold
from dmatrace.tui.model import Snapshot

_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
#: A recorder ends its load, restores what it changed, and detaches a hundred probes, which took
#: seven seconds in an emulated guest.
_STOP_S = 30.0
_WRITE_S = 600.0  # the same of many loads, whose recording is kept
_SAY_S = 2.0  # who left the view does not wait longer without a word
_SAID = 4096  # bytes of its stderr that are looked at


class Live:
    """Follows a recorder that it started.  Make it in the main thread.

    ``arguments`` are those of ``dmatrace record`` without ``-o``; ``keep`` names the
    recording where the user wants to have it, else it is removed at the end.  ``group``:
    what stops it reaches the command that it runs as well, as Ctrl-C on a terminal does.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        title: str,
        keep: str | None = None,
        group: bool = False,
        recorder: Sequence[str] = (sys.executable, "-m", "dmatrace", "record"),
    ) -> None:
        self._title = title
        self._place = Path(tempfile.mkdtemp(prefix="dmatrace-top-"))
        self._said = self._place / "stderr"
        self._recording = Path(keep) if keep else self._place / "live.dmt"
        self._tail: Tail | None = None
        self._fold = Fold()
        self._kept = keep
        self._paused = False
        self._shown: Snapshot | None = None
        self._closed = False
        self._group = group
        self._before = self._stamp()  # of a recording that this one replaces, with --force
        self.said: tuple[str, ...] = ()
        atexit.register(self.close)
        try:
            with self._said.open("wb") as said:
                self._child = subprocess.Popen(
                    [
                        *recorder,
                        "-o",  # not behind a command's words
                        str(self._recording),
                        *arguments,
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    start_new_session=True,
                    preexec_fn=_end_with_us,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )
        except BaseException:
            shutil.rmtree(self._place, ignore_errors=True)
            raise

    @property
    def pid(self) -> int:
        """The recorder's."""
        return self._child.pid

    @property
    def code(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._child.returncode

    def _stamp(self) -> tuple[int, int] | None:
        """Which recording is in its place."""
        try:
            status = (self._recording / schema.META).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino

    def read(self) -> Snapshot:
        """What the recorder has written by now.

        Raises its error when it ended without a recording.
        """
        ended = self._child.poll() is not None  # before reading: what it wrote last is read
        if self._tail is None and self._stamp() not in (None, self._before):
            self._tail = Tail.open(self._recording, COLUMNS)
        if self._tail is None:
            if ended:
                raise self._failed()
            prepare()  # while the recorder compiles, not in its first load
            return Fold().snapshot({}, 0, title=self._title, state="starting", note=self._doing())
        for table, rows in self._tail.poll().items():
            self._fold.feed(table, rows)
        if self._paused and self._shown is not None:
            return self._shown
        state, note = ("live", "") if not ended else ("ended", self._ending())
        now = self._fold.last if ended else time.monotonic_ns()
        snapshot = self._fold.snapshot(
            self._tail.meta, now, title=self._title, state=state, note=note, paused=self._paused
        )
        self._fold.settle()
        if self._paused:
            self._shown = snapshot
        return snapshot

    def pause(self, paused: bool) -> None:
        """The recorder goes on; what it writes is read and not shown."""
        self._paused, self._shown = paused, None

    def step(self, samples: int) -> None:
        pass

    def faster(self, steps: int) -> None:
        pass

    def jump(self, at: int) -> None:
        pass

    def load(self, step: int) -> None:
        pass

    def _lines(self) -> list[str]:
        """The last lines the recorder said."""
        with contextlib.suppress(OSError), self._said.open("rb") as said:
            said.seek(0, os.SEEK_END)
            said.seek(max(0, said.tell() - _SAID))
            return said.read().decode(errors="replace").splitlines()
        return []

    def _doing(self) -> str:
        lines = [line for line in self._lines() if line.strip()]
        return lines[-1].removeprefix("dmatrace: ") if lines else "starting the recorder"

    def _ending(self) -> str:
        code = self._child.returncode
        if code == 0:
            return "the recorder has finished"
        said = [line for line in self._lines() if line.startswith("dmatrace: ")]
        why = said[-1].removeprefix("dmatrace: ") if said else f"exit code {code}"
        return f"the recorder ended: {why}"

    def _failed(self) -> DmatraceError:
        """Why there is no recording, in the recorder's own words."""
        code = self._child.returncode
        kind = {2: UsageError, 3: CannotHere}.get(code, DmatraceError)
        text = self._doing()
        for line in self._lines():
            if line.startswith("dmatrace"):
                text = line.removeprefix("dmatrace: ")
        return kind(text if self._lines() else f"the recorder ended with code {code}")

    def close(self) -> None:
        """Stop the recorder, wait until it has put everything back, remove what is ours.

        Then ``said`` has the last errors of its stderr.
        """
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        try:
            self._stop()
            self.said = tuple(line for line in self._lines() if line.startswith("dmatrace: "))
        finally:
            shutil.rmtree(self._place, ignore_errors=True)

    def _stop(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self._child.poll() is not None:
                return
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if self._group else os.kill)(self._child.pid, number)
            # A second signal would cut off what a recorder of many loads still has to write.
            patient = self._kept is not None and number == signal.SIGINT
            said = ""
            if patient:
                said = f"{self._kept} is being written; Ctrl-C leaves it as it is"
            elif number == signal.SIGINT:
                said = "the recorder is detaching its probes"
            with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                self._ended(_WRITE_S if patient else _STOP_S, said)

    def _ended(self, seconds: float, said: str) -> None:
        """Wait for the recorder, and say so if that takes long; TimeoutExpired."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(min(_SAY_S, seconds))
            return
        if said:
            print(f"dmatrace: {said}", file=sys.stderr, flush=True)
        self._child.wait(seconds)


def _end_with_us() -> None:
    """In the child: SIGINT when the thread that started it is gone."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
