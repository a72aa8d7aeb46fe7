"""Files of odd sizes and places, warm loads, missing hooks, and recorders that are stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from statistics import median_low
from typing import Any

import pytest

from dmatrace.analysis import law
from dmatrace_loaders.table import strategies
from tests.guest.lab import ATTACHED, SIZE_LIMIT, Lab, all_that_run, report

MIB = 1 << 20
PREDICTED = {name: strategy.copies for name, strategy in strategies().items()}
# A busy host may take the CPU away between a clock and its mark, but not usually.
SHORT_NS, USUAL_NS = 20_000_000, 5_000_000
ODD = 67_110_098  # 64 MiB, a page and 1138 bytes: the tail is no multiple of anything


@pytest.fixture(scope="module")
def place(lab: Lab) -> Iterator[str]:
    """A directory of the guest's data disk with the files of this module."""
    lab.must(
        "mkdir /data/edges /tmp/edges && cd /data/edges"
        f" && printf x >one && head -c {ODD} /dev/urandom >odd && truncate -s 32M sparse"
        " && printf y | dd of=sparse bs=1 seek=20000000 conv=notrunc status=none"
        " && head -c 32M /dev/urandom >/tmp/edges/memory"
        # The first read of a file writes its atime (relatime), and for that reads its inode.
        " && cat one odd sparse >/dev/null && sync"
    )
    yield "/data/edges"
    lab.must("rm -r /data/edges /tmp/edges")


def _whole(document: dict[str, Any], strategy: str = "all") -> None:
    """Everything asked for ran, its content was compared, and its time adds up."""
    names = all_that_run(document) if strategy == "all" else strategy.split(",")
    assert [load["strategy"] for load in document["loads"]] == names
    assert document["lost_events"] == 0
    assert document["complete"]
    for load in document["loads"]:
        assert (load["failed"], load["partial"]) == ("", False)
        assert load["verified"] is (None if load["refused"] else True), load["strategy"]
    assert _closes(document) == []
    assert law.cachestat(document) == []


def _closes(document: dict[str, Any]) -> list[str]:
    """Law 1 where a load takes milliseconds: the marks' own time is a large share there."""
    gaps, broken = [], []
    for load in document["loads"]:
        for thread in load["threads"]:
            total = sum(
                phase[f"{mode}_ns"]
                for phase in thread["phases"]
                for mode in ("cpu", "blocked", "runnable")
            )
            gap = abs(thread["wall_ns"] - total)
            gaps.append(gap)
            # An emulated CPU may be taken away between the loader's clock and its mark, which it
            # measured as well.
            if gap > max(law.CLOSES_WITHIN * thread["wall_ns"], SHORT_NS, thread["mark_ns"]):
                broken.append(f"{load['strategy']}: {total} of {thread['wall_ns']} ns")
    # An emulator has yet to translate the code behind a recording's first marks: few prove nothing.
    if len(gaps) > 4 and median_low(gaps) > USUAL_NS:
        broken.append(f"half of the threads miss more than {USUAL_NS} ns: {sorted(gaps)}")
    return broken


# Of each way to read, one.
SOME = (
    "dmabuf-bio,dmabuf-dio,udmabuf-bio,udmabuf-dio,udmabuf-overlap-dio,"
    "memfd-sendfile-bio,memfd-splice-dio,memfd-rw-dio,anon-bio,anon-dio"
)


@pytest.mark.parametrize("chosen", [SOME, pytest.param("all", marks=pytest.mark.long)])
def test_an_odd_size_and_three_readers(lab: Lab, place: str, chosen: str) -> None:
    options = f"--strategy {chosen} --jobs 3 --block 768K --verify full --raise-limits"
    document = lab.record(f"odd-{len(chosen)}", *options.split(), "--file", f"{place}/odd")
    _whole(document, chosen)
    assert law.page_cache(document) == []
    assert law.block_bytes(document) == []
    assert law.copies(document, PREDICTED) == []
    for load in document["loads"]:
        assert load["bytes"] == ODD
        threads = len(load["threads"])
        if load["strategy"] in ("dmabuf-bio", "udmabuf-dio", "anon-dio"):
            assert threads == 4, load["strategy"]  # the one that asks, and three that read


def test_a_file_of_one_byte(lab: Lab, place: str) -> None:
    # The one huge page that a strategy wants has to be reserved.
    options = ("--strategy", "all", "--raise-limits")
    document = lab.record("one", *options, "--file", f"{place}/one")
    _whole(document)
    sector = int(lab.must("blockdev --getss $(findmnt -no SOURCE /data)"))
    for load in document["loads"]:
        assert load["bytes"] == 1
        if load["refused"]:
            continue
        buffered = load["strategy"].endswith("-bio")
        # A folio is filled with a block of the file system; O_DIRECT needs but a sector.
        assert load["block"]["read_bytes"] == (4096 if buffered else sector), load["strategy"]
        assert load["memory"]["page_cache_added"] == (4096 if buffered else 0)
        assert load["memory"]["page_cache_end"] == (4096 if buffered else 0)


