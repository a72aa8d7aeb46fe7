"""``dmatrace buffers``: every dma-buf of this machine, and which processes hold it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dmatrace.cli import output
from dmatrace.report.layout import Style
from dmatrace.sizes import format_size, short_size

if TYPE_CHECKING:
    from dmatrace.session.inventory import Buffer, Holder, Inventory

NAME = "buffers"
HELP = "list every dma-buf of this machine: size, exporter, and who holds it"

_EXAMPLES = """\
The list is the kernel's own where it gives one (BPF iterator, else debugfs), else
what the processes in /proc hold; the last line says which. A buffer that no
process holds is kept by a device, or by a message that carries its descriptor.

exit codes: 0 listed (what may not be seen is counted), 1 failed, 2 usage

examples:
  sudo dmatrace buffers
  sudo dmatrace buffers --json | jq '.buffers[] | select(.size > 1073741824)'
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.epilog = _EXAMPLES
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    """Print the buffers to stdout."""
    from dmatrace.session import inventory

    found = inventory.take()
    if args.json:
        output.write(json.dumps(document(found), indent=1) + "\n")
    else:
        style = Style(
            color=sys.stdout.isatty() and not os.environ.get("NO_COLOR"),
            ascii=not output.encodes("…"),
        )
        output.write("\n".join(text(found, style)) + "\n")
    return 0


def document(found: Inventory) -> dict[str, Any]:
    """The JSON document: sizes in bytes, null where this user could not see it."""
    return {"schema": 1, "kernel": platform.release(), **asdict(found)}


def text(found: Inventory, style: Style) -> Iterator[str]:
    """Lines of at most 79 cells: a line for each buffer, one below for each holder."""
    if found.buffers:
        yield style.paint(f"{'inode':>10} {'size':>7}  {'exporter':16} name", "bold")
    for buffer in found.buffers:
        size = "?" if buffer.size is None else short_size(buffer.size)
        line = f"{buffer.ino:>10} {size:>7}  {style.left(buffer.exporter or '?', 16)} "
        yield (line + style.cut(buffer.name or "-", 40)).rstrip()
        for holder in buffer.holders:
            yield from style.wrap(_holds(holder), " " * 14, " " * 12)
        for device in buffer.devices or ():
            yield from style.wrap(f"device {device} is attached", " " * 14, " " * 12)
        if not buffer.holders:
            yield " " * 12 + "no process that can be seen holds it"
    yield from style.wrap(_sum(found))


def _holds(holder: Holder) -> str:
    parts = []
    if holder.fds:
        parts.append(f"fd {', '.join(map(str, holder.fds))}")
    if holder.mapped:
        parts.append(f"maps {format_size(holder.mapped)}")
    return f"{holder.comm} ({holder.pid}): {'; '.join(parts)}"


def _sum(found: Inventory) -> str:
    known: list[Buffer] = [each for each in found.buffers if each.size is not None]
    total = sum(each.size or 0 for each in known)
    count = len(found.buffers)
    said = f"{count} dma-buf{'' if count == 1 else 's'}, {format_size(total)}"
    if len(known) < count:
        said += f" and {count - len(known)} of unknown size"
    said += f"; source: {_SOURCES.get(found.source, found.source)}."
    if not found.complete:
        said += " Buffers that no process holds are not among them."
    if found.unseen:
        count = found.unseen
        said += f" {count} process{'' if count == 1 else 'es'} may not be looked at"
        said += ": run it with sudo." if os.geteuid() else "."
    return said


_SOURCES = {
    "proc": "/proc/PID/fdinfo and maps",
    "debugfs": "/sys/kernel/debug/dma_buf/bufinfo",
    "BPF iterator": "the kernel's BPF iterator over dma-bufs",
}
