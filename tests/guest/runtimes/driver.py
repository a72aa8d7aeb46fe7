"""Runs in the guest, as root: a runtime under strace, or under dmatrace, and what /proc said.

    python3 driver.py prepare IMAGE       mount the image, write the models
    python3 driver.py strace RUN OUT      its calls, in OUT
    python3 driver.py record RUN WHEN OUT a recording, attached "before" the load or "during" it
    python3 driver.py tidy                models, mounts and the control group away

The last line of stdout is JSON.  Before each run the file's pages are dropped from the page
cache, and no others: libraries stay.  For "during" a control group's io.max keeps the disk slow
until the tracer has attached, so that the load is under way, however long that takes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from models import FORMATS  # noqa: E402
from table import DATA, NAMES, ROOT, RUNS, TREES, Run  # noqa: E402

MIB = 1 << 20
SIZE = 256 * MIB
SLOW = 2 * MIB  # bytes a second
UNDER_WAY = 16 * MIB  # the disk was asked for that much: the load has begun
GROUP = Path("/sys/fs/cgroup/runtimes")
CALLS = "open,openat,read,pread64,readv,preadv,mmap,madvise,close"
# sh reads a line and no byte more, then becomes the runtime: one process, as the tracer counts.
_GATE = ("sh", "-c", 'read -r _; exec "$@"', "sh")


def shell(command: str) -> None:
    subprocess.run(["sh", "-ec", command], check=True)


def prepare(image: str) -> dict[str, Any]:
    """The image at ROOT, DATA in each tree, and a model in every format."""
    Path(DATA).mkdir(parents=True, exist_ok=True)
    if not os.path.ismount(ROOT):
        shell(f"mkdir -p {ROOT}; modprobe loop; mount -o loop,ro {image} {ROOT}")
        for tree in TREES:
            top = f"{ROOT}/{tree}"
            shell(
                f"mount -t proc proc {top}/proc; mount --bind /dev {top}/dev;"
                f" mount -t tmpfs tmp {top}/tmp; mount --bind /data {top}/data"
            )
    shutil.copy(HERE / "loading.py", DATA)
    made = {}
    for format, name in NAMES.items():
        path = f"{DATA}/{name}"
        if not os.path.exists(path):
            FORMATS[format](path, SIZE)
        made[name] = os.path.getsize(path)
    shell("sync")
    said = subprocess.run(
        ["chroot", f"{ROOT}/llama", "llama-completion", "--version"],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return {"models": made, "llama": said.stdout.splitlines()[0]}


def tidy() -> dict[str, Any]:
    """What ``prepare`` and ``record`` made is gone."""
    shell(f"umount --recursive {ROOT}; rm -r {DATA}")
    if GROUP.exists():
        GROUP.rmdir()
    return {}


def drop(path: str) -> None:
    """No page of the file in the page cache; fails if one stays."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    assert cached(path) == 0, f"{path} stays in the page cache"


def cached(path: str) -> int:
    """Bytes of the file in the page cache, by fincore(1), which uses cachestat(2) or mincore(2)."""
    said = subprocess.run(
        ["fincore", "--bytes", "--noheadings", "--output", "RES", path],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return int(said.stdout)


def io(pid: int) -> dict[str, int]:
    """proc_pid_io(5), which a process that has ended has until it is waited for."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return {name: int(count) for name, _, count in (line.partition(":") for line in lines)}


def strace(run: Run, out: str) -> dict[str, Any]:
    """The calls that reach files, with the file of each descriptor."""
    drop(run.file)
    there = f"/data/{os.path.basename(out)}"
    options = ("-f", "-y", "-s", "0", "--seccomp-bpf", "-e", f"trace={CALLS}", "-o", there)
    argv = run.argv("strace", *options)
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    shutil.move(there, out)
    return {"code": done.returncode, "out": done.stdout[-500:], "err": done.stderr[-500:]}


def throttle(limit: str) -> None:
    """The group's reads of the disk that DATA is on, bytes a second or "max"."""
    device = os.stat(DATA).st_dev
    (GROUP / "io.max").write_text(f"{os.major(device)}:{os.minor(device)} rbps={limit}")


def begun(pid: int) -> None:
    """Wait until the disk was asked for enough of the file; fails if the process ends before."""
    base = io(pid)["read_bytes"]
    while io(pid)["read_bytes"] - base < UNDER_WAY:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        assert state != "Z", "it ended before much was read"
        time.sleep(0.05)


def record(run: Run, when: str, out: str) -> dict[str, Any]:
    """A recording by ``dmatrace record -p``, and the file and the process beside it."""
    drop(run.file)
    if not GROUP.exists():
        GROUP.mkdir()
        (GROUP.parent / "cgroup.subtree_control").write_text("+io")
    throttle("max" if when == "before" else str(SLOW))
    with tempfile.TemporaryFile() as output:
        target = subprocess.Popen(
            [*_GATE, *run.argv()], stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
        )
        assert target.stdin is not None
        (GROUP / "cgroup.procs").write_text(str(target.pid))
        try:
            found = followed(run, target, when, out)
        finally:
            throttle("max")
            target.kill()  # unless it has ended
            target.wait()
        output.seek(0)
        text = output.read().decode(errors="replace")
    return {**found, "code": target.returncode, "text": text[-500:]}


def followed(run: Run, target: subprocess.Popen[bytes], when: str, out: str) -> dict[str, Any]:
    """Let the process load and dmatrace record it, in that order or the other; until both end."""
    assert target.stdin is not None
    pid = target.pid
    if when == "during":
        target.stdin.write(b"go\n")
        target.stdin.flush()
        begun(pid)
    status = os.stat(run.file)
    said: list[str] = []
    argv = ["dmatrace", "record", "-p", str(pid), "-o", out]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ours:
        assert ours.stderr is not None
        assert ours.stdout is not None
        for line in ours.stderr:
            said.append(line.rstrip())
            if line.startswith("following"):
                break
        at_attach = {"io": io(pid), "cached": cached(run.file)}
        if when == "before":
            target.stdin.write(b"go\n")
            target.stdin.flush()
        throttle("max")
        # Not waited for yet: /proc has a zombie's counts.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        at_end = {"io": io(pid), "cached": cached(run.file)}
        said += [line.rstrip() for line in ours.stderr]
        printed = ours.stdout.read()
    return {
        "pid": pid,
        "dev": f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}",
        "ino": status.st_ino,
        "size": status.st_size,
        "attach": at_attach,
        "end": at_end,
        "dmatrace": {"code": ours.returncode, "argv": argv, "out": printed, "err": said},
    }


def main() -> None:
    """One of them."""
    what, *rest = sys.argv[1:]
    if what == "prepare":
        said = prepare(*rest)
    elif what == "tidy":
        said = tidy()
    elif what == "strace":
        said = strace(RUNS[rest[0]], rest[1])
    else:
        said = record(RUNS[rest[0]], *rest[1:])
    print(json.dumps(said))


if __name__ == "__main__":
    main()
