"""Each kernel of the matrix: what it has is used, what it lacks is named, wherever one looks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dmatrace.analysis import law
from dmatrace.bpf.hooks import DIO_TAP, DMABUF_TAP, HOOKS, TAPS
from dmatrace_loaders.table import strategies
from tests.guest.lab import ATTACHED, Lab, report

SIZE = 8 << 20
# The first four want nothing of the kernel but memfds.
ASKED = ("anon-bio", "anon-dio", "memfd-bio", "memfd-dio", "udmabuf-dio", "dmabuf-bio")
PREDICTED = {name: strategy.copies for name, strategy in strategies().items()}
NEEDS = {"udmabuf": "/dev/udmabuf", "dmabuf": "/dev/dma_heap/system"}
TRACEFS = "/sys/kernel/tracing"


@pytest.fixture(scope="module")
def recorded(lab: Lab) -> dict[str, Any]:
    options = ("--strategy", ",".join(ASKED), "--size", str(SIZE), "-q")
    return lab.record("kernels", *options)


@pytest.fixture(scope="module")
def doctor(lab: Lab) -> dict[str, Any]:
    """What it says as root; nothing may hang on the kernel afterwards that did not before."""
    before = lab.must(ATTACHED)
    done = lab.run("dmatrace", "doctor", "--json")
    assert done.code == 0, done.err
    assert lab.must(ATTACHED) == before
    found: dict[str, Any] = json.loads(done.out)
    return found


def _names(doctor: dict[str, Any], section: str) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in doctor["checks"] if row["section"] == section}


def _devices(lab: Lab) -> dict[str, bool]:
    return {name: not lab.shell(f"test -e {path}").code for name, path in NEEDS.items()}


def test_what_can_run_is_recorded_and_the_rest_says_why(lab: Lab, recorded: dict[str, Any]) -> None:
    there = _devices(lab)
    runs = [name for name in ASKED if there.get(name.split("-")[0], True)]
    assert [load["strategy"] for load in recorded["loads"]] == runs
    skipped = {skip["strategy"]: skip for skip in recorded["skipped"]}
    assert list(skipped) == [name for name in ASKED if name not in runs]
    for name, skip in skipped.items():
        assert NEEDS[name.split("-")[0]] in skip["why"]
        assert skip["do"]
    assert recorded["lost_events"] == 0
    for load in recorded["loads"]:
        assert (load["failed"], load["partial"], load["verified"]) == ("", False, True)
        assert load["stack"] == {"lost_exits": 0, "overflows": 0}
        made = load["strategy"].startswith(tuple(NEEDS))
        assert load["memory"]["dmabuf"] == (SIZE if made else 0)


@pytest.mark.parametrize(
    "holds",
    [
        law.closure,
        law.page_cache,
        law.block_bytes,
        law.cachestat,
        lambda document: law.copies(document, PREDICTED),
    ],
    ids=["closure", "page_cache", "block_bytes", "cachestat", "copies"],
)
def test_law(recorded: dict[str, Any], holds: Any) -> None:
    assert holds(recorded) == []


def test_threads_that_preempt_each_other_are_counted(lab: Lab) -> None:
    """Eight, on two CPUs: where one is preempted in a BPF program others must not be missed."""
    program, out = lab.program(Path(__file__).with_name("busy.c")), lab.fresh("busy")
    lab.must("head -c 16M /dev/urandom >/data/busy && cat /data/busy >/dev/null")
    said = lab.must(f"dmatrace record -q -o {out} -- {program} /data/busy 8 512 4096")
    size = int(said.split()[1])
    document = report(out)
    (load,) = document["loads"]
    assert size == 16 << 20
    # exec(2) reads the program's head.
    assert 0 <= load["bytes"] - size < 64 << 10
    assert 0 <= load["copies"]["cpu_bytes"] - size < 64 << 10
    assert load["stack"] == {"lost_exits": 0, "overflows": 0}
    assert len(load["threads"]) == 9
    assert law.closure(document) == []


def test_two_threads_that_are_a_files_first_readers_are_both_counted(lab: Lab) -> None:
    """Both find no entry of the file, and one's must not replace the other's."""
    program, out = lab.program(Path(__file__).with_name("firsts.c")), lab.fresh("firsts")
    files, size = 4000, 4096
    said = lab.must(
        "mkdir /data/firsts"
        f" && dmatrace record -q -o {out} -- {program} /data/firsts {files} {size};"
        " code=$?; rm -r /data/firsts; exit $code"
    )
    assert int(said.split()[0]) == 2 * files * size
    document = report(out)
    (load,) = document["loads"]
    copied = [file["copied_bytes"] for file in load["files"] if file["copied_bytes"] >= size]
    assert document["lost_events"] == 0
    assert copied == [2 * size] * files


def test_hooks_are_where_tracefs_has_their_functions(lab: Lab, recorded: dict[str, Any]) -> None:
    """By the kernel's own list, asked for with other tools."""
    list_ = f"sed 's/ .*//' {TRACEFS}/available_filter_functions"
    functions = set(lab.must(f"{list_} | sort | uniq -u").split())
    attached = {hook["name"]: hook["attached"] for hook in recorded["hooks"]}
    for hook in HOOKS:
        if hook.module:
            continue
        if hook.unless in functions and not functions & set(hook.candidates):
            assert hook.name not in attached
        elif not hook.members:
            assert bool(attached[hook.name]) is bool(functions & set(hook.candidates)), hook.name
    for tap in TAPS:
        places = [f"{TRACEFS}/events/{event.replace(':', '/')}" for event in tap.events]
        there = not lab.shell(" && ".join(f"test -d {place}" for place in places)).code
        assert (attached[tap.name] == "tracepoint") is there, tap.name
    # What the newer kernels trace themselves, the older ones' functions tell.
    assert attached[DIO_TAP.name]
    assert attached[DMABUF_TAP.name]


