"""What the block table says of a load without requests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dmatrace.analysis.hidden import hidden
from dmatrace.report import sections
from dmatrace.report.layout import Style


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("", "nothing was read from a disk"),
        ("dmatrace_loader_gather_work", "what workers read, no dmatrace_loader_gather_work"),
        ("io_wq_submit_work", "what workers read, no io_wq_submit_work"),
        ("block requests", "hidden: no block requests"),
    ],
)
def test_no_requests(gone: str, said: str) -> None:
    unknown = hidden([{"name": gone, "attached": None, "hides": "it"}] if gone else [])
    load: Any = SimpleNamespace(label="a", hidden=unknown, block={"requests": 0})
    _, line = sections.block([load], Style())
    assert said in line
