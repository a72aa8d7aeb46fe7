"""Commands and processes that are not our loaders, beside what they say of themselves."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dmatrace.analysis import law
from tests.guest.lab import Lab, report

MIB = 1 << 20
READING = Path(__file__).with_name("reading.py")
USER = "dmatrace-test"
DELAYACCT = "/proc/sys/kernel/task_delayacct"
# What a busy host may take between two clocks that are read one after the other.
APART_NS = 20_000_000


@pytest.fixture(scope="module")
def place(lab: Lab) -> Iterator[str]:
    """A directory with a file of 11 MiB, which is read whole, and one of 13 MiB."""
    lab.must(
        "mkdir -m 777 /data/targets && cd /data/targets && head -c 11M /dev/urandom >cached"
        " && head -c 13M /dev/urandom >direct && chmod 644 * && cat * >/dev/null && sync"
        f" && useradd --create-home --groups audio {USER}"
    )
    yield "/data/targets"
    lab.must(f"rm -r /data/targets; userdel --remove {USER} 2>/dev/null; true")


@dataclass(frozen=True)
class Ran:
    """A recorded command: what it said, what was recorded, and how dmatrace ended."""

    said: dict[str, Any]
    document: dict[str, Any]
    code: int
    err: str

    def load(self, who: str) -> dict[str, Any]:
        """The load of a process, as the command names it."""
        (found,) = (load for load in self.document["loads"] if load["pid"] == self.said[who])
        return found


@pytest.fixture(scope="module")
def ran(lab: Lab, place: str) -> Ran:
    """One recording for most of the tests."""
    return _run(lab, place, "command")


def _run(lab: Lab, place: str, name: str) -> Ran:
    out = lab.fresh(name)
    done = lab.shell(
        f"cp {READING} /tmp/reading.py && chmod 644 /tmp/reading.py && echo hello |"
        f" SUDO_UID=$(id -u {USER}) SUDO_GID=$(id -g {USER}) dmatrace record -o {out} --"
        f" python3 /tmp/reading.py {place}/cached {place}/direct"
    )
    assert done.out.startswith("{"), done.err
    return Ran(json.loads(done.out), report(out), done.code, done.err)


def _sums(thread: dict[str, Any]) -> dict[str, int]:
    return {
        mode: sum(phase[f"{mode}_ns"] for phase in thread["phases"])
        for mode in ("cpu", "blocked", "runnable")
    }


def _apart(thread: dict[str, Any]) -> str:
    """How the scheduler's clock is another than law 1 and a busy host allow, "" if it is none."""
    sums, wake = _sums(thread), thread["wake_ns"]
    allowed = APART_NS + law.SCHED_WITHIN * thread["wall_ns"] + thread["mark_ns"]
    run, wait = thread["sched_run_ns"], thread["sched_wait_ns"]
    cpu, runnable = sums["cpu"], sums["runnable"]
    agrees = cpu - allowed <= run <= cpu + wake + allowed
    agrees &= runnable - wake - allowed <= wait <= runnable + allowed
    return "" if agrees else f"{run=} {cpu=} {wait=} {runnable=} {wake=} {allowed=}"


def _about(charged: int, blocked: int) -> None:
    """The kernel's charge beside our blocked time, as far as it can be trusted.

    Since tasks are dequeued late (6.12), __block_task() begins a blkio delay for whoever runs
    then: now and then another's wait is charged, or one's own is not.
    """
    assert blocked / 3 - APART_NS <= charged <= 3 * blocked + APART_NS, (charged, blocked)


