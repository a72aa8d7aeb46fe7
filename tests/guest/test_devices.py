"""Devices that attach to a dma-buf: when, and which, as their driver's own calls say it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.guest.importing import SIZE
from tests.guest.lab import Lab, report

IMPORTING = Path(__file__).with_name("importing.py")


def test_an_importer_is_in_the_waterfall(lab: Lab) -> None:
    if lab.shell("test -e /dev/dma_heap/system && modinfo -n vgem").code:
        pytest.skip("kernel lacks: dma-heaps, or vgem")
    lab.must(
        "modprobe vgem; mkdir -p /data/devices;"
        f" head -c {SIZE} /dev/urandom >/data/devices/model.bin"
    )
    out = lab.fresh("devices")
    try:
        done = lab.run(
            "dmatrace", "record", "-q", "-o", str(out),
            "--", "python3", str(IMPORTING), "/data/devices/model.bin",
        )  # fmt: skip
    finally:
        lab.must("rmmod vgem; rm -r /data/devices")
    assert done.code == 0, done.err
    said = json.loads(done.out.splitlines()[0])
    (flow,) = report(out)["buffer_flows"]
    assert (flow["ino"], flow["filled"]) == (said["ino"], SIZE)
    steps = [step["step"] for step in flow["steps"]]
    assert steps.count("attach") == steps.count("detach") == 1
    of = {step["step"]: step for step in flow["steps"]}
    # The kernel's own list, while it was attached.
    assert said["devices"] == [of["attach"]["what"]] == [of["detach"]["what"]] == ["vgem"]
    assert of["read"]["end_ns"] <= said["before_ns"]
    assert said["before_ns"] <= of["attach"]["start_ns"] <= said["attached_ns"]
    assert said["detaching_ns"] <= of["detach"]["start_ns"] <= said["detached_ns"]
    assert steps.index("read") < steps.index("attach") < steps.index("detach")
