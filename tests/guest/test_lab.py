"""A guest runs commands as ssh would, and nothing outlives the one who started it."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dmatrace.errors import DmatraceError
from dmatrace.lab import emulator, places
from dmatrace.lab import guest as guest_module
from dmatrace.lab.guest import Guest

MIB = 1 << 20


@pytest.mark.parametrize("code", [0, 1, 77, 254, 255])
def test_exit_code_is_the_commands(guest: Guest, code: int) -> None:
    assert guest.run(["sh", "-c", f"exit {code}"]).returncode == code


def test_a_command_killed_by_a_signal_returns_as_from_a_shell(guest: Guest) -> None:
    assert guest.run(["sh", "-c", "kill -KILL $$"]).returncode == 128 + signal.SIGKILL


def test_a_command_that_is_not_there(guest: Guest) -> None:
    done = guest.run(["no-such-command"])
    assert done.returncode == 127
    assert b"no-such-command" in done.stderr


def test_stdout_and_stderr_are_apart_and_nothing_is_added(guest: Guest) -> None:
    done = guest.run(["sh", "-c", "printf out; printf err >&2"])
    assert (done.stdout, done.stderr) == (b"out", b"err")


def test_arguments_environment_and_stdin_arrive_unchanged(guest: Guest) -> None:
    odd = ["a b", "", "$HOME", "'\"\\", "*", "new\nline", "ü", "--", "-x"]
    done = guest.run(["printf", "%s|", *odd])
    assert done.stdout.decode() == "".join(f"{word}|" for word in odd)
    done = guest.run(["sh", "-c", 'printf %s "$ODD"; cat'], env={"ODD": odd[3]}, input=b"\0in\xff")
    assert done.stdout == odd[3].encode() + b"\0in\xff"


def test_large_binary_stdout_is_intact(guest: Guest) -> None:
    size = 64 * MIB
    script = "import hashlib, os, random, sys\n"
    script += f"data = random.Random(1).randbytes({MIB}) * {size // MIB}\n"
    script += "sys.stdout.buffer.write(data)\n"
    script += "sys.stderr.write(hashlib.sha256(data).hexdigest())\n"
    done = guest.run(["python3", "-c", script], check=True)
    assert len(done.stdout) == size
    assert hashlib.sha256(done.stdout).hexdigest() == done.stderr.decode()


def test_a_signal_reaches_the_whole_command(guest: Guest) -> None:
    """As Ctrl-C does in a terminal: the shell and its child both see it."""
    script = "trap 'echo shell; exit 7' INT; python3 -c '\n"
    script += 'import time\ntry:\n    print("ready", flush=True)\n    time.sleep(60)\n'
    script += 'except KeyboardInterrupt:\n    print("child", flush=True)\''
    reader, writer = os.pipe()

    def interrupt() -> None:
        assert os.read(reader, 6) == b"ready\n"
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    code = guest.call(["sh", "-c", script], stdout=writer, stdin=subprocess.DEVNULL)
    thread.join()
    os.close(writer)
    with open(reader, "rb") as output:
        assert output.read() == b"child\nshell\n"
    assert code == 7


def test_a_command_that_takes_too_long_is_killed(guest: Guest) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        guest.run(["sleep", "4321"], timeout=3)
    assert _eventually(lambda: not guest.run(["pgrep", "-f", "^sleep 4321"]).stdout)


def test_a_failed_check_says_what_failed(guest: Guest) -> None:
    with pytest.raises(DmatraceError, match=r"(?s)returned 3\nwhy"):
        guest.run(["sh", "-c", "echo why >&2; exit 3"], check=True)


def test_data_is_an_ext4_on_a_virtio_disk_with_direct_io(guest: Guest) -> None:
    script = """
