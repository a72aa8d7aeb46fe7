"""Every strategy in the guest: what it loads, whether it is listed right, and what is left."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from dmatrace_loaders.errors import ModuleMissing
from dmatrace_loaders.native import EXPORTER
from tests.guest.lab import SIZE_LIMIT, Lab
from tests.guest.native.build import built

MIB = 1 << 20
ODD = 67_110_098  # 64 MiB, a page and 1138 bytes: the tail is no multiple of anything
LOADED = "/sys/module/dmatrace_loader"


@pytest.fixture(scope="module")
def odd(lab: Lab) -> Iterator[str]:
    lab.must(f"head -c {ODD} /dev/urandom >/data/strategies && sync")
    yield "/data/strategies"
    lab.must("rm /data/strategies")


@pytest.fixture(scope="module")
def ko(lab: Lab) -> str:
    """The module for this guest, as --load-module builds it."""
    return str(built(lab).path)


@pytest.fixture(autouse=True)
def _no_module_stays(lab: Lab) -> Iterator[None]:
    yield
    assert lab.shell(f"test -e {LOADED}").code == 1


def _names(document: dict[str, Any]) -> set[str]:
    return {load["strategy"] for load in document["loads"]}


@pytest.mark.long
def test_several_readers_and_batches(lab: Lab, odd: str, ko: str) -> None:
    """Odd parts of an odd file, into one buffer by several threads or workers."""
    chosen = [
        "dmabuf-rwfile-dio", "dmabuf-rwfile-bio", "udmabuf-cfr-dio", "udmabuf-memfd-cfr-dio",
        "memfd-cfr-bio", "dmabuf-sendfile-dio", "dmabuf-splice-bio", "dmabuf-splice-dio",
        "dmabuf-insertpage-dio", "dmabuf-gather-bio", "dmabuf-gather-dio", "dmabuf-allocread-dio",
    ]  # fmt: skip
    options = "--jobs 3 --block 300K --gather 16M --depth 2 --verify full --raise-limits"
    out = lab.fresh("several")
    done = lab.shell(
        f"dmatrace record --strategy {','.join(chosen)} {options} --load-module --file {odd}"
        f" -o {out} && dmatrace report {out} -f json >{out}.json"
    )
    assert done.code == 0, done.err
    # What an option does not do is said.
    assert "--jobs does nothing for dmabuf-allocread-dio" in done.lines
    assert "--depth does nothing for these strategies" in done.lines
    assert "--gather is for dmabuf-gather-bio, dmabuf-gather-dio alone" in done.lines
    assert not any(line.startswith("--block") for line in done.lines)
    with open(f"{out}.json") as file:
        document = json.load(file)
    assert [load["strategy"] for load in document["loads"]] == chosen
    for load in document["loads"]:
        name, told = load["strategy"], load["module"]
        assert (load["failed"], load["verified"]) == ("", True), name
        if "gather" in name:
            assert told["batches"] == 5
            both = told["overlap_ns"]
            assert 0 < both <= min(told["alloc_ns"], told["read_ns"])
            assert told["wait_ns"] < told["total_ns"]
        elif "cfr" in name or "rwfile" in name:
            assert told["calls"] == 3
            assert told["bytes"] == ODD


@pytest.mark.long
def test_allocation_and_reading_overlap_by_more_than_half(lab: Lab, ko: str) -> None:
    """Of the shorter one, in the best of some loads of a file of many batches.

    A processor that is taken away only ever lessens it.
    """
    options = "--size 256M --gather 8M --rounds 4 --load-module --raise-limits -q"
    chosen = ("dmabuf-gather-dio", "udmabuf-overlap-dio")
    document = lab.record("overlap", "--strategy", ",".join(chosen), *options.split())
    for strategy in chosen:
        found = [load["overlap"] for load in document["loads"] if load["strategy"] == strategy]
        parts = [each["both_ns"] / min(each["alloc_ns"], each["io_ns"]) for each in found]
        assert len(parts) == 4
        assert 0.5 < max(parts) <= 1, (strategy, parts)


def _listed(lab: Lab, file: str) -> dict[str, dict[str, Any]]:
    rows = json.loads(lab.must(f"dmatrace strategies --json --file {file}"))["strategies"]
    return {row["name"]: row for row in rows}


def _agrees(lab: Lab, file: str, name: str, *options: str) -> set[str]:
    """Names that ran; what is listed is what record did, reasons included."""
    listed = _listed(lab, file)
    document = lab.record(name, "--strategy", "all", "--file", file, "-q", *options)
    assert all(load["failed"] == "" for load in document["loads"])
    ran = _names(document)
    assert ran == {name for name, row in listed.items() if row["runs"]}
    skipped = {skip["strategy"]: (skip["why"], skip["do"]) for skip in document["skipped"]}
    assert skipped == {
        name: (row["why"], row["do"]) for name, row in listed.items() if not row["runs"]
    }
    return ran


@pytest.fixture
def small(lab: Lab) -> Iterator[str]:
    """A file just above udmabuf's limit, which is made 1 MiB for it."""
    lab.must(f"head -c {MIB + 17} /dev/urandom >/data/small && sync && echo 1 >{SIZE_LIMIT}")
    yield "/data/small"
    lab.must(f"rm /data/small; echo 64 >{SIZE_LIMIT}")