def test_a_command_is_its_users_own(lab: Lab, ran: Ran) -> None:
    assert ran.code == 7
    assert "command.dmt" in ran.err.splitlines()[-1]  # stdout is the command's
    assert ran.said["stdin"] == "hello\n"
    uid, gid, audio = lab.must(f"id -u {USER}; id -g {USER}; getent group audio").split()
    assert (ran.said["uid"], ran.said["gid"]) == (int(uid), int(gid))
    assert set(ran.said["groups"]) == {int(gid), int(audio.split(":")[2])}
    assert (ran.said["HOME"], ran.said["USER"]) == (f"/home/{USER}", USER)
    assert (ran.said["LOGNAME"], ran.said["SUDO_UID"]) == (USER, None)
    target = ran.document["target"]
    assert (target["kind"], target["exit_code"], target["user"]) == ("command", 7, USER)
    owners = lab.must(f"stat -c %u {lab.shared}/command.dmt {lab.shared}/command.dmt/meta.json")
    assert set(owners.split()) == {uid}


def test_every_process_is_a_load(ran: Ran) -> None:
    assert ran.document["lost_events"] == 0, ran.document["lost"]
    assert {load["strategy"] for load in ran.document["loads"]} == {"observed"}
    assert not any(load["partial"] for load in ran.document["loads"])
    assert ran.load("pid")["ended"] == "exit code 7"
    assert ran.load("dd")["ended"] == "exit code 0"
    assert ran.load("dd")["comm"] == "dd"
    # proc may not have it any more when the news of its exec(2) arrive.
    assert not ran.load("dd")["command"] or ran.load("dd")["command"].startswith("dd if=")
    assert len(ran.document["loads"]) == 4


def test_bytes_are_exact(ran: Ran) -> None:
    child = ran.load("buffered")
    assert child["bytes"] == 11 * MIB
    assert (child["direct"]["verdict"], child["copies"]["cpu_bytes"]) == ("buffered", 11 * MIB)
    assert child["memory"]["page_cache_added"] == 11 * MIB
    assert child["block"]["read_bytes"] == 11 * MIB
    child = ran.load("direct")
    assert (child["bytes"], child["memory"]["page_cache_added"]) == (11 * MIB, 0)
    assert child["direct"] == child["direct"] | {"verdict": "direct", "direct_bytes": 11 * MIB}
    assert ran.load("dd")["direct"]["direct_bytes"] == 3 * MIB
    assert ran.load("pid")["direct"]["direct_bytes"] == 28 * MIB


def test_time_adds_up(lab: Lab, place: str, ran: Ran) -> None:
    """What a busy host does to clocks that are read one after the other does not repeat."""
    apart = _times_apart(ran)
    for again in range(3):
        if not apart:
            break
        apart = _times_apart(_run(lab, place, f"command-{again}"))
    assert apart == []


def _times_apart(ran: Ran) -> list[str]:
    """How the scheduler's clock, and the kernel's news of the first process, are others."""
    main = ran.load("pid")
    assert len(main["threads"]) == 4
    # By the kernel's proc connector, and by the command's own clock, which starts late.
    total, wall = sum(_sums(main["threads"][0]).values()), main["wall_ns"]
    assert ran.said["ns"] < total
    apart = [_apart(thread) for load in ran.document["loads"] for thread in load["threads"]]
    if total != pytest.approx(wall, rel=0.01, abs=APART_NS):
        apart.append(f"{total=} {wall=}")
    return [said for said in apart if said]


@pytest.mark.long  # two clocks, once: a busy host can take the CPU away between them
def test_the_kernels_delays_are_the_blocked_time(ran: Ran) -> None:
    """A child that only reads is blocked by the disk alone.

    Kernels whose __block_task() begins the delay (6.12) charge it to whoever runs then, which
    is not always the one that is blocked: a child that was charged nothing proves nothing.
    """
    charged = 0
    for who in ("direct", "buffered"):
        (thread,) = ran.load(who)["threads"]
        delays = thread["delays"]
        assert delays["full"]
        if not delays["blkio"]["count"]:
            continue
        charged += 1
        _about(delays["blkio"]["ns"], _sums(thread)["blocked"])
        assert delays["cpu"]["ns"] == pytest.approx(
            _sums(thread)["runnable"], rel=0.05, abs=APART_NS + thread["wake_ns"]
        )
    assert charged


