"""A guest as tests command it, from the host."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmatrace.lab.guest import Guest
from dmatrace_loaders.errors import ModuleMissing
from dmatrace_loaders.table import strategies

# Whatever hangs on the guest's kernel, ours or anyone's, as ftrace, kprobes and BPF tell it.
ATTACHED = (
    "cat /sys/kernel/tracing/enabled_functions /sys/kernel/debug/kprobes/list;"
    " bpftool prog list | grep -a ' name '; bpftool link list; true"
)
SIZE_LIMIT = "/sys/module/udmabuf/parameters/size_limit_mb"


# Why a strategy may be skipped where all are asked for: what this kernel does not have.
_LACKS = ("cannot be read with flags 0x80",)  # RWF_DONTCACHE


def may_be_skipped(skip: dict[str, str], *, module: bool) -> bool:
    """Whether ``skip`` is the kernel's doing; or, without ``module``, for want of that."""
    return any(why in skip["why"] for why in _LACKS) or (
        not module and skip["why"] == ModuleMissing().message
    )


def all_that_run(document: dict[str, Any], *, module: bool = False) -> list[str]:
    """The strategies that must be among the loads of a recording of all, in their order."""
    skipped = {skip["strategy"]: skip for skip in document["skipped"]}
    assert [skip for skip in skipped.values() if not may_be_skipped(skip, module=module)] == []
    return [name for name in strategies() if name not in skipped]


@dataclass(frozen=True)
class Done:
    """One command's end, as text."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What it said on stderr."""
        return self.err.splitlines()


@dataclass(frozen=True)
class Lab:
    """A guest, and a directory that it and the host both see."""

    guest: Guest
    shared: Path

    def run(self, *command: str) -> Done:
        """Run ``command`` in the guest."""
        done = self.guest.run(list(command))
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def shell(self, script: str) -> Done:
        """Run a shell script in the guest."""
        return self.run("bash", "-c", script)

    def must(self, script: str) -> str:
        """stdout of a shell script that must succeed."""
        done = self.shell(script)
        assert done.code == 0, f"{script}\n{done.out}{done.err}"
        return done.out

    def fresh(self, name: str) -> Path:
        """Where a recording called ``name`` goes: dmatrace replaces none.

        A test that is run once more (--reruns) has one of the first time there.
        """
        out = self.shared / f"{name}.dmt"
        shutil.rmtree(out, ignore_errors=True)
        return out

    def program(self, *sources: Path) -> Path:
        """A program of C sources, compiled on the host, under the first one's name."""
        program = self.shared / sources[0].stem
        command = ["gcc", "-O2", "-Wall", "-Werror", "-static", "-pthread", "-o", str(program)]
        subprocess.run([*command, *map(str, sources)], check=True)
        return program

    def record(self, name: str, *arguments: str) -> dict[str, Any]:
        """``dmatrace record`` in the guest, ``dmatrace report -f json`` of it on the host."""
        out = self.fresh(name)
        done = self.run("dmatrace", "record", *arguments, "-o", str(out))
        assert done.code == 0, done.err
        assert done.out == f"{out}\n"
        return report(out)


def report(recording: Path) -> dict[str, Any]:
    """The JSON document, made on the host, where there is no bcc."""
    command = [sys.executable, "-m", "dmatrace", "report", str(recording), "-f", "json"]
    done = subprocess.run(command, capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found
