"""Builds, loads and unloads the module in a guest, and runs cases against it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest.lab import Lab

#: Out-of-tree and unsigned, and nothing else (Documentation/admin-guide/tainted-kernels.rst);
#: but that Debian's kernels set TAINT_AUX where fanotify asks for permission, as a case
#: of races.py does (debian/fanotify-taint-on-use-of-fanotify_access_permissions.patch).
TAINT = 1 << 12 | 1 << 13 | 1 << 16
_BAD = re.compile(
    r"WARNING:|BUG:|Oops|KASAN|general protection|RCU.*stall|blocked for more than|"
    r"Call Trace|refcount_t|Bad rss-counter|Bad page|lockup|hogged CPU|KFENCE|kmemleak|"
    r"possible recursive locking|Redzone|Poison overwritten|pagealloc: memory corruption"
)


@dataclass(frozen=True)
class Module:
    """The built module, where the guest sees it."""

    path: Path


def built(lab: Lab) -> Module:
    """The module for the guest's kernel, as --load-module builds it: once for these sources."""
    script = (
        "import sys; from dmatrace.session import module; print(module.built(sys.stderr.write))"
    )
    path = Path(lab.must(f'python3 -c "{script}"').strip())
    said = path.with_suffix(".log").read_text()
    # Of the compiler and of modpost; make's own, that a clone is younger than the guest's
    # clock, is nothing to a build that starts from nothing.
    lines = [line for line in said.splitlines() if not line.startswith("make")]
    warnings = [line for line in lines if "warning:" in line.lower()]
    assert not warnings, "\n".join(warnings)
    return Module(path)


def complaints(lab: Lab, since: int) -> list[str]:
    """Lines of the kernel's log from number ``since`` on that no healthy kernel writes."""
    return [line for line in lab.must("dmesg").splitlines()[since:] if _BAD.search(line)]


def log_length(lab: Lab) -> int:
    return len(lab.must("dmesg").splitlines())


@contextmanager
def loaded(lab: Lab, module: Module) -> Iterator[None]:
    """Loads the module, and unloads it again: it must go, and the kernel must be well."""
    since = log_length(lab)
    lab.must(f"mkdir -p /data/native; insmod {module.path}")
    try:
        yield
    finally:
        done = lab.shell(
            "rmmod dmatrace_loader; mountpoint -q /mnt/native-xfs && umount /mnt/native-xfs;"
            " rm -rf /data/native; ! test -e /sys/module/dmatrace_loader"
        )
        found = complaints(lab, since)
        taint = int(lab.must("cat /proc/sys/kernel/tainted"))
    assert done.code == 0, done.err
    assert not found, "\n".join(found)
    assert taint & ~TAINT == 0, f"tainted: {taint}"


@dataclass(frozen=True)
class Results:
    """What the cases of one module said."""

    said: dict[str, dict[str, object]]
    end: str

    def check(self, case: str) -> None:
        """Fails, or skips, as the case did in the guest."""
        result = self.said.get(case)
        assert result is not None, f"the run ended before this case\n{self.end}"
        if "lacks" in result:
            pytest.skip(f"kernel lacks: {result['lacks']}")
        assert result["ok"], result["said"]


def run_cases(lab: Lab, name: str, *cases: str) -> Results:
    """Runs cases of ``tests/guest/native/NAME.py`` in the guest."""
    done = lab.run("python3", "-m", "tests.guest.native.run", name, *cases)
    said = [json.loads(line) for line in done.out.splitlines()]
    return Results({result["case"]: result for result in said}, f"exit {done.code}\n{done.err}")
