"""The live view for a long time: its memory stays flat, and its figures are the recording's."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from typing import Any

import pytest

from tests.guest.lab import Lab, report
from tests.guest.test_top import VIEW, Terminal

MINUTES = float(os.environ.get("DMATRACE_SOAK_MINUTES", "3"))
#: Of the view and of its recorder, by what their command lines look like.
PROCESSES = {"view": VIEW, "recorder": "^[^ ]*python[^ ]* .*dmatrace [r]ecord"}
LOG = "/tmp/soak-textual.log"
PLACE = "/data/soak"


@pytest.mark.long
@pytest.mark.timeout(MINUTES * 60 + 900)
def test_loads_come_and_go(lab: Lab) -> None:
    out = lab.fresh("soak")
    # On the guest's own disk: what it shares with the host may hang when it is read and
    # written for long (9p of Linux 6.12).
    lab.must(f"rm -rf {LOG} {PLACE}; mkdir {PLACE}")
    terminal = Terminal(
        lab,
        f"env -C {PLACE} TEXTUAL_LOG={LOG}"
        " dmatrace top --strategy anon-bio,anon-dio --size 4M --rounds 100000 -o soak.dmt",
    )
    resident: dict[str, list[int]] = defaultdict(list)  # KiB
    open_files: dict[str, list[int]] = defaultdict(list)
    screens: list[str] = []
    try:
        terminal.until("LIVE", "anon-dio")
        deadline = time.monotonic() + MINUTES * 60
        while time.monotonic() < deadline:
            time.sleep(5)
            for name, words in PROCESSES.items():
                said = lab.must(
                    f"p=$(pgrep -of '{words}'); ps -o rss= -p $p; ls /proc/$p/fd | wc -l"
                )
                kib, fds = said.split()
                resident[name].append(int(kib))
                open_files[name].append(int(fds))
            screens.append(terminal.screen())
            assert "LIVE" in screens[-1]
            # Its clock goes on.
            assert len(set(screens[-12:])) > 1 or len(screens) < 12, screens[-1]
        terminal.press("e")
        terminal.until("exported")
        terminal.press("q")
        terminal.until("left with 0")
        assert "Traceback" not in terminal.screen()
    finally:
        terminal.close()
    assert lab.must(f"test -s {LOG} && grep -c Traceback {LOG} || :").strip() == "0"
    for name, found in resident.items():
        # What it keeps of each load that has ended is some KiB, for the last 1000 of them.
        first = found[len(found) // 4]
        assert max(found) < 1.25 * first + 32 * 1024, (name, found)
        fds = open_files[name]
        assert max(fds) <= max(fds[: len(fds) // 4 + 1]) + 4, (name, fds)
    lab.must(f"cp -r {PLACE}/soak.dmt {out}")
    document = report(out)
    assert document["complete"]
    recorded = {load["load_id"]: load for load in document["loads"]}
    view = json.loads(lab.must(f"cat {PLACE}/dmatrace-top-1.json"))
    done = [load for load in view["loads"] if load["state"] == "done"]
    print(
        f"{MINUTES:g} minutes, {len(recorded)} loads, {len(done)} of them on the screen at the end;"
        + "".join(
            f" {name}: {min(kib)} to {max(kib)} KiB, {min(open_files[name])} to"
            f" {max(open_files[name])} fds;"
            for name, kib in resident.items()
        )
    )
    assert len(done) > 2
    for load in done:
        _same(load, recorded[load["load_id"]])


def _same(shown: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Every figure of a load that the view had, as ``report`` has it."""
    assert shown["strategy"] == theirs["strategy"]
    assert shown["elapsed"] == theirs["wall_ns"]
    assert shown["done_bytes"] == theirs["bytes"]
    assert shown["copied"] == theirs["copies"]["cpu_bytes"]
    assert (shown["verdict"], shown["why"]) == (
        theirs["direct"]["verdict"],
        theirs["direct"]["why"],
    )
    block = theirs["block"]
    assert (shown["io"]["requests"], shown["io"]["read_bytes"]) == (
        block["requests"],
        block["read_bytes"],
    )
    assert {name: shown["io"][name] for name in block["latency_ns"]} == block["latency_ns"]
    assert shown["memory"]["added"] == theirs["memory"]["page_cache_added"]
    assert shown["memory"]["cached"] == theirs["memory"]["page_cache_end"]
    ours = {
        thread["tid"]: {
            times["phase"]: (times["cpu"], times["blocked"], times["runnable"])
            for times in thread["phases"]
        }
        for thread in shown["threads"]
    }
    assert ours == {
        thread["tid"]: {
            row["phase"]: (row["cpu_ns"], row["blocked_ns"], row["runnable_ns"])
            for row in thread["phases"]
        }
        for thread in theirs["threads"]
    }
