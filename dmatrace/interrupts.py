"""Ctrl-C, SIGTERM and SIGHUP end a recording at a place where nothing is lost by it.

Python's own handler raises KeyboardInterrupt wherever the main thread happens to be.
Between the halves of something that belongs together that leaves one of them; in a
function that C calls (libbpf, for each record) it is printed, and then forgotten.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_holding = 0
_waiting = False


@contextmanager
def ending() -> Iterator[None]:
    """Each of the three raises KeyboardInterrupt, unless it is ignored (nohup, a job in a script).

    To be entered in the main thread.
    """
    global _waiting
    kept = {number: signal.getsignal(number) for number in _NUMBERS}
    try:
        for number, handler in kept.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, interrupt)
        yield
    finally:
        _waiting = False  # its turn never came
        for number, handler in kept.items():
            signal.signal(number, handler)


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """The handler: the first one waits for the end of what is ``held``, the second does not."""
    global _waiting
    if _holding and not _waiting:
        _waiting = True
        return
    _waiting = False
    raise KeyboardInterrupt


@contextmanager
def held() -> Iterator[None]:
    """What is done in here is done to its end, and KeyboardInterrupt raised then.

    Around a function as well: ``@held()``.  Keeps away nothing that another handler raises.
    """
    global _holding, _waiting
    _holding += 1
    try:
        yield
    finally:
        _holding -= 1
    if _waiting and not _holding:
        _waiting = False
        raise KeyboardInterrupt