def test_what_is_missing_is_named_everywhere(
    lab: Lab, recorded: dict[str, Any], doctor: dict[str, Any]
) -> None:
    missing = {hook["name"]: hook["hides"] for hook in recorded["hooks"] if not hook["attached"]}
    assert all(missing.values())
    said = _names(doctor, "hooks")
    expected = {name for name, row in said.items() if row["state"] == "missing"}
    assert expected == set(missing)
    for name, hides in missing.items():
        assert said[name]["hides"] == hides
    names = [hook.name for hook in HOOKS] + [tap.name for tap in TAPS]
    assert set(names) <= set(said)
    command = [sys.executable, "-m", "dmatrace", "report", str(lab.shared / "kernels.dmt")]
    text = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    hidden = " ".join(text.partition("hidden: hooks this kernel did not take")[2].split())
    for name, hides in missing.items():
        assert name[:21] in hidden
        assert hides in hidden
    assert bool(hidden) is bool(missing)


def test_doctor_agrees_with_the_machine(lab: Lab, doctor: dict[str, Any]) -> None:
    assert doctor["records"] is True
    assert doctor["kernel"] == lab.must("uname -r").strip()
    states = {row["name"]: row["state"] for row in doctor["checks"]}
    for name in ("type information", "bcc", "libbpf", "kernel headers", "tracefs", "taskstats"):
        assert states[name] == "ok", name
    for name in ("CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN"):
        assert states[name] == "ok", name
    there = _devices(lab)
    heaps = lab.shell("ls /dev/dma_heap").out.split()
    assert [name for name in heaps if states.get(name) != "ok"] == []
    assert (states.get("dma-heaps") == "missing") is not there["dmabuf"]
    assert (states["udmabuf"] == "ok") is there["udmabuf"]
    iterator = not lab.shell("grep -q ' bpf_iter_dmabuf$' /proc/kallsyms").code
    assert (states["dma-buf list"] == "ok") is iterator
    cachestat = "import os\nfrom dmatrace_loaders import kernel\n"
    cachestat += "print(kernel.cachestat(os.open('/bin/sh', os.O_RDONLY)) is not None)"
    assert (states["cachestat"] == "ok") is (
        lab.must(f'python3 -c "{cachestat}"').strip() == "True"
    )


def test_doctor_of_a_file_and_of_what_was_changed(lab: Lab) -> None:
    """Direct I/O as the disk's queue has it; and lines that follow the machine's state."""
    script = """
        head -c 8192 /dev/zero >/data/probe; head -c 8192 /dev/zero >/tmp/probe
        cat /sys/block/$(basename $(findmnt -no SOURCE /data))/queue/logical_block_size
        sysctl -qw kernel.task_delayacct=1 kernel.kptr_restrict=2
        for file in /data/probe /tmp/probe; do
            dmatrace doctor --json --file $file | tr -d '\\n'; echo
        done
        sysctl -qw kernel.task_delayacct=0 kernel.kptr_restrict=0
        rm /data/probe /tmp/probe
    """
    block, *documents = lab.must(script).splitlines()
    disk, memory = ({row["name"]: row for row in json.loads(text)["checks"]} for text in documents)
    assert disk["direct I/O"]["state"] == "ok"
    assert f"offset and length {block} bytes" in disk["direct I/O"]["what"]
    assert memory["direct I/O"]["state"] in ("missing", "degraded")
    assert disk["delay accounting"]["state"] == "ok"
    assert disk["kptr_restrict"]["state"] == "degraded"


def test_doctor_without_root(lab: Lab) -> None:
    """What it may not see is unknown, and that it may not record is said."""
    drop = "setpriv --reuid 1000 --regid 1000 --clear-groups"
    done = lab.shell(f"{drop} dmatrace doctor --json")
    assert done.code == 3, done.err
    assert len(done.lines) == 1
    rows = json.loads(done.out)["checks"]
    states = {row["name"]: row["state"] for row in rows}
    for name in ("user", "CAP_BPF", "CAP_PERFMON"):
        assert states[name] == "missing"
    for name in ("functions", "tracepoints", "tracefs", "drop_caches"):
        assert states[name] == "unknown"
    assert [row for row in rows if row["section"] == "hooks" and row["state"] == "missing"] == []
    assert states["type information"] == "ok"