@pytest.mark.long
def test_a_sparse_file(lab: Lab, place: str) -> None:
    """Holes are read from no disk, but fill the page cache all the same."""
    chosen = "udmabuf-bio,udmabuf-dio"
    document = lab.record("sparse", "--strategy", chosen, "--file", f"{place}/sparse")
    _whole(document, chosen)
    assert law.page_cache(document) == []
    assert law.copies(document, PREDICTED) == []
    buffered, direct = document["loads"]
    assert direct["block"]["read_bytes"] == 4096
    assert buffered["block"]["read_bytes"] == 4096


@pytest.mark.long
def test_a_file_in_memory(lab: Lab, place: str) -> None:
    """A file on tmpfs is its own page cache: it is copied, and no disk is asked."""
    document = lab.record("tmpfs", "--strategy", "udmabuf-bio", "--file", "/tmp/edges/memory")
    _whole(document, "udmabuf-bio")
    (load,) = document["loads"]
    assert load["block"]["read_bytes"] == 0
    assert load["copies"]["per_byte"] == pytest.approx(1, abs=0.05)
    assert load["memory"]["page_cache_added"] == 0


def test_warm_and_without_a_hook(lab: Lab, place: str) -> None:
    chosen = "anon-bio,udmabuf-bio"
    document = lab.record(
        "warm", "--strategy", chosen, "--file", f"{place}/odd", "--raise-limits",
        "--cache", "warm", "--without", "filemap_get_pages", "--without", "memfd_pin_folios",
    )  # fmt: skip
    _whole(document, chosen)
    missing = {hook["name"]: hook["hides"] for hook in document["hooks"] if not hook["attached"]}
    assert {"filemap_get_pages", "memfd_pin_folios"} <= set(missing)
    assert all(missing.values())
    for load in document["loads"]:
        assert load["cache_before"] == "warm"
        assert load["memory"]["page_cache_added"] == 0
        assert load["block"]["read_bytes"] == 0
        assert load["memory"]["page_cache_end"] == pytest.approx(ODD, rel=0.01)
        phases = {phase["phase"] for thread in load["threads"] for phase in thread["phases"]}
        assert "page-cache" not in phases


@pytest.fixture
def untouched(lab: Lab) -> Iterator[None]:
    """What hangs on the kernel, its parameters and our files are the same afterwards."""
    state = f"ls -A /data; cat {SIZE_LIMIT} /proc/sys/kernel/bpf_stats_enabled; {ATTACHED}"
    before = lab.must(state)
    yield
    assert lab.must(state) == before
    assert lab.shell("pgrep -af '[d]matrace_loaders'").out == ""


def _stopped(lab: Lab, name: str, number: signal.Signals, group: str = "") -> tuple[int, str]:
    """(exit status, stderr) of a recorder that gets a signal in its second load.

    Job control (set -m) puts it into a group of its own, as a terminal's shell does, and
    leaves it SIGINT.
    """
    out = lab.fresh(name)
    script = f"""
        set -m
        : >/tmp/said.err  # what another recorder said there is nothing to wait for
        dmatrace record --strategy anon-bio,anon-dio --rounds 500 --size 65M --raise-limits \
            --dir /data -o {out} >/tmp/said.out 2>/tmp/said.err &
        for n in $(seq 1500); do
            grep -q 'anon-dio' /tmp/said.err && break
            kill -0 $! || exit 99
            sleep 0.2
        done
        kill -{int(number)} {group}$!
        wait $!
        code=$?
        # Whoever puts things back after SIGKILL may need a moment.
        for n in $(seq 600); do
            pgrep -f '[d]matrace_loaders' >/dev/null || ls /data/dmatrace-*.bin >/dev/null 2>&1 \
                || break
            sleep 0.1
        done
        cat /tmp/said.err
        exit $code
    """
    done = lab.shell(script)
    return done.code, done.out


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("number", "group"),
    [
        (signal.SIGINT, "-"),
        pytest.param(signal.SIGINT, "", marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, "", marks=pytest.mark.long),
        pytest.param(signal.SIGHUP, "", marks=pytest.mark.long),
    ],
    ids=["ctrl-c", "int", "term", "hup"],
)
def test_a_signal_keeps_what_was_recorded(lab: Lab, number: signal.Signals, group: str) -> None:
    code, said = _stopped(lab, f"sig{int(number)}{len(group)}", number, group)
    assert code == 0, said
    assert "interrupted: keeping what was recorded" in said
    assert "Traceback" not in said
    document = report(lab.shared / f"sig{int(number)}{len(group)}.dmt")
    assert document["complete"]
    whole = [load for load in document["loads"] if not load["partial"]]
    assert whole
    assert law.closure(document) == []
    assert law.copies(document, PREDICTED) == []


@pytest.mark.usefixtures("untouched")
def test_sigkill_leaves_a_recording_and_nothing_else(lab: Lab) -> None:
    code, said = _stopped(lab, "killed", signal.SIGKILL)
    assert code == 128 + signal.SIGKILL, said
    document = report(lab.shared / "killed.dmt")
    assert not document["complete"]
    assert document["loads"][0]["strategy"] == "anon-bio"
    assert not document["loads"][0]["partial"]
    assert law.closure(document) == []