def test_what_was_switched_on_is_off_again(lab: Lab, ran: Ran) -> None:
    assert f"{DELAYACCT}: 0 -> 1 (restored at the end)" in ran.err
    assert lab.must(f"cat {DELAYACCT}") == "0\n"


def test_delays_of_a_strategy(lab: Lab, place: str) -> None:
    """Where kprobes are used this kernel says what they missed; nothing of it is ours here."""
    options = ("--strategy", "anon-dio", "--file", f"{place}/direct", "--hooks", "kprobe")
    for number in range(3):
        document = lab.record(f"delayed-{number}", *options)
        lost = document["lost"]
        assert set(lost) == {"ring", "threads", "missed"}
        assert lost["missed"] is not None
        assert document["lost_events"] == lost["ring"] + lost["threads"] == 0
        ((thread,),) = (load["threads"] for load in document["loads"])
        assert thread["delays"]["full"]
        # Linux 6.12 now and then begins a wait in another's name (analysis/delays.py).
        if "impossible" not in thread["delays"]:
            break
    _about(thread["delays"]["blkio"]["ns"], _sums(thread)["blocked"])


_BUSY = """
import mmap, os, sys, threading, time
def reads():
    fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, 8 << 20)
    while True:
        os.preadv(fd, [buffer], 0)
def copies():
    fd = os.open(sys.argv[2], os.O_RDONLY)
    while True:
        os.pread(fd, 8 << 20, 0)
for work in (reads, copies):
    threading.Thread(target=work, daemon=True).start()
time.sleep(1000)
"""


def test_attached_in_the_middle(lab: Lab, place: str) -> None:
    """Threads that read, copy and sleep all the time: each is in some call when we come.

    What a busy host does to clocks that are read one after the other does not repeat.
    """
    lab.must(f"cat >/tmp/busy.py <<'END'\n{_BUSY}\nEND")
    apart: list[str] = []
    for attempt in range(4):
        apart = _attached_in_the_middle(lab, place, lab.fresh(f"attached-{attempt}"))
        if not apart:
            return
    assert apart == []


def _attached_in_the_middle(lab: Lab, place: str, out: Path) -> list[str]:
    """Everything but the scheduler's clocks, of which it says how they are apart."""
    done = lab.shell(
        f"python3 /tmp/busy.py {place}/direct {place}/cached & pid=$!;"
        " until [ $(ls /proc/$pid/task | wc -l) = 3 ]; do sleep 0.2; done;"
        f" dmatrace attach $pid -d 3 -o {out}; code=$?; kill $pid; exit $code"
    )
    assert done.code == 0, done.err
    assert done.out == f"{out}\n"
    assert "3 s are over" in done.err
    document = report(out)
    assert law.closure(document) == []
    (load,) = document["loads"]
    assert (load["comm"], load["ended"], load["partial"]) == ("python3", "", False)
    assert load["wall_ns"] >= 3e9
    assert load["direct"]["verdict"] == "mixed"
    # A read is in flight at both ends.
    direct = load["direct"]["direct_bytes"]
    assert load["block"]["read_bytes"] == pytest.approx(direct, rel=0.02, abs=16 * MIB)
    assert len(load["threads"]) == 3
    for thread in load["threads"]:
        assert thread["clock"] == "recorder"
        # They began before delay accounting was switched on.
        assert thread["delays"]["full"] is False
        assert set(thread["delays"]) == {"full", "cpu"}
    sleeping = load["threads"][0]
    (asleep,) = (p for p in sleeping["phases"] if p["blocked_ns"])
    assert asleep["phase"] == "syscall"
    assert asleep["blocked_ns"] == pytest.approx(sleeping["wall_ns"], rel=0.01)
    # In neither of the others can much be user space: they are in system calls all the time.
    for thread in load["threads"][1:]:
        user = sum(p["cpu_ns"] for p in thread["phases"] if p["phase"] == "user")
        assert user < 0.2 * thread["wall_ns"], thread["phases"]
    return [said for said in map(_apart, load["threads"]) if said]


