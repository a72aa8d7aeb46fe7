"""A command that is traced from its first instruction on.

Its process is made at once and waits, as a copy of ours, until it is followed;
then it becomes the user who called sudo and the command.  So what is recorded
before exec(2) is these few steps.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dmatrace.errors import DmatraceError

# What a shell returns for a command that it cannot find, or cannot run.
NOT_FOUND, NOT_RUN = 127, 126

_ABOUT_SUDO = ("SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND", "SUDO_HOME")


class NoCommand(DmatraceError):
    """The command did not start; ``code`` is what a shell would return."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message, do="check the command behind --")
        self.code = code


@dataclass(frozen=True)
class User:
    """Who a command runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def invoking(environment: Mapping[str, str]) -> User | None:
    """Who called sudo, with the environment that `sudo -u` would make; None if nobody did."""
    texts = environment.get("SUDO_UID", ""), environment.get("SUDO_GID", "")
    if not all(text.isdigit() for text in texts) or os.geteuid() != 0:
        return None
    uid, gid = (int(text) for text in texts)
    changed = {name: value for name, value in environment.items() if name not in _ABOUT_SUDO}
    try:
        known = pwd.getpwuid(uid)
    except KeyError:  # a user of a directory that is not reachable, or of a container
        return User(uid, gid, (gid,), changed)
    changed |= {
        "HOME": known.pw_dir,
        "USER": known.pw_name,
        "LOGNAME": known.pw_name,
        "SHELL": known.pw_shell or "/bin/sh",
    }
    return User(uid, gid, tuple(os.getgrouplist(known.pw_name, gid)), changed)


def user_name(user: User | None) -> str:
    """For messages."""
    uid = os.geteuid() if user is None else user.uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def find(word: str, user: User | None) -> str:
    """Where the command is.  Raises NoCommand if it is not there, or is no program."""
    path = (os.environ if user is None else user.environment).get("PATH", os.defpath)
    found = shutil.which(word, path=path)
    if found is not None:
        return found
    if os.sep in word and os.path.exists(word):
        why = "it is a directory" if os.path.isdir(word) else "it may not be executed"
        raise NoCommand(f"cannot run {word}: {why}", code=NOT_RUN)
    raise NoCommand(f"cannot run {word!r}: there is no such command", code=NOT_FOUND)


class Command:
    """One process that will be ``words``; it has our stdin, stdout, stderr and directory.

    ``close()`` ends one that was never let go.
    """

    def __init__(self, words: Sequence[str], user: User | None) -> None:
        self.words = list(words)
        self._status: int | None = None
        gate, self._gate = os.pipe()
        self._said, said = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._gate)
                os.close(self._said)
                self._become(gate, said, user)
            finally:
                os._exit(NOT_RUN)
        os.close(gate)
        os.close(said)

    def _become(self, gate: int, said: int, user: User | None) -> None:
        """In the child: wait, then be the command.  Both ends close with exec(2)."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        if not os.read(gate, 1):
            return  # whoever was to trace us has gone
        try:
            environment = dict(os.environ)
            if user is not None:
                os.setgroups(user.groups)
                os.setresgid(user.gid, user.gid, user.gid)
                os.setresuid(user.uid, user.uid, user.uid)
                environment = dict(user.environment)
            os.execvpe(self.words[0], self.words, environment)
        except OSError as error:
            os.write(said, f"{error.errno} {error.strerror}".encode())

    def go(self) -> None:
        """Let it start; returns when it runs.  Raises NoCommand if it cannot."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._gate, b".")
        said = os.read(self._said, 4096).decode()
        self._close()
        if said:
            self.wait()
            number, _, why = said.partition(" ")
            missing = number in ("2", "20")  # ENOENT, ENOTDIR
            raise NoCommand(
                f"cannot run {self.words[0]}: {why}", code=NOT_FOUND if missing else NOT_RUN
            )

    def ended(self) -> bool:
        """Whether it has ended; it stays a zombie, which proc still tells about."""
        if self._status is not None:
            return True
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:
            return True

    def signal(self, number: int) -> None:
        """Pass a signal on."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for its end: its exit code, or 128 and the signal that ended it."""
        if self._status is None:
            _, self._status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(self._status)
        return code if code >= 0 else 128 - code

    @property
    def status(self) -> int:
        """As wait(2) has it, once it was waited for."""
        return self._status or 0

    def _close(self) -> None:
        for fd in (self._gate, self._said):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._gate = self._said = -1

    def close(self) -> None:
        """End it if it was never let go."""
        waiting = self._gate >= 0
        self._close()
        if waiting:
            self.wait()
