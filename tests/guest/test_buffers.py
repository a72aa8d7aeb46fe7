"""Who holds which dma-buf: processes that made, inherited, received or only map known ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.guest.lab import Lab

# Minutes of emulation each; `make test` has the rest.

MIB = 1 << 20
SIZE = 8 * MIB


@pytest.fixture(scope="module")
def found(lab: Lab) -> dict[str, Any]:
    if lab.shell("test -e /dev/udmabuf && test -e /dev/dma_heap/system").code:
        pytest.skip("kernel lacks: dma-heaps and udmabuf")
    result: dict[str, Any] = json.loads(
        lab.must(f"python3 {Path(__file__).with_name('holders.py')}")
    )
    return result


def _ours(found: dict[str, Any], how: str) -> dict[str, Any]:
    """{label: the buffer} of those we made."""
    labels = {ino: label for label, ino in found["inodes"].items()}
    return {labels[each["ino"]]: each for each in found[how]["buffers"] if each["ino"] in labels}


def _holders(found: dict[str, Any], buffer: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """{our name of the process: (descriptors, bytes mapped)}; a stranger keeps its comm."""
    names = {pid: name for name, pid in found["pids"].items()}
    return {
        names.get(each["pid"], each["comm"]): (len(each["fds"]), each["mapped"])
        for each in buffer["holders"]
    }


@pytest.mark.parametrize("how", ["as_it_is", "without_debugfs"])
def test_every_holder_is_found(lab: Lab, found: dict[str, Any], how: str) -> None:
    ours = _ours(found, how)
    assert found[how]["unseen"] == 0
    assert _holders(found, ours["heap"]) == {"maker": (1, 3 * MIB), "heir": (2, 0)}
    assert _holders(found, ours["pinned"]) == {
        "maker": (1, 0), "receiver": (1, 0), "mapper": (0, 2 * MIB),
    }  # fmt: skip
    assert (ours["heap"]["size"], ours["heap"]["exporter"]) == (3 * MIB, "system")
    assert (ours["pinned"]["size"], ours["pinned"]["exporter"]) == (5 * MIB, "udmabuf")
    assert (ours["heap"]["name"], ours["pinned"]["name"]) == ("weights", "")


@pytest.mark.parametrize("how", ["as_it_is", "without_debugfs"])
def test_the_source_is_the_best_there_is(lab: Lab, found: dict[str, Any], how: str) -> None:
    iterator = not lab.shell("grep -q ' bpf_iter_dmabuf$' /proc/kallsyms").code
    debugfs = how == "as_it_is"
    expected = "BPF iterator" if iterator else "debugfs" if debugfs else "proc"
    assert found[how]["source"] == expected
    assert found[how]["complete"] is (iterator or debugfs)
    # One that no process holds is in a list of the kernel's alone.
    ours = _ours(found, how)
    assert ("orphan" in ours) is (iterator or debugfs)
    if "orphan" in ours:
        assert (ours["orphan"]["holders"], ours["orphan"]["size"]) == ([], MIB)
    assert (ours["heap"]["devices"] == []) is debugfs


def test_without_root_it_counts_what_it_could_not_see(found: dict[str, Any]) -> None:
    said = found["without_root"]
    assert (said["source"], said["complete"], said["buffers"]) == ("proc", False, [])
    assert said["unseen"] >= len(found["pids"])


def test_a_recording_keeps_what_was_held(lab: Lab) -> None:
    if lab.shell("test -e /dev/udmabuf").code:
        pytest.skip("kernel lacks: udmabuf")
    options = ("--strategy", "udmabuf-dio,memfd-dio", "--size", str(SIZE), "-q")
    first, second = lab.record("held", *options)["loads"]
    (buffer,) = first["inventory"]["buffers"]
    assert (buffer["size"], buffer["exporter"]) == (SIZE, "udmabuf")
    (holder,) = buffer["holders"]
    assert holder["pid"] == first["threads"][0]["tid"]
    assert (holder["fds"], holder["mapped"]) == (1, 0)
    assert second["inventory"]["buffers"] == []
    assert second["inventory"]["source"] == first["inventory"]["source"]
    # The recorder's ledger and the kernel's list agree.
    assert first["memory"]["dmabuf"] == buffer["size"]
