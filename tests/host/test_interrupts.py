"""Ctrl-C at a place where nothing is lost by it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dmatrace import interrupts


@pytest.fixture(autouse=True)
def ending() -> Iterator[None]:
    with interrupts.ending():
        yield


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_is_raised_at_once(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


def test_what_is_held_is_done_to_its_end() -> None:
    done = []

    @interrupts.held()
    def inner() -> None:
        done.append("inner")

    @interrupts.held()
    def outer() -> None:
        signal.raise_signal(signal.SIGTERM)
        inner()
        done.append("outer")

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            outer()
    assert done == ["inner", "outer"] * 2
    inner()  # what was raised comes once


def test_the_second_one_does_not_wait() -> None:
    @interrupts.held()
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it waited")

    with pytest.raises(KeyboardInterrupt):
        twice()
    with interrupts.held():
        pass  # it took the first one with it


def test_an_error_goes_first() -> None:
    @interrupts.held()
    def fail() -> None:
        signal.raise_signal(signal.SIGINT)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(KeyboardInterrupt), interrupts.held():
        pass


def test_afterwards_everything_is_as_it_was() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with interrupts.ending():
        pass
    assert signal.getsignal(signal.SIGHUP) is before


@pytest.mark.parametrize("ignored", ["HUP", "INT"])
def test_what_is_ignored_stays_ignored(ignored: str) -> None:
    """A recording under nohup, or in a script's background."""
    script = (
        "import signal\n"
        "from dmatrace import interrupts\n"
        "with interrupts.ending():\n"
        f"    signal.raise_signal(signal.SIG{ignored})\n"
        "    try:\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "    except KeyboardInterrupt:\n"
        "        print('ended')\n"
    )
    told = subprocess.run(
        ["sh", "-c", f'trap \'\' {ignored}; exec "$0" -c "$1"', sys.executable, script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert (told.stdout, told.stderr) == ("ended\n", "")
