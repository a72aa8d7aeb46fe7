"""Loading the loader module: what is built and kept, who loads it, and who unloads it again.

insmod, rmmod and make's sources are stand-ins here, to put every outcome in
their hands; the real ones run in the guest tests.
"""

from __future__ import annotations

import os
import platform
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dmatrace.errors import CannotHere, DmatraceError
from dmatrace.session import changes, module, preflight
from dmatrace.session.changes import Module
from dmatrace.session.runner import environment
from dmatrace_loaders import native
from dmatrace_loaders.errors import LoadError, ModuleMissing

_TOOLS = {
    # Loads "the module": a file of its name, unless it is to refuse.
    "insmod": 'test -e refuse && { echo "insmod: $1: Invalid module format" >&2; exit 1; }\n'
    "test -e slow && { echo > started; while test -e slow; do sleep 0.05; done; }\necho > loaded",
    "modprobe": 'test "$1" = --first-time && echo > loaded',
    "modinfo": "test -e installed",
    # As if the last user of the module took a while to be gone.
    "rmmod": "test -e busy && { rm busy; exit 1; }\ntest -e stuck && exit 1\nrm loaded",
}
_OWNER = """
import sys, time
from dmatrace.session.changes import Module
kept = Module("dmatrace_loader", ["insmod", "x.ko"], lambda _: None)
print("loaded", flush=True)
time.sleep(600)
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the stand-ins, first on PATH; it is also what they know of the kernel."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name, script in _TOOLS.items():
        (bin_ / name).write_text(f"#!/bin/sh\ncd {tmp_path} || exit 9\n{script}\n")
        (bin_ / name).chmod(0o755)
    path = f"{bin_}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    monkeypatch.setattr(changes, "_PATH", path)
    return tmp_path


def test_it_is_loaded_and_unloaded(tools: Path) -> None:
    said: list[str] = []
    change = Module("dmatrace_loader", ["insmod", "/a b/x.ko"], said.append)
    assert (tools / "loaded").exists()
    (tools / "busy").touch()
    change.unload()
    assert not (tools / "loaded").exists()
    change.unload()
    assert said == [
        "dmatrace_loader: loaded by insmod /a b/x.ko (unloaded at the end)",
        "dmatrace_loader: unloaded",
    ]


def test_a_refusal_is_one_line(tools: Path) -> None:
    (tools / "refuse").touch()
    said: list[str] = []
    with pytest.raises(CannotHere) as caught:
        Module("dmatrace_loader", ["insmod", "x.ko"], said.append)
    assert "insmod x.ko failed: insmod: x.ko: Invalid module format" in caught.value.message
    assert "dmesg" in caught.value.do
    assert "\n" not in str(caught.value)
    assert said == []
    # A tool that is not there says so as well.
    with pytest.raises(CannotHere, match=r"no-such-tool.* not found"):
        Module("dmatrace_loader", ["no-such-tool"], said.append)


def test_one_that_stays_in_use_is_told(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Module, "_UNLOAD", Module._UNLOAD.replace("300", "3"))
    (tools / "stuck").touch()
    said: list[str] = []
    change = Module("dmatrace_loader", ["insmod", "x.ko"], said.append)
    change.unload()
    assert said[-1].startswith("dmatrace_loader: still in use, not unloaded; rmmod dmatrace_loader")


def _gone(*pids: int) -> None:
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        assert select.select([pidfd], [], [], 60)[0], "a watcher is still there"
        os.close(pidfd)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _until(there: Callable[[], object]) -> None:
    for _ in range(1200):
        if there():
            return
        time.sleep(0.05)
    raise AssertionError("it never came")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_after_the_owners_death(tools: Path, number: signal.Signals) -> None:
    (tools / "busy").touch()
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,
    )
    assert owner.stdout
    assert owner.stdout.readline() == b"loaded\n"
    assert (tools / "loaded").exists()
    watchers = _children(owner.pid)
    assert len(watchers) == 1
    os.killpg(owner.pid, number)
    owner.wait()
    owner.stdout.close()
    _gone(*watchers)
    assert not (tools / "loaded").exists()


def test_an_owner_killed_while_it_loads(tools: Path) -> None:
    """insmod goes on, and what it loaded is unloaded all the same."""
    (tools / "slow").touch()
    owner = subprocess.Popen([sys.executable, "-c", _OWNER], env=environment())
    _until((tools / "started").exists)
    watchers = _children(owner.pid)
    owner.kill()
    owner.wait()
    assert not (tools / "loaded").exists()
    (tools / "slow").unlink()
    _gone(*watchers)
    assert (tools / "started").exists()
    assert not (tools / "loaded").exists()


# What is built: a checkout's native/ with a Makefile of our own.

_MAKEFILE = """
all:
\t@echo building; echo x >>{count}; test ! -e {bad} || {{ cat {bad}; exit 2; }}
\t@cp Kbuild $(OUT)/dmatrace_loader.ko; echo "$(KDIR) $(MAKEFLAGS)" >{flags}
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose module is its Kbuild file; ``bad`` holds what the compiler complains of."""
    root = tmp_path / "checkout"
    (root / "native").mkdir(parents=True)
    (root / "native" / "Kbuild").write_text("obj-m\n")
    names = {name: tmp_path / name for name in ("count", "bad", "flags")}
    (root / "native" / "Makefile").write_text(_MAKEFILE.format(**names))
    monkeypatch.setattr(module, "_headers", lambda release: Path(f"/headers/{release}"))
    return root


def _left(checkout: Path) -> list[str]:
    return sorted(path.name for path in (checkout / "build" / "modules").iterdir())


def test_it_is_built_once(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKEFLAGS", "--keep-going")
    said: list[str] = []
    path = module.built(said.append, checkout)
    release = platform.release()
    assert re.fullmatch(rf"{re.escape(release)}-[0-9a-f]{{16}}\.ko", path.name)
    assert path.read_text() == "obj-m\n"
    assert said == [f"building the loader module for Linux {release} (once; kept in {path.parent})"]
    assert _left(checkout) == [path.name, path.with_suffix(".log").name]
    flags = (checkout.parent / "flags").read_text()
    assert flags.startswith(f"/headers/{release} ")
    assert "keep-going" not in flags
    assert module.built(said.append, checkout) == path
    assert len(said) == 1
    assert (checkout.parent / "count").read_text() == "x\n"


def test_guests_that_share_a_checkout_do_not_build_in_one_place(checkout: Path) -> None:
    """A lock on 9p is the guest's own, so none could tell another's build from a killed one."""
    kept, seen = checkout / "build" / "modules", checkout.parent / "seen"
    (checkout / "native" / "Makefile").write_text(
        f"all:\n\t@ls -A {kept} >{seen}; cp Kbuild $(OUT)/dmatrace_loader.ko\n"
    )
    path = module.built(lambda _: None, checkout)
    assert seen.read_text().split() == [path.with_suffix(".log").name]
    assert _left(checkout) == [path.name, path.with_suffix(".log").name]


def test_no_room_to_build_is_told_of_where_it_lacks(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(DmatraceError, match=rf"cannot write {tmp_path}/gone: No such file"):
        module.built(lambda _: None, checkout)


def test_other_sources_or_another_kernel_are_built_anew(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [module.built(lambda _: None, checkout)]
    (checkout / "native" / "Kbuild").write_text("obj-m changed\n")
    paths.append(module.built(lambda _: None, checkout))
    (checkout / "native" / "uapi").mkdir()
    (checkout / "native" / "uapi" / "x.h").touch()
    paths.append(module.built(lambda _: None, checkout))
    monkeypatch.setattr(module.platform, "version", lambda: "#2 of the same release")
    paths.append(module.built(lambda _: None, checkout))
    monkeypatch.setattr(module.platform, "release", lambda: "9.9.9")
    paths.append(module.built(lambda _: None, checkout))
    assert len(set(paths)) == 5
    assert paths[-1].name.startswith("9.9.9-")


def test_a_failed_build(checkout: Path) -> None:
    bad = checkout.parent / "bad"
    bad.write_text("  CC main.o\nmain.c:7:1: error: unknown type name 'foo'\nmore of it\n")
    with pytest.raises(CannotHere) as caught:
        module.built(lambda _: None, checkout)
    error = caught.value
    assert "does not build: main.c:7:1: error: unknown type name 'foo'" in error.message
    assert "\n" not in str(error)
    log = Path(error.do.removeprefix("see "))
    assert "more of it" in log.read_text()
    assert _left(checkout) == [log.name]
    # Repaired, it is built: no failure is kept.
    bad.unlink()
    assert module.built(lambda _: None, checkout).exists()


def test_a_build_that_is_interrupted(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = checkout.parent / "pid"
    (checkout / "native" / "Makefile").write_text(
        f"all:\n\t@echo half >$(OUT)/dmatrace_loader.ko; echo $$$$ >{pid}; sleep 600\n"
    )

    class Interrupted(subprocess.Popen[bytes]):
        interrupted = False

        def wait(self, timeout: float | None = None) -> int:
            if not Interrupted.interrupted:
                _until(lambda: pid.exists() and pid.read_text())
                Interrupted.interrupted = True
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(module.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        module.built(lambda _: None, checkout)
    _gone(int(pid.read_text()))
    assert [name for name in _left(checkout) if not name.endswith(".log")] == []


def test_what_building_lacks(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(CannotHere) as caught:
        module._headers("0.0.0-none")
    assert "/lib/modules/0.0.0-none/build has no kernel headers" in caught.value.message
    assert caught.value.do == "apt install linux-headers-0.0.0-none"
    (checkout / "native" / "Kbuild").unlink()
    with pytest.raises(CannotHere, match="its sources are not in") as caught:
        module.built(lambda _: None, checkout)
    assert "DKMS" in caught.value.do


def test_a_place_that_cannot_be_written(checkout: Path) -> None:
    (checkout / "build").write_text("a file")
    with pytest.raises(DmatraceError, match=r"cannot write .*/build/modules: ") as caught:
        module.built(lambda _: None, checkout)
    assert "\n" not in str(caught.value)


def _lacking(monkeypatch: pytest.MonkeyPatch, error: LoadError | None) -> None:
    monkeypatch.setattr(preflight, "why_not", lambda *_: error)


def test_it_is_loaded_only_where_it_is_all_that_lacks(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "built", lambda _: tools / "x.ko")
    said: list[str] = []
    for error in (None, LoadError("no dma-heap", do="boot another kernel", code=3)):
        _lacking(monkeypatch, error)
        with module.loaded(["dmabuf-rwfile-dio"], 1, said.append):
            assert not (tools / "loaded").exists()
    assert said == []
    _lacking(monkeypatch, ModuleMissing())
    monkeypatch.setattr(native, "module", lambda: None)
    with module.loaded(["dmabuf-rwfile-dio"], 1, said.append):
        assert (tools / "loaded").exists()
    assert not (tools / "loaded").exists()
    assert f"insmod {tools}/x.ko" in said[0]
    # The installed one (DKMS) is preferred, and an exception unloads as well.
    (tools / "installed").touch()

    def fails() -> None:
        with module.loaded(["dmabuf-rwfile-dio"], 1, said.append):
            assert (tools / "loaded").exists()
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert not (tools / "loaded").exists()
    assert "modprobe --first-time dmatrace_loader" in said[2]


def test_one_that_does_not_speak_our_version(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tools / "installed").touch()
    _lacking(monkeypatch, ModuleMissing())

    def other() -> None:
        raise LoadError("the loader module is version 0, this program needs 1", do="x", code=3)

    monkeypatch.setattr(native, "module", other)
    with (
        pytest.raises(CannotHere, match=r"version 0.*; update the installed one"),
        module.loaded(["dmabuf-rwfile-dio"], 1, lambda _: None),
    ):
        raise AssertionError("never entered")
    assert not (tools / "loaded").exists()
