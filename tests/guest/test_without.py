"""One hook or tap less at a time: the report renders, time closes, and the loss is named."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmatrace.analysis import law
from dmatrace.bpf.hooks import HOOKS, TAPS
from dmatrace.bpf.resolve import UNNUMBERED
from dmatrace.recording import Recording
from dmatrace_loaders.table import strategies
from tests.guest.lab import Lab
from tests.guest.native.build import built, loaded
from tests.guest.test_record_edges import _closes

ROWS = (*HOOKS, *UNNUMBERED, *(tap for tap in TAPS if not tap.required))
NAMES = [row.name for row in ROWS]
HIDES = {row.name: row.hides for row in ROWS}
# One whose handlers count bytes, one whose C file others need, one that a function stands for.
SHORT = ("filemap_read", "dma-buf events")
OF_MODULE = {hook.name for hook in HOOKS if hook.module}
PREDICTED = {name: strategy.copies for name, strategy in strategies().items()}
LAWS = {
    "page_cache": law.page_cache,
    "block_bytes": law.block_bytes,
    "copies": lambda document: law.copies(document, PREDICTED),
    "cachestat": law.cachestat,
}
# What a row is the source of; closure is nobody's.
SOURCE_OF = {
    "page-cache ledger": {"page_cache", "cachestat"},
    "block requests": {"block_bytes"},
    "filemap_read": {"copies"},
    "generic_perform_write": {"copies"},
    "shmem_file_read_iter": {"copies"},
    "dmatrace_loader_stream_write": {"copies"},
    # Its workers read all of a gather load.
    "dmatrace_loader_gather_work": {"block_bytes"},
}
CHOSEN = "anon-bio,memfd-splice-bio,udmabuf-dio,udmabuf-uring-dio,dmabuf-bio"
WITH_MODULE = f"{CHOSEN},dmabuf-gather-dio,dmabuf-splice-bio"
SIZE = 8 << 20


@pytest.fixture(scope="module")
def module(lab: Lab) -> Iterator[None]:
    with loaded(lab, built(lab)):
        yield


def _try(lab: Lab, name: str, chosen: str) -> Path:
    """A recording without ``name``, which is one of its own at each call."""
    count = len(list(lab.shared.glob("without-*.dmt")))
    place = f"without-{count}-" + re.sub(r"\W", "_", name)
    out = lab.shared / f"{place}.dmt"
    options = ("--strategy", chosen, "--size", str(SIZE), "--raise-limits", "--depth", "2", "-q")
    document = lab.record(place, *options, "--without", name)
    assert document["lost_events"] == 0
    assert document["loads"]
    for load in document["loads"]:
        assert (load["failed"], load["partial"], load["verified"]) == ("", False, True)
        assert load["stack"] == {"lost_exits": 0, "overflows": 0}, load["strategy"]
    assert _closes(document) == []
    for what, holds in LAWS.items():
        if what not in SOURCE_OF.get(name, ()):
            assert holds(document) == [], what
    (row,) = (hook for hook in document["hooks"] if hook["name"] == name)
    assert (row["attached"], row["hides"]) == (None, HIDES[name])
    command = [sys.executable, "-m", "dmatrace", "report", str(out)]
    text = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    hidden = " ".join(text.partition("hidden: hooks this kernel did not take")[2].split())
    assert HIDES[name] in hidden
    return out


@pytest.mark.parametrize("name", SHORT)
def test_some(lab: Lab, name: str) -> None:
    out = _try(lab, name, "anon-bio,udmabuf-dio,dmabuf-bio")
    if name == "dma-buf events":
        # The function that could stand for the tracepoint is not to, either.
        found = Recording.open(out).table("buffers")
        assert not (found["event"] == "export").any()


@pytest.mark.long
@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("name", NAMES)
def test_each(lab: Lab, name: str) -> None:
    functions = lab.must("sed 's/ .*//' /sys/kernel/tracing/available_filter_functions").split()
    (hook,) = [row for row in HOOKS if row.name == name] or [None]
    if hook is not None and hook.unless in functions:
        pytest.skip(f"kernel lacks: {name}, which {hook.unless} takes the place of")
    _try(lab, name, WITH_MODULE)
