"""What strace said of one file: which bytes came by which call."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.guest.runtimes.table import BUFFERED, DIRECT, MAPPED, POPULATED

_CALL = re.compile(r"^(?P<tid>\d+)\s+(?P<name>\w+)\((?P<rest>.*)$")
_RESUMED = re.compile(r"^(?P<tid>\d+)\s+<\.\.\. \w+ resumed>(?P<rest>.*)$")
_RESULT = re.compile(r"\)\s+= (?P<result>0x[0-9a-f]+|-?\d+)(?P<file><[^>]*>)?")
_FD = re.compile(r"^(?P<fd>\d+)<(?P<path>[^>]*)>")
_MAP = re.compile(
    r"^(?:NULL|0x[0-9a-f]+), (?P<length>\d+), (?P<prot>[A-Z_|]+), (?P<flags>[A-Z_|]+),"
    r" (?P<fd>-?\d+)(?:<(?P<path>[^>]*)>)?"
)
_ADVICE = re.compile(r"^(?P<where>0x[0-9a-f]+), (?P<length>\d+), (?P<advice>\w+)")


@dataclass
class Said:
    """The calls on one file; sizes in bytes."""

    direct: int = 0
    buffered: int = 0
    mapped: int = 0
    populated: bool = False
    reads: list[int] = field(default_factory=list)  # what each returned

    def way(self, size: int) -> str:
        """How at least nine tenths of the file came, as the table names it; "" if no way did."""
        enough = 0.9 * size
        if self.direct >= enough:
            return DIRECT
        if self.buffered >= enough:
            return BUFFERED
        if self.mapped >= enough:
            return POPULATED if self.populated else MAPPED
        return ""


def whole(lines: Iterable[str]) -> Iterable[str]:
    """Each call in one line, where strace wrote it in two because another thread came between."""
    begun: dict[str, str] = {}
    for line in lines:
        line = line.rstrip("\n")
        if line.endswith("<unfinished ...>"):
            begun[line.split(None, 1)[0]] = line.removesuffix("<unfinished ...>").rstrip()
            continue
        resumed = _RESUMED.match(line)
        if resumed:
            yield begun.pop(resumed["tid"], "") + resumed["rest"]
        else:
            yield line


def said(lines: Iterable[str], path: str) -> Said:
    """The calls on ``path`` in the output of ``strace -f -y`` of one process."""
    found = Said()
    direct: dict[str, bool] = {}  # descriptor -> whether it was opened with O_DIRECT
    mappings: list[tuple[int, int]] = []
    for line in whole(lines):
        call = _CALL.match(line)
        result = _RESULT.search(line)
        if not call or not result or result["result"].startswith("-"):
            continue
        name, rest, value = call["name"], call["rest"], int(result["result"], 0)
        if name in ("open", "openat") and result["file"] == f"<{path}>":
            direct[result["result"]] = "O_DIRECT" in rest
        elif name in ("read", "pread64", "readv", "preadv"):
            fd = _FD.match(rest)
            if fd and fd["path"] == path:
                found.reads.append(value)
                if direct.get(fd["fd"]):
                    found.direct += value
                else:
                    found.buffered += value
        elif name == "mmap":
            mapping = _MAP.match(rest)
            if mapping and mapping["path"] == path:
                found.mapped += int(mapping["length"])
                found.populated |= "MAP_POPULATE" in mapping["flags"]
                mappings.append((value, value + int(mapping["length"])))
        elif name == "madvise":
            advice = _ADVICE.match(rest)
            if advice and advice["advice"] in ("MADV_WILLNEED", "MADV_POPULATE_READ"):
                where = int(advice["where"], 16)
                found.populated |= any(first <= where < last for first, last in mappings)
    return found
