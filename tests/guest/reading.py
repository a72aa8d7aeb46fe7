"""What the tests of targets run in the guest: reads of known sizes, in several processes.

usage: reading.py FILE DIRECT

FILE is read through the page cache and DIRECT with O_DIRECT: 13 MiB by this process and
11 MiB by a child; 3 MiB by a command that a child's second thread becomes; 5 MiB by each
of 3 threads.  Says who it is, as JSON, and exits with 7.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import threading
import time

MIB = 1 << 20
CODE = 7  # that it exits with


def buffered(path: str, size: int) -> None:
    """Through the page cache, which has nothing of the file."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    while size > 0:
        size -= len(os.read(fd, min(size, MIB)))
    os.close(fd)


def direct(path: str, size: int) -> None:
    """Past the page cache."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    with mmap.mmap(-1, MIB) as buffer:
        for offset in range(0, size, MIB):
            assert os.preadv(fd, [buffer], offset) == MIB
    os.close(fd)


def forked(work: object, *arguments: object) -> int:
    """A child that does ``work`` and nothing else; its number."""
    pid = os.fork()
    if pid == 0:
        try:
            work(*arguments)  # type: ignore[operator]
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return pid


def become(path: str) -> None:
    """dd, from a thread that is not the process's first."""
    words = ["dd", f"if={path}", "of=/dev/null", "bs=1M", "count=3", "iflag=direct"]
    thread = threading.Thread(target=os.execvp, args=("dd", [*words, "status=none"]))
    thread.start()
    thread.join()


def main() -> None:
    """All of it."""
    began = time.monotonic_ns()
    path, other = sys.argv[1:]
    said = {
        "pid": os.getpid(),
        "buffered": forked(buffered, path, 11 * MIB),
        "direct": forked(direct, other, 11 * MIB),
        "dd": forked(become, other),
    }
    direct(other, 13 * MIB)
    threads = [threading.Thread(target=direct, args=(other, 5 * MIB)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said |= {"uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups()}
    said |= {name: os.environ.get(name) for name in ("HOME", "USER", "LOGNAME", "SUDO_UID")}
    said["stdin"] = sys.stdin.read()
    said["ns"] = time.monotonic_ns() - began
    print(json.dumps(said), flush=True)
    os._exit(CODE)


if __name__ == "__main__":
    main()
