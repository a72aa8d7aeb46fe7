"""One warm guest per kernel for the whole run; the tests run on the host and command it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from dmatrace.errors import CannotHere
from dmatrace.lab import kernels
from dmatrace.lab.guest import Guest


@pytest.fixture(scope="session", params=kernels.KERNELS, ids=lambda kernel: kernel.name)
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A running guest; tests that use it run once per kernel and share it."""
    machine = Guest(request.param, progress=lambda text: print(text, file=sys.stderr))
    try:
        machine.start()
    except CannotHere as error:
        pytest.skip(f"no guest: {error}")
    try:
        yield machine
    finally:
        machine.stop()
