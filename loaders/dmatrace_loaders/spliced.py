"""File to memfd or dma-buf without a user buffer: sendfile(2), and splice(2) through a pipe.

Buffered, the pipe holds references to page-cache folios (filemap_splice_read);
with O_DIRECT the kernel reads into pages of its own (copy_splice_read).  Either
way the write side copies once: a memfd has no splice_write that would take the
pages themselves, and a dma-buf (through a stream of the loader module) cannot
take any.
"""

from __future__ import annotations

import fcntl
import os
from abc import abstractmethod
from collections.abc import Callable

from dmatrace_loaders import native
from dmatrace_loaders.dmabuf import Heap
from dmatrace_loaders.load import Load, Settings
from dmatrace_loaders.memfd import Memfd
from dmatrace_loaders.reading import Source, ended
from dmatrace_loaders.udmabuf import Udmabuf

PIPE = 1 << 20  # bytes; the most that an ordinary user gets (fs.pipe-max-size)

Send = Callable[[Source, int, int, int], None]


def send_range(source: Source, out: int, start: int, end: int) -> None:
    """sendfile(2) of [start, end) to where ``out`` is positioned."""
    at = start
    while at < end:
        got = os.sendfile(out, source.fd, source.start + at, source.asked(at, end))
        at = min(at + got, source.size)
        if got == 0 or source.cut(at, end):
            raise ended(source, at)


def splice_range(source: Source, out: int, start: int, end: int) -> None:
    """splice(2) of [start, end) to where ``out`` is positioned, through a pipe of 1 MiB."""
    out_of, into_pipe = os.pipe2(os.O_CLOEXEC)
    try:
        fcntl.fcntl(into_pipe, fcntl.F_SETPIPE_SZ, PIPE)
        at = start
        while at < end:
            asked = min(source.asked(at, end), PIPE)
            got = os.splice(source.fd, into_pipe, asked, offset_src=source.start + at)
            left = min(got, end - at)
            if got == 0 or source.cut(at + left, end):
                raise ended(source, at)
            while left:
                moved = os.splice(out_of, out, left)
                at += moved
                left -= moved
    finally:
        os.close(out_of)
        os.close(into_pipe)


class Sent(Load):
    """A load by ``send``, each of ``jobs`` threads its part of the file."""

    def __init__(self, send: Send, source: Source, settings: Settings) -> None:
        super().__init__(source, settings)
        self._send = send

    @abstractmethod
    def out(self, start: int) -> int:
        """A new fd that writes to the target, positioned at ``start``."""

    def load(self) -> None:
        """Send the file."""
        self.by_parts(self._part)

    def _part(self, start: int, end: int) -> None:
        out = self.out(start)
        try:
            self._send(self.source, out, start, end)
        finally:
            os.close(out)


class MemfdSent(Sent, Memfd):
    """Into a fresh memfd: its pages come while it is written."""

    def out(self, start: int) -> int:
        """A file description of its own, for a position of its own."""
        out = os.open(f"/proc/self/fd/{self.memfd}", os.O_RDWR | os.O_CLOEXEC)
        os.lseek(out, start, os.SEEK_SET)
        return out


class UdmabufSent(MemfdSent, Udmabuf):
    """The same into the memfd behind a udmabuf: UDMABUF_CREATE allocates its pages."""


class HeapSent(Sent, Heap):
    """Into a system-heap buffer, by streams that the loader module binds to it."""

    def out(self, start: int) -> int:
        """A stream that begins at ``start``."""
        with native.Device() as device:
            return device.stream(self.dmabuf, offset=start)
