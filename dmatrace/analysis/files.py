"""Per file: did its reads bypass the page cache, and what says so?

The bytes come from the calls that returned them, per file (table
``file_reads``); what the file system asks of direct I/O from statx(2); what
the disk read for it from its requests.  A file that was open with O_DIRECT
and whose bytes came out of the page cache all the same fell back: some file
systems do so without a word (ext4 with data=journal, tmpfs, an unaligned
tail).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dmatrace.analysis.block import coded
from dmatrace.analysis.verdicts import MINOR
from dmatrace.sizes import format_size

if TYPE_CHECKING:
    import pandas as pd

File = tuple[int, int]
#: The columns of requests that this module needs.
COLUMNS = ("file_dev", "ino", "kind", "bytes")
_AT_ONCE = 1 << 20  # rows
_COUNTS = (
    "direct", "direct_calls", "einval", "efault", "errors", "buffered", "fallback", "spliced",
    "offsets", "memory", "align_memory", "align_offset",
)  # fmt: skip


def files(
    read: pd.DataFrame, requests: pd.DataFrame, load: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One load's files: the loaded one first, then by bytes.

    ``read`` are its rows of file_reads and ``requests`` its completed reads (COLUMNS),
    ``load`` its own row, which says how much of its file was mapped.
    """
    own = (int(load["dev"]), int(load["ino"]))
    disk = _disk(requests)
    found: dict[File, dict[str, Any]] = {}
    mapped = 0
    known = read["align_known"].fillna(False).tolist()
    for number, row in enumerate(read.to_dict("records")):
        file = (int(row["dev"]), int(row["ino"]))
        counts = {name: int(row[name]) for name in _COUNTS}
        facts = {"path": str(row["path"]), "fs": str(row["fs"]), "align_known": bool(known[number])}
        found[file] = counts | facts
    if any(own):
        blank = dict.fromkeys(_COUNTS, 0) | {"path": "", "fs": "", "align_known": False}
        found.setdefault(own, blank)["path"] = str(load["file"])
        mapped = min(int(load["mapped"]), int(load["bytes"]))
    for file in disk:
        if file[1]:  # a device's own pages are its file system's metadata
            blank = dict.fromkeys(_COUNTS, 0) | {"path": "", "fs": "", "align_known": False}
            found.setdefault(file, blank)
    rows = [
        _file(file, facts, mapped if file == own else 0, disk.get(file, {}))
        for file, facts in found.items()
    ]
    order = {file: number for number, file in enumerate(found)}
    ranked = sorted(
        zip(found, rows, strict=True),
        key=lambda pair: (
            pair[0] != own,
            -pair[1]["direct_bytes"] - pair[1]["buffered_bytes"] - pair[1]["disk"]["read_bytes"],
            order[pair[0]],
        ),
    )
    return [row for _, row in ranked]


def _disk(done: pd.DataFrame) -> dict[File, dict[str, int]]:
    """{file: {kind: bytes}} of the requests that say whose they are."""
    found: dict[File, dict[str, int]] = {}
    codes, names = coded(done["kind"])
    for start in range(0, len(done), _AT_ONCE):
        part = done.iloc[start : start + _AT_ONCE].assign(kind=codes[start : start + _AT_ONCE])
        part = part[part["file_dev"] != 0]
        # Unsorted: files and kinds stay in the order of their first request.
        sums = part.groupby(["file_dev", "ino", "kind"], sort=False)["bytes"].sum()
        for (dev, ino, kind), size in zip(sums.index.tolist(), sums.tolist(), strict=True):
            kinds = found.setdefault((int(dev), int(ino)), {})
            kinds[names[kind]] = kinds.get(names[kind], 0) + size
    return found


def _file(
    file: File, facts: Mapping[str, Any], mapped: int, disk: Mapping[str, int]
) -> dict[str, Any]:
    direct = facts["direct"]
    buffered = facts["buffered"] + facts["spliced"] + mapped
    seen = direct + buffered
    if not seen:
        verdict = "none"
    elif direct < MINOR * seen:
        verdict = "buffered"
    elif buffered <= MINOR * seen:
        verdict = "direct"
    else:
        verdict = "mixed"
    row = {
        "path": facts["path"],
        "dev": f"{file[0] >> 20}:{file[0] & 0xFFFFF}",
        "ino": file[1],
        "fs": facts["fs"],
        "direct_bytes": direct,
        "buffered_bytes": buffered,
        "copied_bytes": facts["buffered"],
        "fallback_bytes": facts["fallback"],
        "spliced_bytes": facts["spliced"],
        "mapped_bytes": mapped,
        "direct_calls": facts["direct_calls"],
        "errors": {
            "EINVAL": facts["einval"], "EFAULT": facts["efault"], "other": facts["errors"],
        },
        "alignment": {
            "known": facts["align_known"],
            "memory": facts["align_memory"],
            "offset": facts["align_offset"],
            "reads_memory": lowest_bit(facts["memory"]),
            "reads_offset": lowest_bit(facts["offsets"]),
        },
        "disk": {"read_bytes": sum(disk.values()), "kinds": dict(disk)},
        "verdict": verdict,
    }  # fmt: skip
    row["why"] = "; ".join(_evidence(row)) or "no read of it was seen in a hooked path"
    return row


def lowest_bit(ored: int) -> int:
    """What every number that was ORed is a multiple of; 0 if there was none but 0."""
    return ored & -ored


def _evidence(row: Mapping[str, Any]) -> Iterator[str]:
    calls = row["direct_calls"]
    if row["direct_bytes"]:
        yield f"{format_size(row['direct_bytes'])} by direct I/O in {calls} calls"
    for name, how in (
        ("copied_bytes", "copied out of the page cache"),
        ("spliced_bytes", "taken by a pipe from the page cache"),
        ("mapped_bytes", "mapped from the page cache"),
    ):
        if row[name]:
            yield f"{format_size(row[name])} {how}"
    if row["fallback_bytes"]:
        on = f" on {row['fs']}" if row["fs"] else ""
        yield (
            f"fell back: {format_size(row['fallback_bytes'])} of that by a file open with"
            f" O_DIRECT{on}"
        )
    for name, count in row["errors"].items():
        if count:
            said = f"with {name}" if name != "other" else "otherwise"
            yield f"{count} direct call{'s' * (count > 1)} failed {said}"
    yield from _alignment(row["alignment"], calls, row["errors"]["EINVAL"])
    if row["disk"]["read_bytes"]:
        kinds = ", ".join(
            f"{format_size(size)} {kind or 'unknown'}"
            for kind, size in sorted(row["disk"]["kinds"].items(), key=lambda item: -item[1])
        )
        yield f"from the disk: {kinds}"


def _alignment(align: Mapping[str, Any], calls: int, refused: int) -> Iterator[str]:
    offset, memory = align["reads_offset"], align["reads_memory"]
    if align["known"] and not align["offset"]:
        yield "the file system has no direct I/O for it"
        return
    if not calls:
        return
    parts = []
    if offset:
        parts.append(f"positions and lengths to {format_size(offset)}")
    if memory:
        parts.append(f"addresses to {format_size(memory)}")
    said = "aligned: " + ", ".join(parts) if parts else ""
    if not align["known"]:
        if said:
            yield f"{said} (what is needed is not known)"
        return
    needed = f"needed: {format_size(align['offset'])}, {format_size(align['memory'])}"
    yield f"{said} ({needed})" if said else needed
    short = (offset and offset < align["offset"]) or (memory and memory < align["memory"])
    if refused and short:
        yield "so some were not aligned as needed"