_LIMITS = """
import os
from dmatrace_loaders import kernel, limits
MIB = 1 << 20

def made(size):
    memfd = kernel.memfd("limit", size)
    try:
        os.close(kernel.udmabuf_create(memfd, size))
    except OSError:
        return False
    finally:
        os.close(memfd)
    return True

at = [kernel.PAGE, MIB, MIB + kernel.PAGE, 64 * MIB, 64 * MIB + kernel.PAGE]
for value in (1, 64, 2047, 2048, 4096, 4097, -1):
    limits.UDMABUF_SIZE.write_text(str(value))
    most = limits.udmabuf_most()
    assert [made(size) for size in at] == [most is None or size <= most for size in at], value
large = 2048 * MIB + kernel.PAGE
limits.UDMABUF_SIZE.write_text("2048")
most = limits.udmabuf_most()
assert made(large) is (most is None), most
limits.UDMABUF_SIZE.write_text("64")
limits.UDMABUF_SIZE.write_text(str(limits.UDMABUF.wanted(large)))
assert made(large)
"""


@pytest.mark.usefixtures("small")
def test_udmabufs_limit_is_what_the_kernel_makes_of_it(lab: Lab) -> None:
    """Buffers below and above what it is said to be, 2 GiB and a page among them."""
    lab.must(f"python3 -c '{_LIMITS}'")


@pytest.mark.long
def test_the_list_agrees_with_what_record_does(lab: Lab, small: str, ko: str) -> None:
    """Without the module and with it; udmabuf's limit refuses the file both times."""
    without = _agrees(lab, small, "listed")
    rows = _listed(lab, small).items()
    missing = {name for name, row in rows if "--load-module" in (row["do"] or "")}
    assert {"dmabuf-rwfile-dio", "dmabuf-gather-bio", "memfd-cfr-dio"} <= missing
    assert any("--raise-limits" in (row["do"] or "") for _, row in rows)
    assert not without & missing
    lab.must(f"insmod {ko}")
    try:
        # What was loaded before is used, and stays.
        with_module = _agrees(lab, small, "listed-too", "--load-module")
        lab.must(f"test -e {LOADED}")
    finally:
        lab.must("rmmod dmatrace_loader")
    assert with_module - without == missing


def test_the_list_without_root(lab: Lab, odd: str, ko: str) -> None:
    lab.must(f"insmod {ko}")
    try:
        done = lab.shell("setpriv --reuid 1000 --clear-groups dmatrace strategies --json")
        text = lab.must("setpriv --reuid 1000 --clear-groups dmatrace strategies")
    finally:
        lab.must("rmmod dmatrace_loader")
    assert (done.code, done.err) == (0, "")
    rows = {row["name"]: row for row in json.loads(done.out)["strategies"]}
    assert rows["anon-bio"]["runs"] is True
    for name, device in (
        ("dmabuf-bio", "/dev/dma_heap/system"),
        ("udmabuf-dio", "/dev/udmabuf"),
        ("dmabuf-gather-dio", "/dev/dmatrace_loader"),
    ):
        assert rows[name]["runs"] is None
        assert rows[name]["why"] == f"{device} may not be opened"
        assert rows[name]["do"] == "run as root"
        assert f"{device} may not be opened" in text
    assert "could not be seen" in text


