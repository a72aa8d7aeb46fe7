"""--try: a process that loads a file, is let go, and goes on; then strategies on that file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dmatrace.analysis import law
from tests.guest.lab import SIZE_LIMIT, Lab, report

pytestmark = pytest.mark.long

MIB = 1 << 20
SIZE = 96 * MIB  # above udmabuf's limit
NAMES = ["anon-bio", "anon-dio", "udmabuf-dio"]

# Reads the first file once, by its own clock, then the second for ever: that is none of a try's.
_TARGET = """
import json, os, sys, time
model, other = sys.argv[1:]
sys.stdin.readline()
fd = os.open(model, os.O_RDONLY)
began = time.monotonic_ns()
done = 0
while piece := os.pread(fd, 1 << 20, done):
    done += len(piece)
print(json.dumps({"ns": time.monotonic_ns() - began, "bytes": done}), flush=True)
busy = os.open(other, os.O_RDONLY)
while True:
    os.pread(busy, 1 << 20, 0)
"""


@pytest.fixture(scope="module")
def ran(lab: Lab) -> tuple[dict[str, Any], dict[str, Any], str]:
    """(what the target says of itself, the document, what dmatrace said)."""
    lab.must(
        f"echo 64 >{SIZE_LIMIT} && mkdir -p /data/try && cd /data/try"
        f" && head -c {SIZE} /dev/urandom >model"
        " && head -c 1M /dev/urandom >other && sync && cat other >/dev/null"
        f" && cat >/tmp/target.py <<'END'\n{_TARGET}\nEND"
    )
    lab.must(
        "python3 - <<'END'\nimport os\nfd = os.open('/data/try/model', os.O_RDONLY)\n"
        "os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)\nEND"
    )
    out = lab.fresh("try")
    done = lab.shell(
        "rm -f /tmp/gate; mkfifo /tmp/gate;"
        " python3 /tmp/target.py /data/try/model /data/try/other </tmp/gate >/tmp/target.out &"
        " pid=$!; exec 5>/tmp/gate;"
        f" dmatrace record -p $pid --try --raise-limits -o {out} >/dev/null 2>/tmp/said & ours=$!;"
        " for n in $(seq 900); do grep -q following /tmp/said && break; sleep 0.2; done;"
        " echo go >&5;"
        " for n in $(seq 900); do [ -s /tmp/target.out ] && break; sleep 0.2; done; kill $ours;"
        " wait $ours; code=$?; kill $pid; cat /tmp/target.out; cat /tmp/said >&2; exit $code"
    )
    lab.must("rm -r /data/try")
    assert done.code == 0, done.err
    return json.loads(done.out.splitlines()[0]), report(out), done.err


Ran = tuple[dict[str, Any], dict[str, Any], str]


def test_the_target_was_measured(ran: Ran) -> None:
    own, document, _ = ran
    target = document["tried"]["target"]
    assert own["bytes"] == SIZE
    assert document["tried"]["bytes"] == target["bytes"] == SIZE
    assert target["whole"]
    assert target["way"] == "buffered"
    assert target["page_cache_added"] == pytest.approx(SIZE, rel=0.02)
    # By its own clock; runs of reads are dated by transitions, and 1 % may be left out.
    assert target["ns"] == pytest.approx(own["ns"], rel=0.1, abs=150_000_000)


def test_strategies_loaded_that_file(ran: Ran) -> None:
    _, document, said = ran
    tried = document["tried"]
    assert tried["file"] == "/data/try/model"
    assert tried["cache"] == "cold"
    assert "the page cache is dropped before each" in said
    assert [load["strategy"] for load in tried["loads"]] == NAMES
    loads = {load["strategy"]: load for load in document["loads"]}
    for row in tried["loads"]:
        load = loads[row["strategy"]]
        assert (load["file"], load["bytes"], load["verified"]) == ("/data/try/model", SIZE, True)
        assert row["ns"] == load["create_ns"] + load["io_ns"] > 0
        assert row["gain"] == pytest.approx(tried["target"]["ns"] / row["ns"])
        # The target runs on, and is no part of it.
        assert {thread["tid"] for thread in load["threads"]} == {load["threads"][0]["tid"]}
        assert load["threads"][0]["tid"] != document["loads"][0]["pid"]
    assert law.page_cache(document) == []
    assert law.block_bytes(document) == []
    assert law.closure(document) == []
    assert document["lost_events"] == 0, document["lost"]


def test_limits_are_as_before(lab: Lab, ran: Ran) -> None:
    assert "size_limit_mb: 64 -> " in ran[2]
    assert lab.must(f"cat {SIZE_LIMIT}").strip() == "64"
