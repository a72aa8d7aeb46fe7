"""Headless Chromium (Debian's package), for tests of what a browser shows."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

BINARY = "chromium"
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
        timeout=300,
        check=True,
    )
    return done.stdout.decode(errors="replace")


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
