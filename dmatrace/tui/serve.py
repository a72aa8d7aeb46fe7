"""The view in a browser, by textual-serve: each page that is opened runs one of its own.

Whoever can open the page can use the view, with the rights it runs with, so it
listens on this machine alone unless told otherwise.
"""

from __future__ import annotations

import ipaddress
import socket
import sys

from dmatrace.errors import CannotHere, DmatraceError


def serve(command: str, *, host: str, port: int) -> None:
    """Serve ``command``, a Textual application, until Ctrl-C.

    Raises CannotHere without textual-serve, DmatraceError when the address is taken.
    """
    try:
        from dmatrace.tui.server import Alone
    except ImportError:
        raise CannotHere(
            "a view in the browser needs textual-serve", do="pip install textual-serve"
        ) from None
    local = _check(host, port)
    print(f"dmatrace: http://{host}:{port} (Ctrl-C ends it)", file=sys.stderr)
    if not local:
        print(
            f"dmatrace: {host} is open to other machines: whoever opens the page uses the view",
            file=sys.stderr,
        )
    Alone(command, host=host, port=port, local=local).serve()


def _check(host: str, port: int) -> bool:
    """Whether ``host`` is this machine's own address; DmatraceError if it cannot be had."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OverflowError:
        raise DmatraceError(f"{port} is no port", do="use --port 1024 to 65535") from None
    except OSError as error:
        raise DmatraceError(
            f"cannot listen on {host}:{port}: {error.strerror}", do="use another --port"
        ) from None
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)
