"""The live view for a long time: its memory stays flat, and its figures are the recording's."""

from __future__ import annotations

import os
import time

import pytest

from tests.guest.lab import Lab, report
from tests.guest.test_top import VIEW, Terminal

MINUTES = float(os.environ.get("DMATRACE_SOAK_MINUTES", "3"))


@pytest.mark.long
@pytest.mark.timeout(MINUTES * 60 + 900)
def test_loads_come_and_go(lab: Lab) -> None:
    out = lab.fresh("soak")
    terminal = Terminal(
        lab, f"dmatrace top --strategy anon-bio,anon-dio --size 4M --rounds 100000 -o {out}"
    )
    resident = []
    try:
        terminal.until("LIVE", "anon-dio")
        deadline = time.monotonic() + MINUTES * 60
        while time.monotonic() < deadline:
            time.sleep(5)
            kib = lab.must(f"ps -o rss= -p $(pgrep -of '{VIEW}')")
            resident.append(int(kib))
            assert "LIVE" in terminal.screen()
        terminal.press("q")
        terminal.until("left with 0")
        assert "Traceback" not in terminal.screen()
    finally:
        terminal.close()
    # What it keeps of each load that has ended is some KiB, for the last 1000 of them.
    first = resident[len(resident) // 4]
    assert max(resident) < 1.25 * first + 32 * 1024, resident
    document = report(out)
    assert document["complete"]
    assert len(document["loads"]) > 2
