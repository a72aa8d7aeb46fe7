"""Loads of files by processes that are not ours, each in another way."""

from __future__ import annotations

import math

from tests.accuracy.row import Lacks, Row, Said, lost
from tests.guest.lab import Lab
from tests.guest.loading import SIZE, WAYS
from tests.guest.test_loads import BLOCKS, record_ways

_COUNT = "the loader's own count"
#: Ways that fill a dma-buf.
_BUFFERS = ("udmabuf", "udmabuf-map", "heap", "sendfile", "bounce")


def rows(lab: Lab) -> Said:
    """As tests/guest/loading.py loads them."""
    try:
        seen = record_ways(lab)
    finally:
        lab.must("rm -rf /data/ways")
    loads = {load["ino"]: load for load in seen.document["file_loads"]}
    flows = {flow["pid"]: flow for flow in seen.document["buffer_flows"]}
    for name in WAYS:
        said, what = seen.said[name], f"{name}: {SIZE >> 20} MiB"
        if said["skipped"]:
            yield Lacks(f"{name}:", said["skipped"])
            continue
        if said["code"]:
            raise ValueError(f"way {name} ended with {said['code']}")
        load = loads[seen.inodes[name]]
        yield Row("file_loads.bytes", what, _COUNT, "bytes", load["bytes"], SIZE)
        if name in BLOCKS:
            calls = sum(part["calls"] for part in load["parts"])
            theirs = math.ceil(SIZE / BLOCKS[name])
            yield Row("file_loads.parts.calls", what, _COUNT, "calls", calls, theirs)
        if name in _BUFFERS:
            filled = flows[said["pid"]]["filled"]
            yield Row("buffer_flows.filled", what, _COUNT, "bytes", filled, SIZE)
    yield from lost("all of these", seen.document)
