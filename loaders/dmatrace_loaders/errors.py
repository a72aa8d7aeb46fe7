"""Why a load cannot run or has failed.  This package does not import dmatrace."""

from __future__ import annotations


class LoadError(Exception):
    """One line of cause (``message``) and one next step (``do``).

    ``code`` is the exit code: 1 failed, 2 usage, 3 this machine cannot do it.
    """

    def __init__(self, message: str, *, do: str = "", code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.do = do
        self.code = code


class Refused(Exception):
    """The kernel refuses what this strategy exists to show; an outcome, not a failure."""

    def __init__(self, errno: int, why: str) -> None:
        super().__init__(why)
        self.errno = errno
        self.why = why
