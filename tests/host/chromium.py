"""Headless Chromium (Debian's package), for tests of what a browser shows."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

BINARY = "chromium"
PATIENCE_S = 500
# Root may not use the sandbox; the pages are our own.
_ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
)  # fmt: skip


def command(profile: Path, *arguments: str) -> list[str]:
    """The argv of a browser with a profile of its own; skips the test where there is none."""
    if shutil.which(BINARY) is None:
        pytest.skip("no chromium here: make packages")
    return [BINARY, *_ARGUMENTS, f"--user-data-dir={profile}", *arguments]


def run(profile: Path, *arguments: str) -> str:
    """Run a browser to its end; what it printed, errors included."""
    done = subprocess.run(
        command(profile, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment(profile),
        timeout=PATIENCE_S,
        check=True,
    )
    return done.stdout.decode(errors="replace")


class Served:
    """A browser at a page of ``directory``; the page tells by POST, and ``told`` waits for it.

    Over HTTP on the loopback, in real time: a virtual clock stands still on a busy machine.
    """

    def __init__(self, directory: Path, page: str, profile: Path) -> None:
        outer = self
        self._told: queue.Queue[bytes] = queue.Queue()

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=str(directory))

            def do_POST(self) -> None:
                outer._told.put(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._where = f"http://127.0.0.1:{self._server.server_port}/{page}"
        self._profile = profile

    def __enter__(self) -> Served:
        self._browser = start(self._profile, [self._where])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        stop(self._browser)
        self._server.shutdown()
        self._server.server_close()

    def told(self) -> bytes:
        """The next thing that the page says."""
        return self._told.get(timeout=PATIENCE_S)


def start(profile: Path, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """A browser in the background; ``stop`` ends it."""
    return subprocess.Popen(
        command(profile, "--remote-debugging-port=0", *arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_environment(profile),
        start_new_session=True,
    )


def stop(browser: subprocess.Popen[bytes]) -> None:
    """End a browser and everything it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(browser.pid, signal.SIGKILL)
    browser.wait()


def _environment(profile: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(profile), "XDG_RUNTIME_DIR": str(profile)}
