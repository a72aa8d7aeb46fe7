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


class Unseen(LoadError):
    """This user may not look at what is needed; root may, and may find it or not."""

    def __init__(self, message: str) -> None:
        super().__init__(message, do="run as root", code=3)


class ModuleMissing(LoadError):
    """The loader module is not loaded: loading it is all that is missing."""

    def __init__(self) -> None:
        super().__init__(
            "the loader module is not loaded",
            do="use dmatrace record --load-module, or make -C native load",
            code=3,
        )


class Refused(Exception):
    """The kernel refuses what this strategy exists to show; an outcome, not a failure."""

    def __init__(self, errno: int, why: str) -> None:
        super().__init__(why)
        self.errno = errno
        self.why = why