def test_a_named_one_without_the_module(lab: Lab, odd: str) -> None:
    out = lab.shared / "unnamed.dmt"
    command = f"dmatrace record --strategy dmabuf-rwfile-dio --file {odd} -o {out}"
    done = lab.shell(command)
    assert done.code == 3
    (line,) = done.lines
    assert str(ModuleMissing()) in line
    assert "--load-module" in line
    assert not out.exists()
    document = lab.record("named", "--strategy", "dmabuf-rwfile-dio,anon-dio", "--file", odd)
    (skip,) = document["skipped"]
    assert skip["strategy"] == "dmabuf-rwfile-dio"
    assert "--load-module" in skip["do"]
    assert _names(document) == {"anon-dio"}


def test_what_cannot_run_all_the_same_loads_nothing(lab: Lab, ko: str) -> None:
    """Where memory lacks besides, --load-module changes nothing."""
    lab.must("truncate -s 64G /data/huge")
    done = lab.shell(
        "dmatrace record --strategy dmabuf-gather-dio --load-module --file /data/huge"
        " -o /data/huge.dmt; code=$?; rm /data/huge; exit $code"
    )
    assert done.code == 3
    (line,) = done.lines
    assert "are available" in line


@pytest.mark.long
def test_the_installed_one_is_preferred(lab: Lab, odd: str, ko: str) -> None:
    """As DKMS leaves it: modprobe finds it."""
    place = "/lib/modules/$(uname -r)/updates/dkms"
    lab.must(f"mkdir -p {place} && cp {ko} {place}/dmatrace_loader.ko && depmod")
    try:
        done = lab.run(
            "dmatrace", "record", "--strategy", "memfd-cfr-dio", "--load-module", "--file", odd,
            "-o", str(lab.shared / "dkms.dmt"),
        )  # fmt: skip
    finally:
        lab.must(f"rm -r {place} && depmod")
    assert done.code == 0, done.err
    loaded = "dmatrace_loader: loaded by modprobe --first-time dmatrace_loader"
    assert f"{loaded} (unloaded at the end)" in done.lines
    assert done.lines[-1] == "dmatrace_loader: unloaded"


@pytest.mark.long
def test_sources_that_do_not_build(lab: Lab) -> None:
    """By the kernel's own build, in a copy of the checkout."""
    lab.must(
        "mkdir /tmp/broken && cp -r native /tmp/broken/native"
        " && sed -i '1i #error broken on purpose' /tmp/broken/native/main.c"
    )
    script = (
        "from pathlib import Path; from dmatrace.session import module;"
        " module.built(lambda _: None, Path('/tmp/broken'))"
    )
    done = lab.shell(f'python3 -c "{script}"')
    assert done.code == 1
    said = done.lines[-1]
    assert "the loader module does not build: " in said
    assert "error: #error broken on purpose" in said
    log = said.rpartition("see ")[2]
    assert "broken on purpose" in lab.must(f"cat {log}")
    assert lab.must("ls /tmp/broken/build/modules").split() == [log.rpartition("/")[2]]
    lab.must("rm -r /tmp/broken")


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGKILL],
    ids=["term", "kill"],
)
def test_a_stopped_recorder_leaves_no_module(
    lab: Lab, odd: str, ko: str, number: signal.Signals
) -> None:
    """In the middle of loads whose buffers, streams and workers hold it."""
    out = lab.fresh(f"stopped{int(number)}")
    done = lab.shell(f"""
        set -m
        : >/tmp/said.err
        chosen=dmabuf-gather-dio,dmabuf-splice-dio,dmabuf-insertpage-dio
        dmatrace record --strategy $chosen --rounds 500 --gather 4M --load-module --file {odd} \\
            -o {out} >/tmp/said.out 2>/tmp/said.err &
        for n in $(seq 1500); do
            grep -q '\\] dmabuf-insertpage-dio' /tmp/said.err && break
            kill -0 $! || {{ cat /tmp/said.err; exit 99; }}
            sleep 0.2
        done
        test -e {LOADED} || exit 98
        kill -{int(number)} $!
        wait $!
        code=$?
        for n in $(seq 600); do
            test -e {LOADED} || break
            sleep 0.1
        done
        cat /tmp/said.err
        exit $code
    """)
    if number == signal.SIGTERM:
        assert done.code == 0, done.out
        assert "dmatrace_loader: unloaded" in done.out
    else:
        assert done.code == 128 + number, done.out
    assert EXPORTER not in lab.must("cat /sys/kernel/debug/dma_buf/bufinfo")
