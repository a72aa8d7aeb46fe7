"""The benchmark of peers: loads before, under and after a contender, of a real loader."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dmatrace.session.progress import Progress
from dmatrace.session.strategies import Recorder, Request

_PLACE = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(_PLACE))
    spec = importlib.util.spec_from_file_location("peers", _PLACE / "peers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "peers", module)
    spec.loader.exec_module(module)
    return module


def test_a_turn_of_a_contender(peers: Any, tmp_path: Path) -> None:
    """It is attached to the process that loads, for the loads in the middle."""
    file = tmp_path / "file"
    file.write_bytes(os.urandom(1 << 20))
    request = Request(
        strategies=("anon-bio",), file=str(file), block=1 << 20, jobs=1, depth=1, rounds=1,
        cold=False, verify="sampled",
    )  # fmt: skip
    seen: list[str] = []

    @contextlib.contextmanager
    def attach(pid: int) -> Iterator[None]:
        seen.append(Path(f"/proc/{pid}/cmdline").read_text())
        yield
        seen.append("ended")

    plain = Recorder(request, None, None, Progress())
    try:
        turn = peers.one_turn(peers.Contender(attach), plain, ("anon-bio",), 2)
        found = list(turn)
    finally:
        plain.close()
    assert "dmatrace_loaders" in seen[0]
    assert seen[1:] == ["ended"]
    assert [name for name, _, _ in found] == ["anon-bio"] * 2
    assert all(ratio > 0 for _, ratio, _ in found)
