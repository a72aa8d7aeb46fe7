"""One page of a headless Chromium, by its DevTools protocol (chromedevtools.github.io)."""

from __future__ import annotations

import asyncio
import base64
import itertools
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import chromium


class Page:
    """The first page of a browser of its own, of ``width`` by ``height`` pixels."""

    def __init__(self, profile: Path, width: int, height: int) -> None:
        self._profile = profile
        self._size = f"--window-size={width},{height}"
        self._ids = itertools.count(1)
        self.asked: list[str] = []  # addresses

    async def __aenter__(self) -> Page:
        self._browser = chromium.start(self._profile, [self._size, "about:blank"])
        self._session = aiohttp.ClientSession()
        try:
            async with asyncio.timeout(chromium.PATIENCE_S):
                self._socket = await self._connect()
            await self.call("Page.enable")
            await self.call("Network.enable")
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._session.close()
        chromium.stop(self._browser)

    async def _connect(self) -> aiohttp.ClientWebSocketResponse:
        """Once the browser has written down where it listens, and has a page."""
        while True:
            try:
                port = (self._profile / "DevToolsActivePort").read_text().split()[0]
                async with self._session.get(f"http://127.0.0.1:{port}/json") as answer:
                    pages = [each for each in await answer.json() if each["type"] == "page"]
                where = pages[0]["webSocketDebuggerUrl"]
                return await self._session.ws_connect(where, max_msg_size=0)
            except (OSError, IndexError, aiohttp.ClientError):
                await asyncio.sleep(0.2)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One call's result; AssertionError with what the browser says of a failed one."""
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(chromium.PATIENCE_S):
            while True:
                answer = await self._socket.receive_json()
                if answer.get("method") == "Network.requestWillBeSent":
                    self.asked.append(answer["params"]["request"]["url"])
                if answer.get("id") == number:
                    assert "error" not in answer, answer
                    result: dict[str, Any] = answer["result"]
                    return result

    async def run(self, script: str) -> Any:
        """An expression's value, or what it promises."""
        found = await self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, script: str) -> Any:
        """An expression's value once it is true."""
        async with asyncio.timeout(chromium.PATIENCE_S):
            while not (value := await self.run(script)):
                await asyncio.sleep(0.2)
            return value

    async def picture(self, path: Path) -> None:
        """What it shows, as PNG."""
        found = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))
