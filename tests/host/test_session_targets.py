"""Who is meant by -p, --comm and --cgroup, who cannot be, and a command as somebody's own."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from dmatrace.bpf import layout
from dmatrace.cli import arguments, main, parser
from dmatrace.errors import CannotHere, DmatraceError, UsageError
from dmatrace.phases import PHASE_ID
from dmatrace.session import command, follow, processes, procevents

KTHREAD = 0x00200000


def _process(
    proc: Path, pid: int, comm: str, state: str = "S", flags: int = 0, numbers: str = "",
    tgid: int = 0,
) -> None:  # fmt: skip
    here = proc / str(pid)
    here.mkdir()
    (here / "stat").write_text(f"{pid} ({comm}) {state} 1 1 1 0 -1 {flags} 0 0\n")
    (here / "cmdline").write_bytes(b"" if flags else f"/bin/{comm}\0-x\0".encode())
    (here / "status").write_text(f"Name:\t{comm}\nTgid:\t{tgid or pid}\nNSpid:\t{numbers or pid}\n")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    _process(tmp_path, 10, "server")
    _process(tmp_path, 11, "dead (x) y", "Z")
    _process(tmp_path, 12, "kworker/0:1", "I", KTHREAD)
    _process(tmp_path, 13, "worker", tgid=10)
    _process(tmp_path, 14, "a-name-that-is-", numbers="14\t7")
    (tmp_path / "self").mkdir()
    return tmp_path


def test_a_process(proc: Path) -> None:
    found = processes.check(10, str(proc))
    assert (found.comm, found.state, found.command) == ("server", "S", "/bin/server -x")


@pytest.mark.parametrize(
    ("pid", "says"),
    [
        (9, "there is no process 9;"),
        (7, "there is no process 7 here; in its PID namespace 14 (a-name-that-is-) has that"),
        (11, "process 11 (dead (x) y) has ended already"),
        (12, "12 (kworker/0:1) is a kernel thread"),
        (13, "13 is a thread of process 10 (worker); trace the process: -p 10"),
    ],
)
def test_who_cannot_be_traced(proc: Path, pid: int, says: str) -> None:
    with pytest.raises(DmatraceError) as error:
        processes.check(pid, str(proc))
    assert str(error.value).startswith(says)
    assert error.value.code == 1


def test_ourselves_and_another_namespace(proc: Path) -> None:
    with pytest.raises(UsageError, match="is dmatrace itself"):
        processes.check(os.getpid(), str(proc))
    (proc / "self" / "ns").mkdir()
    (proc / "self" / "ns" / "pid").symlink_to("pid:[4026532000]")
    with pytest.raises(CannotHere, match="PID namespace"):
        processes.check_namespace(str(proc))


def test_by_name(proc: Path) -> None:
    assert processes.called("server", str(proc)) == [10]
    assert processes.called("a-name-that-is-longer", str(proc)) == [14]
    assert processes.called("kworker/0:1", str(proc)) == []


def test_a_control_group(tmp_path: Path, proc: Path) -> None:
    root = tmp_path / "cgroup"
    inner = root / "a.slice" / "b.service" / "c"
    inner.mkdir(parents=True)
    for directory, members in ((inner, "4\n"), (inner.parent, "2\n3\n"), (inner.parent.parent, "")):
        (directory / "cgroup.procs").write_text(members)
        (directory / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    for name in ("a.slice/b.service", "/a.slice/b.service/", f"{root}/a.slice/b.service"):
        group = processes.Cgroup(name, str(root))
        assert group.path == "/a.slice/b.service"
        assert sorted(group.members()) == [2, 3, 4]
    for text, inside in (("/a.slice/b.service/c", True), ("/a.slice/b.service2", False)):
        (proc / "10" / "cgroup").write_text(f"0::{text}\n")
        assert group.holds(10, str(proc)) is inside
    assert not group.gone
    (inner.parent / "cgroup.events").write_text("populated 0\nfrozen 0\n")
    assert group.gone
    with pytest.raises(DmatraceError, match="no control group"):
        processes.Cgroup("../none", str(root))


def test_children_of_children() -> None:
    script = "sleep 30 & (sleep 30 & wait) & echo; wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        names: list[str] = []
        while names.count("sleep") < 2:
            pids = processes.children(parent.pid)
            found = [processes.look(pid) for pid in pids]
            names = [one.comm for one in found if one]
        assert sorted(names) == ["sh", "sleep", "sleep"]
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        parent.terminate()


def test_a_command_waits_and_says_how_it_ended() -> None:
    for words, code in ((["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -9 $$"], 137)):
        one = command.Command(words, None)
        found = processes.look(one.pid)
        assert found is not None
        assert not one.ended()
        one.go()
        assert one.wait() == code
        assert one.ended()
        one.close()
    never = command.Command(["sh", "-c", "exit 7"], None)
    never.close()
    assert processes.look(never.pid) is None


def test_a_command_that_is_none(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no program")
    for word, code in (("no-such-command-here", 127), (str(text), 126), (str(tmp_path), 126)):
        with pytest.raises(command.NoCommand) as error:
            command.find(word, None)
        assert error.value.code == code
    text.chmod(0o755)
    one = command.Command([str(text)], None)
    with pytest.raises(command.NoCommand, match="Exec format error") as error:
        one.go()
    assert error.value.code == 126


def test_who_called_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    calling = {"SUDO_UID": "1", "SUDO_GID": "1", "SUDO_USER": "x", "HOME": "/root", "A": "b"}
    user = command.invoking(calling)
    assert user is not None
    assert (user.uid, user.gid) == (1, 1)
    assert user.environment["HOME"] != "/root"
    assert user.environment["A"] == "b"
    assert not [name for name in user.environment if name.startswith("SUDO")]
    assert user.environment["USER"] == user.environment["LOGNAME"] == command.user_name(user)
    nobody = command.invoking({"SUDO_UID": "3999999999", "SUDO_GID": "12", "HOME": "/h"})
    assert nobody is not None
    assert (nobody.groups, nobody.environment["HOME"]) == ((12,), "/h")
    assert command.invoking({"SUDO_UID": "x", "SUDO_GID": "1"}) is None
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert command.invoking(calling) is None


STACK = [
    "[<0>] folio_wait_bit_common+0x123/0x2f0",
    "[<0>] filemap_get_pages.isra.0+0x1/0x2",
    "[<0>] filemap_read+0xd9/0x340",
    "[<0>] ext4_file_read_iter+0x1/0x2 [ext4]",
    "[<0>] entry_SYSCALL_64_after_hwframe+0x76/0x7e",
]


def test_a_thread_that_waits_is_behind_its_functions() -> None:
    names = follow.functions(STACK)
    assert names[1:4] == ["filemap_get_pages", "filemap_read", "ext4_file_read_iter"]
    thread = layout.Thread(phase=PHASE_ID["user"], last=5)
    known = {
        "filemap_read": (7, PHASE_ID["copy"]),
        "filemap_get_pages": (9, PHASE_ID["page-cache"]),
        "folio_wait_bit_common": (11, layout.PHASE_OUTER),
    }
    follow.open_frames(thread, True, names, known)
    frames = [(f.hook, f.phase) for f in thread.stack[: thread.depth]]
    inner = PHASE_ID["page-cache"]
    assert frames == [(0, PHASE_ID["syscall"]), (7, PHASE_ID["copy"]), (9, inner), (11, inner)]
    assert (thread.phase, thread.mode) == (inner, layout.MODE_BLOCKED)
    fault = layout.Thread(phase=PHASE_ID["user"])
    follow.open_frames(fault, False, [], known)
    assert (fault.depth, fault.phase) == (0, PHASE_ID["user"])


def _event(what: int, cpu: int, number: int, *words: int) -> bytes:
    body = struct.pack("IIQ", what, cpu, 1_000) + struct.pack(f"{len(words)}I", *words)
    connector = struct.pack("IIIIHH", 1, 1, number, 0, len(body), 0)
    size = 16 + len(connector) + len(body)
    return struct.pack("IHHII", size, 3, 0, 0, 0) + connector + body


def test_events_of_the_proc_connector() -> None:
    born = _event(1, 0, 5, 10, 10, 11, 11)
    ended = _event(0x80000000, 1, 8, 11, 11, 256, 17, 10, 10)
    other = _event(4, 0, 6, 11, 11, 0, 0)  # a new user
    asked = _event(0, 0, 0, 0)
    found = [one for data in (asked, born, other, ended) for one in procevents.decode(data)]
    assert found == [
        (0, 5, procevents.Event("fork", 1_000, 11, 11, parent=10)),
        (0, 6, None),
        (1, 8, procevents.Event("exit", 1_000, 11, 11, status=256)),
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "nothing to record is named"),
        (["--strategy", "anon-bio"], "one of the arguments --file --size is required"),
        (["--strategy", "anon-bio", "--size", "1M", "-p", "1"], "--strategy and -p exclude"),
        (["-p", "1", "--comm", "x"], "-p and --comm exclude"),
        (["-p", "1", "--", "ls"], "-p and a command exclude"),
        (["-p", "1,x"], "'x' is no process number"),
        (["-p", "0"], "'0' is no process number"),
        (["-p", "1", "--rounds", "2"], "--rounds is for --strategy alone"),
        (["--size", "1M", "--", "ls"], "--size is for --strategy alone"),
        (["--strategy", "anon-bio", "--size", "1M", "-d", "3"], "--duration is for processes"),
        (["-p", "1", "-d", "soon"], "'soon' is no duration"),
        (["-p", "1", "-d", "0"], "'0' is no duration"),
    ],
)
def test_usage(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["record", *words])
    except SystemExit as ended:
        code = int(str(ended.code))
    said = capsys.readouterr()
    assert code == 2
    assert says in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_without_root_or_terminal() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dmatrace", "attach", str(os.getpid()), "-d", "1"],
        capture_output=True, text=True, check=False,
        preexec_fn=(lambda: os.setuid(65534)) if os.geteuid() == 0 else None,
    )  # fmt: skip
    assert done.returncode == 3
    assert "tracing needs root" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [["ls"], ["ls", "-l", "-p", "3"], ["sh", "-c", "a", "--", "b"]])
def test_a_commands_own_options(command: list[str]) -> None:
    given = parser().parse_args(["record", "-o", "x", "--", *command])
    assert (given.command, given.output, given.pid) == (command, "x", None)


def test_durations_and_numbers() -> None:
    found = [arguments.duration(text) for text in ("10", "10s", "2m", "0.5", "1h")]
    assert found == [10, 10, 120, 0.5, 3600]
    assert arguments.pids("3,4, 3") == (3, 4)