set -e
awk -v data="$DMATRACE_DATA" '$2 == data { print $1, $3 }' /proc/mounts
dd if=/dev/zero of="$DMATRACE_DATA/direct" bs=1M count=8 oflag=direct status=none
dd if="$DMATRACE_DATA/direct" of=/dev/null bs=1M iflag=direct status=none
rm "$DMATRACE_DATA/direct"
"""
    device, kind = guest.run(["sh", "-c", script], check=True).stdout.decode().split()
    assert device.startswith("/dev/vd")
    assert kind == "ext4"


def test_the_checkout_has_the_same_path_and_is_writable(guest: Guest) -> None:
    build = guest.checkout / "build"
    build.mkdir(exist_ok=True)
    file = build / f"written-by-guest-{os.getpid()}"
    try:
        guest.run(["sh", "-c", f"id -u > '{file}'"], check=True)
        assert file.read_text() == "0\n"
        assert file.stat().st_uid == os.geteuid()
        # Changes of the host are seen at once: nothing is cached in between.
        file.write_text("from the host\n")
        assert guest.run(["cat", str(file)], check=True).stdout == b"from the host\n"
    finally:
        file.unlink(missing_ok=True)


def test_the_guest_runs_this_checkout_and_leaves_no_byte_code_in_it(guest: Guest) -> None:
    script = "import dmatrace, dmatrace.sizes; print(dmatrace.__file__)"
    done = guest.run(["python3", "-c", script], cwd="/", check=True)
    assert done.stdout.decode().strip() == str(guest.checkout / "dmatrace/__init__.py")
    tag = f"cpython-{guest.kernel.python.replace('.', '')}"
    if f"{sys.version_info.major}{sys.version_info.minor}" not in tag:
        assert not list((guest.checkout / "dmatrace").rglob(f"*.{tag}.pyc"))


def test_the_guest_has_the_locked_python_packages_and_bcc(guest: Guest) -> None:
    locked = {}
    for line in (guest.checkout / "requirements.lock").read_text().splitlines():
        if line.startswith(("pyarrow==", "pandas==")):
            name, version = line.split("==")
            locked[name] = version.strip()
    script = "import importlib.metadata as m, bcc\n"
    script += "print(m.version('pyarrow'), m.version('pandas'))"
    done = guest.run(["python3", "-c", script], check=True)
    assert done.stdout.decode().split() == [locked["pyarrow"], locked["pandas"]]


def test_a_program_may_lock_memory_and_the_kernel_log_is_quiet(guest: Guest) -> None:
    done = guest.run(["sh", "-c", "ulimit -l; dmesg"], check=True)
    limit, _, log = done.stdout.decode().partition("\n")
    assert limit == "unlimited"
    for bad in ("BUG:", "Oops", "WARNING:", "Call Trace"):
        assert bad not in log


def _dmatrace(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dmatrace", "lab", "run", "--memory", "1G", *arguments]


def _children(parent: int) -> dict[int, str]:
    """Live descendants of a process: pid -> command name."""
    found: dict[int, str] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        name, rest = text[text.index("(") + 1 :].rsplit(")", 1)
        if int(rest.split()[1]) == parent:
            found[int(text.split()[0])] = name
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _eventually(condition: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _host_state() -> tuple[str, list[str]]:
    loops = [str(path) for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    return Path("/proc/self/mounts").read_text(), sorted(loops)


def test_ctrl_c_of_lab_run_reaches_the_command_and_the_guest_ends(guest: Guest) -> None:
    script = "trap 'echo caught; exit 42' INT; echo ready; while :; do sleep 0.2; done"
    with subprocess.Popen(
        _dmatrace("--", "sh", "-c", script),
        cwd=guest.checkout,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"ready\n"
        children = _children(run.pid)
        run.send_signal(signal.SIGINT)
        output, errors = run.communicate(timeout=60)
    assert output == b"caught\n"
    assert run.returncode == 42, errors
    assert [name for name in children.values() if name.startswith("qemu")]
    assert not [pid for pid in children if _alive(pid)]


def test_a_killed_lab_run_leaves_nothing_behind(guest: Guest) -> None:
    before = _host_state()
    runs = places.cache() / "run"
    others = set(runs.glob("guest-*"))
    with subprocess.Popen(
        _dmatrace("--", "sh", "-c", "echo ready; sleep 4321"),
        cwd=guest.checkout,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"ready\n"
        children = _children(run.pid)
        run.kill()
    assert [name for name in children.values() if name.startswith("qemu")]
    assert _eventually(lambda: not any(_alive(pid) for pid in children))
    assert _host_state() == before
    # Its directory is all that is left, and the next guest removes it.
    assert len(set(runs.glob("guest-*")) - others) == 1
    assert places.sweep(runs, "guest-") == 1
    assert set(runs.glob("guest-*")) == others


def test_a_guest_whose_kernel_says_nothing_is_started_again(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU as it is, but that the first one does nothing, as a kernel that hangs."""
    real = emulator.command
    script = tmp_path / "qemu"
    script.write_text(
        f'#!/bin/sh\nmkdir {tmp_path}/started && exec sleep 1000\nexec "$@"\n',
    )
    script.chmod(0o755)
    monkeypatch.setattr(emulator, "command", lambda *given: [str(script), *real(*given)])
    monkeypatch.setattr(guest_module, "FIRST_WORD_SECONDS", 20.0)
    said: list[str] = []
    with Guest(guest.kernel, progress=said.append) as again:
        assert again.run(["echo", "here"]).stdout == b"here\n"
    assert (tmp_path / "started").is_dir()
    restarts = [line for line in said if line.endswith("nothing in 20 s; starting it again")]
    assert 1 <= len(restarts) < guest_module.STARTS
