"""Errors a user sees: one line of cause, one next step, one exit code.

``main()`` alone prints them; everything below it raises.  The codes are the
contract's: 1 failed, 2 usage, 3 this machine cannot do it.
"""

from __future__ import annotations


class DmatraceError(Exception):
    """Something failed; ``do`` is the next step the user can take."""

    code = 1

    def __init__(self, message: str, *, do: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.do = do

    def __str__(self) -> str:
        return f"{self.message}; {self.do}" if self.do else self.message


class UsageError(DmatraceError):
    """The command line asks for something that does not exist or contradicts itself."""

    code = 2


class CannotHere(DmatraceError):
    """This machine lacks what the command needs."""

    code = 3