def test_a_target_that_ends_is_an_end(lab: Lab) -> None:
    out = lab.fresh("ends")
    done = lab.shell(
        f": >/tmp/said; sleep 1000 & pid=$!; dmatrace record -p $pid -o {out} 2>/tmp/said &"
        " recorder=$!; until grep -q following /tmp/said || ! kill -0 $recorder; do sleep 0.2;"
        " done; kill $pid; wait $recorder; code=$?; cat /tmp/said >&2; exit $code"
    )
    assert (done.code, done.out) == (0, f"{out}\n"), done.err
    assert "the target has ended" in done.err
    assert report(out)["complete"]


def test_ctrl_c_is_the_commands(lab: Lab) -> None:
    """As a terminal's shell sends it: to the whole group."""
    out = lab.fresh("interrupted")
    done = lab.shell(
        "set -m; rm -f /tmp/runs;"
        f" dmatrace record -o {out} -- bash -c 'echo runs >/tmp/runs; exec sleep 1000' &"
        " for n in $(seq 900); do [ -e /tmp/runs ] && break; sleep 0.2; done; sleep 1;"
        f" kill -{int(signal.SIGINT)} -$!; wait $!; code=$?; rm /tmp/runs; exit $code"
    )
    assert done.code == 128 + signal.SIGINT, done.err
    document = report(out)
    assert document["complete"]
    assert document["loads"][0]["ended"] == "signal 2"
    assert document["target"]["exit_code"] == 130


@pytest.mark.parametrize(
    ("script", "code", "says"),
    [
        ("dmatrace record -p 4000000", 1, "there is no process 4000000"),
        ("dmatrace record -p 2", 1, "is a kernel thread"),
        ("dmatrace attach 4000000 -o x.dmt", 1, "there is no process 4000000"),
        (
            "python3 -c 'import os,time\nif os.fork(): time.sleep(600)' &"
            " until pid=$(pgrep -P $!) && grep -qs '^State:.Z' /proc/$pid/status;"
            " do sleep 0.2; done; dmatrace record -p $pid; code=$?; kill $!; exit $code",
            1,
            "has ended already: a zombie",
        ),
        ("dmatrace record --cgroup /none", 1, "there is no control group /none"),
        (
            "mkdir /sys/fs/cgroup/empty; dmatrace record --cgroup /empty; code=$?;"
            " rmdir /sys/fs/cgroup/empty; exit $code",
            1,
            "no process is in control group /empty",
        ),
        (
            "python3 -c 'import threading,time\n"
            "threading.Thread(target=time.sleep, args=(600,)).start()' &"
            " until tid=$(ls /proc/$!/task | grep -vx $!); do sleep 0.2; done;"
            " dmatrace record -p $tid; code=$?; kill -9 $!; exit $code",
            1,
            "is a thread of process",
        ),
        ("dmatrace record -p=-3", 2, "'-3' is no process number"),
        ("sleep 0 & wait; dmatrace attach $! -o x.dmt", 1, "there is no process"),
        ("setpriv --reuid 65534 --clear-groups dmatrace record -p 1", 3, "tracing needs root"),
        ("dmatrace record -- /nowhere/nothing", 127, "there is no such command"),
        ("dmatrace record -- /etc/passwd", 126, "it may not be executed"),
        ("dmatrace record -- /etc", 126, "it is a directory"),
        ("exec dmatrace record -p $$", 2, "is dmatrace itself"),
    ],
)
def test_a_bad_target_is_one_line(lab: Lab, script: str, code: int, says: str) -> None:
    done = lab.shell(script)
    assert done.code == code, done.err
    assert says in done.err
    assert len(done.lines) == 1
    assert done.out == ""


_DMA_BUF = """
import mmap, os, sys, time
from dmatrace_loaders import kernel
held = [kernel.heap_alloc(1 << 20)]
open(sys.argv[1], "w").write(str(os.getpid()))
while not os.path.exists(sys.argv[3]):
    time.sleep(0.1)
size = os.path.getsize(sys.argv[2])
held.append(kernel.heap_alloc(size))
time.sleep(8)  # whoever saw it ask for a buffer follows it by now
with mmap.mmap(held[-1], size) as target, open(sys.argv[2], "rb", buffering=0) as file:
    assert file.readinto(target) == size
"""


