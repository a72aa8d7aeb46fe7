"""Real runtimes that load a model, attached before the load and in the middle of it.

The oracles: strace of the same run, /proc/PID/io, fincore(1), schedstat, and the option that
the runtime was given.  `make runtimes` makes the image that they are in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.guest.lab import Lab
from tests.guest.runtimes import watched
from tests.guest.runtimes.said import Said
from tests.guest.runtimes.table import RUNS, Run

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def ready(lab: Lab) -> Iterator[dict[str, Any]]:
    """The runtimes' image mounted, and a model in each format."""
    if not watched.IMAGE.exists():
        pytest.skip("there is no image of runtimes: make runtimes")
    yield watched.driven(lab, "prepare", str(watched.IMAGE))
    watched.driven(lab, "tidy")


@pytest.fixture(scope="module", params=RUNS.values(), ids=RUNS.keys())
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.param
    return found


@pytest.fixture(scope="module")
def calls(lab: Lab, ready: dict[str, Any], run: Run) -> Said:
    """What strace says of a run, which is made for every runtime and mode before recordings."""
    return watched.traced(lab, run)


def test_attached_before_the_load(lab: Lab, run: Run, calls: Said) -> None:
    assert list(watched.broken(watched.recorded(lab, run, calls, "before"))) == []


def test_attached_in_the_middle(lab: Lab, run: Run, calls: Said) -> None:
    assert list(watched.under_way(watched.recorded(lab, run, calls, "during"))) == []
