"""`dmatrace top`: what it refuses, in one line; a real terminal; a browser's side of it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from views import REAL

_TOP = (sys.executable, "-m", "dmatrace", "top")


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TEXTUAL_DRIVER")}
    return {**kept, "TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        ([], 2, "top needs a terminal; use `dmatrace record`"),
        (["-p", "x"], 2, "'x' is not a whole number above 0"),
        (["-p", "1", "--replay", "a.dmt"], 2, "not allowed with"),
        (["--strategy", "anon-bio"], 2, "--strategy needs a file to load; add --file PATH"),
        (["--strategy", "anonbio", "--size", "1M"], 2, "no strategy is called 'anonbio'"),
        (["-p", "1", "--size", "1M"], 2, "these options are for --strategy"),
        (["--replay", "/none.dmt"], 1, "/none.dmt: no such recording"),
        (["--replay", "/tmp"], 1, "/tmp is not a dmatrace recording"),
        (["--replay", str(REAL), "-o", "x"], 2, "a replay records nothing"),
        (["--replay", str(REAL), "--interval", "0.01"], 2, "not between 0.1 and 3600 seconds"),
        (["--replay", str(REAL)], 2, "top needs a terminal; use `dmatrace record`"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: list[str], code: int, line: str) -> None:
    done = subprocess.run(
        [*_TOP, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=_environment(),
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def _terminal(*arguments: str) -> tuple[int, int]:
    """(pid, the terminal's other end) of top on a terminal of 80x24."""
    pid, leader = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [*_TOP, *arguments], _environment())
    fcntl.ioctl(leader, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    return pid, leader


def _read(leader: int, until: bytes) -> bytes:
    found = b""
    deadline = time.monotonic() + 120
    while until not in found and time.monotonic() < deadline:
        if select.select([leader], [], [], 0.5)[0]:
            try:
                found += os.read(leader, 1 << 16)
            except OSError:  # EIO: it has ended
                break
    assert until in found, found[-2000:]
    return found


@pytest.mark.parametrize("how", ["q", "term"])
def test_on_a_terminal_until_it_is_left(how: str) -> None:
    pid, leader = _terminal("--replay", str(REAL))
    try:
        _read(leader, b"dmabuf-bio")
        if how == "q":
            os.write(leader, b"q")
        else:
            os.kill(pid, signal.SIGTERM)
        _read(leader, b"\x1b[?1049l")  # the alternate screen is left
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(leader)


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_in_a_browser() -> None:
    """The page is there, on this machine alone, and its socket brings the view."""
    import aiohttp

    port = _port()
    server = subprocess.Popen(
        [*_TOP, "--replay", str(REAL), "--serve", "--port", str(port)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=_environment(),
        text=True,
    )
    try:
        assert server.stderr is not None
        assert f"http://localhost:{port}" in server.stderr.readline()

        async def visit() -> tuple[str, bytes]:
            async with aiohttp.ClientSession() as session:
                for _ in range(600):
                    try:
                        async with session.get(f"http://localhost:{port}/") as answer:
                            page = await answer.text()
                        break
                    except aiohttp.ClientConnectorError:
                        await asyncio.sleep(0.1)
                got = b""
                url = f"http://localhost:{port}/ws?width=80&height=24"
                async with session.ws_connect(url) as view:
                    while b"dmabuf-bio" not in got:
                        message = await asyncio.wait_for(view.receive(), 120)
                        got += message.data if isinstance(message.data, bytes) else b""
                return page, got

        page, got = asyncio.run(visit())
        assert "dmatrace top" in page
        assert b"dmabuf-bio" in got
        listening = Path(f"/proc/{server.pid}/net/tcp").read_text().splitlines()[1:]
        mine = [line.split()[1] for line in listening if line.split()[1].endswith(f":{port:04X}")]
        assert mine
        assert all(address.startswith("0100007F:") for address in mine)  # 127.0.0.1
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [*_TOP, "--replay", str(REAL), "--serve", "--host", "127.0.0.1", "--port", port],
            capture_output=True,
            text=True,
            env=_environment(),
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(f"dmatrace: cannot listen on 127.0.0.1:{port}: Address already")
    assert done.stderr.count("\n") == 1
