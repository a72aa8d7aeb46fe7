"""textual-serve's server with a page of our own, and with an ear for this page alone.

Its own page asks another site for a font, and its socket answers whatever page a
browser has open: one from anywhere could type into a view that root started.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from textual_serve.server import Server

_PAGE = Path(__file__).parent / "page"
_LOCAL = ("localhost", "127.0.0.1", "::1")


class Alone(Server):
    """Serves ``command`` to its own page; ``local``: by any name of this machine for itself."""

    def __init__(self, command: str, *, host: str, port: int, local: bool) -> None:
        super().__init__(command, host=host, port=port, title="dmatrace top", templates_path=_PAGE)
        self._local = local

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """A page's socket; 403 for one of another site."""
        if not self._ours(request):
            raise web.HTTPForbidden(text="the view answers its own page alone")
        return await super().handle_websocket(request)

    def _ours(self, request: web.Request) -> bool:
        """Whether the page that asks came from us.  What is no browser names no origin."""
        origin = request.headers.get("Origin")
        if origin is None:
            return True
        try:
            asking = urlsplit(origin)
            if asking.scheme != "http" or (asking.port or 80) != self.port:
                return False
        except ValueError:
            return False
        if self._local:
            return asking.hostname in (*_LOCAL, self.host)
        # Of other machines: the name they called us by.
        return asking.netloc == request.host
