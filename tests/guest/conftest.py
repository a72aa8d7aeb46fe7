"""One warm guest per chosen kernel for the whole run; tests run on the host and command it."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from dmatrace.errors import CannotHere
from dmatrace.lab import kernels, places
from dmatrace.lab.guest import Guest
from tests.guest.lab import Lab
from tests.guest.watched import SIZE, Watched, watch


def _chosen() -> list[kernels.Kernel]:
    """DMATRACE_KERNELS: names with commas between, or "all"; else the default guest alone."""
    names = os.environ.get("DMATRACE_KERNELS", kernels.DEFAULT.name)
    if names == "all":
        return list(kernels.KERNELS)
    return [kernels.find(name) for name in names.split(",")]


_WATCHED = ("test_record.py", "test_record_io.py", "test_record_module.py")


class _Guests(LoadScopeScheduling):
    """With -n 2 each worker has a guest, and tests that share more than that stay with one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0].rpartition("/")[2]
        kernel = re.search(r"\[(\d+\.\d+)[-\]]", nodeid)
        shared = "watched" if file in _WATCHED else file
        return f"{kernel[1] if kernel else ''} {shared}"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    return _Guests(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.fixture(scope="session", params=_chosen(), ids=lambda kernel: kernel.name)
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A running guest; tests that use it run once per kernel and share it."""
    machine = Guest(request.param, frozen=True, progress=lambda text: print(text, file=sys.stderr))
    try:
        machine.start()
    except CannotHere as error:
        pytest.skip(f"no guest: {error}")
    try:
        yield machine
    finally:
        machine.stop()


@pytest.fixture(scope="session")
def lab(guest: Guest) -> Iterator[Lab]:
    """The guest with helpers for recordings."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    shared = places.checkout() / "build" / "tests" / f"{guest.kernel.name}{worker}"
    shutil.rmtree(shared, ignore_errors=True)
    shared.mkdir(parents=True)
    yield Lab(guest, shared)
    shutil.rmtree(shared)


@pytest.fixture(scope="session")
def model(lab: Lab) -> Iterator[str]:
    """A file of SIZE bytes, above udmabuf's limit, which is made smaller for it."""
    lab.must(f"head -c {SIZE} /dev/urandom >/data/model && sync")
    yield "/data/model"
    lab.must("rm /data/model")


@pytest.fixture(scope="session")
def fentry(lab: Lab, model: str) -> Watched:
    return watch(lab, model, "fentry")


@pytest.fixture(scope="session")
def kprobe(lab: Lab, model: str) -> Watched:
    return watch(lab, model, "kprobe")


@pytest.fixture(params=["fentry", pytest.param("kprobe", marks=pytest.mark.long)])
def watched(lab: Lab, request: pytest.FixtureRequest) -> Watched:
    """The two recordings of every strategy, one after the other."""
    found: Watched = request.getfixturevalue(request.param)
    return found
