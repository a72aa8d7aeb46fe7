"""Which kernels are taken for ones that preempt themselves."""

from __future__ import annotations

import pytest

from dmatrace.bpf.preemption import preempting

DYNAMIC = "#1 SMP PREEMPT_DYNAMIC Debian 7.2.13-1 (2026-10-28)"


@pytest.mark.parametrize(
    ("modes", "version", "boot", "expected"),
    [
        ("full (lazy) \n", DYNAMIC, "", True),
        ("none voluntary (full) lazy \n", DYNAMIC, "preempt=none", True),
        ("none (voluntary) full \n", DYNAMIC, "", False),
        ("(none) voluntary full \n", "#1 SMP PREEMPT", "", False),
        # Without debugfs: what it was built with, and booted with.
        ("", "#1 SMP Debian 6.1.170-1", "", False),
        ("", "#1 SMP PREEMPT Fri Nov 20 2026", "", True),
        ("", "#1 SMP PREEMPT_RT Debian 6.12", "", True),
        ("", DYNAMIC, "root=/dev/vda quiet", True),
        ("", DYNAMIC, "preempt=full preempt=none", False),
        ("", DYNAMIC, "preempt=lazy", True),
        ("", DYNAMIC, "nopreempt=none", True),
    ],
)
def test_preempting(modes: str, version: str, boot: str, expected: bool) -> None:
    assert preempting(modes, version, boot) is expected
