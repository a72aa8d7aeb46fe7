"""`dmatrace top --serve` in headless Chromium: what its terminal shows, typed into, and alone."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import matplotlib.image
import pytest
from devtools import Page

SIX = Path(__file__).parents[1] / "data" / "six.dmt"
# The page draws on a canvas: what its terminal holds is asked of xterm.js itself, whose
# owner is seen when it keeps one of its parts.
_WATCH = """
Object.defineProperty(Object.prototype, "fitAddon", {
  configurable: true,
  set(value) {
    window.shown = this.terminal;
    Object.defineProperty(this, "fitAddon", {value, writable: true});
  },
});
window.text = () => {
  const buffer = window.shown.buffer.active;
  return [...Array(window.shown.rows).keys()]
    .map((n) => buffer.getLine(n).translateToString(true)).join("\\n");
};
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[int]:
    """The port at which a replay is served."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TEXTUAL_DRIVER")}
    command = ["top", "--replay", str(SIX), "--serve", "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-m", "dmatrace", *command],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**kept, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        text=True,
    )
    try:
        assert server.stderr is not None
        assert f"http://localhost:{port}" in server.stderr.readline()
        yield port
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


async def _listening(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("localhost", port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return


def test_a_browser_shows_it_and_types_into_it(served: int, tmp_path: Path) -> None:
    async def visit() -> list[str]:
        await _listening(served)
        async with Page(tmp_path / "profile", 1200, 800) as page:
            await page.call("Page.addScriptToEvaluateOnNewDocument", source=_WATCH)
            await page.call("Page.navigate", url=f"http://localhost:{served}/")
            await page.until("window.shown && text().includes('where the time went')")
            screen = await page.run("text()")
            assert "1 Loads" in screen.replace("[", "").replace("]", "")
            assert "six.dmt" in screen
            for key in "24":
                await page.run("document.querySelector('.xterm-helper-textarea').focus()")
                await page.call("Input.dispatchKeyEvent", type="keyDown", text=key, key=key)
                await page.call("Input.dispatchKeyEvent", type="keyUp", key=key)
                wanted = {"2": "phases add up to", "4": "direct"}[key]
                await page.until(f"text().includes('{wanted}')")
            await page.run("new Promise(requestAnimationFrame)")
            await page.picture(tmp_path / "view.png")
            return page.asked

    asked = asyncio.run(visit())
    # Nothing is asked of other machines, as of a site with fonts.
    here = (f"http://localhost:{served}/", f"ws://localhost:{served}/", "data:")
    assert [url for url in asked if not url.startswith(here)] == []
    picture = matplotlib.image.imread(tmp_path / "view.png")
    colours = {tuple(pixel) for row in picture[::4, ::4, :3].tolist() for pixel in row}
    assert len(colours) > 20, "nothing is drawn"


def test_pages_of_other_sites_are_refused(served: int) -> None:
    """A page from elsewhere reaches the socket as ours does; it says where it is from."""
    expected = {
        None: 101,
        f"http://localhost:{served}": 101,
        f"http://127.0.0.1:{served}": 101,
        f"http://[::1]:{served}": 101,
        "http://localhost:1": 403,
        f"https://localhost:{served}": 403,
        f"http://example.org:{served}": 403,
        "http://localhost:99999999": 403,
        "null": 403,
    }

    async def ask(session: aiohttp.ClientSession, origin: str | None) -> int:
        headers = {} if origin is None else {"Origin": origin}
        try:
            async with session.ws_connect(f"http://localhost:{served}/ws", headers=headers):
                return 101
        except aiohttp.WSServerHandshakeError as error:
            return error.status

    async def all_of_them() -> dict[str | None, int]:
        await _listening(served)
        async with aiohttp.ClientSession() as session:
            return {origin: await ask(session, origin) for origin in expected}

    assert asyncio.run(all_of_them()) == expected