def test_every_process_that_uses_dma_bufs(lab: Lab, place: str) -> None:
    """One that holds one and one that comes later; another that reads is left out."""
    out, work = lab.fresh("dma-bufs"), lab.shared / "dma_buf.py"
    work.write_text(_DMA_BUF)
    done = lab.shell(
        "rm -f /tmp/first /tmp/go; : >/tmp/said;"
        f" python3 {work} /tmp/first {place}/direct /tmp/go &"
        " until [ -s /tmp/first ]; do sleep 0.2; done;"
        " env --default-signal=INT"  # which a shell takes from what it starts with &
        f" dmatrace record --dma-bufs -o {out} 2>/tmp/said >/dev/null & recorder=$!;"
        " for n in $(seq 600); do grep -q following /tmp/said && break; sleep 0.2; done;"
        f" touch /tmp/go; cat {place}/cached >/dev/null;"
        f" python3 {work} /tmp/second {place}/direct /tmp/go; wait %1;"
        " kill -INT $recorder; wait $recorder; code=$?; cat /tmp/said >&2;"
        " cat /tmp/first /tmp/second; rm /tmp/go; exit $code"
    )
    assert done.code == 0, done.err
    document = report(out)
    assert document["target"]["dma_bufs"] is True
    size = 13 * MIB
    by_pid = {str(load["pid"]): load for load in document["loads"]}
    assert "".join(sorted(by_pid, key=int)) == done.out
    first, second = (by_pid[pid] for pid in sorted(by_pid, key=int))
    assert size <= first["bytes"] <= size + MIB
    assert size <= second["bytes"] <= size + MIB
    assert first["memory"]["dmabuf"] == size  # the one before was there already
    assert law.closure(document) == []


@pytest.mark.long
def test_every_process_of_a_name_and_a_group(lab: Lab, place: str) -> None:
    """What comes after us is followed too, if it lives until we hear of it; the rest is not."""
    out = lab.fresh("comm")
    done = lab.shell(
        ": >/tmp/said;"
        f" env --default-signal=INT dmatrace record --comm dd -o {out} 2>/tmp/said & recorder=$!;"
        " for n in $(seq 600); do grep -q waiting /tmp/said && break; sleep 0.2; done;"
        f" cat {place}/direct >/dev/null; (sleep 5; cat {place}/direct) | dd of=/dev/null bs=1M;"
        " kill -INT $recorder; wait $recorder; code=$?; cat /tmp/said >&2; exit $code"
    )
    assert done.code == 0, done.err
    (load,) = report(out)["loads"]
    assert load["comm"] == "dd"


@pytest.mark.long
def test_two_hundred_children(lab: Lab, place: str) -> None:
    out = lab.fresh("children")
    command = f"for n in $(seq 200); do head -c 1100003 {place}/direct >/dev/null & done; wait"
    done = lab.run("dmatrace", "record", "-o", str(out), "--", "bash", "-c", command)
    assert done.code == 0, done.err
    document = report(out)
    assert document["lost_events"] == 0, document["lost"]
    heads = [load for load in document["loads"] if load["comm"] == "head"]
    assert len(heads) == 200
    assert all(0 <= load["bytes"] - 1100003 < 64 << 10 for load in heads)
    # Each file is a load of its own, and whole.
    found = [load for load in document["file_loads"] if load["comm"] == "head"]
    assert sorted(load["pid"] for load in found) == sorted(load["pid"] for load in heads)
    assert all(0 <= load["bytes"] - 1100003 < 64 << 10 for load in found)
    assert {load["path"] for load in found} == {f"{place}/direct"}
    # Some are switched just when the host takes the CPU away, between the two clocks.
    apart = [said for said in (_apart(load["threads"][0]) for load in heads) if said]
    assert len(apart) <= 10, apart
