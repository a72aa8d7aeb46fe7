"""The memory ledger of a load: per file, per process, over time.

All of it is of the time from the load's start to its buffer being full, as the
contract's page_cache_* are.  Bytes are what the tracer counted; byte-seconds
are summed from samples, by the trapezoid rule.  Between two samples the amount
lies between the first less what was removed and the first plus what was added,
so the sum is off by at most (added + removed) / 2 times their distance: that
bound is given beside it.

What a kernel or a recording does not say is None, and ``unavailable`` says why.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dmatrace.analysis.ledger_samples import Samples
from dmatrace.analysis.readahead import PAGE, readahead

if TYPE_CHECKING:
    import pandas as pd

#: How folios leave the page cache; "other" is what is left.
HOW = ("invalidate", "truncate", "unlink", "drop_caches", "reclaim", "kswapd")
#: Of those, what a process does to a file of its own accord.
_DONE = ("invalidate", "truncate", "unlink", "other")
_KEYS = (
    "files", "processes", "removed_by", "removed_how", "byte_seconds", "byte_seconds_error",
    "readahead", "refaults", "reclaim_elsewhere", "dmabufs", "pinned", "psi", "vmstat", "timeline",
)  # fmt: skip
_OLD = "this recording has no samples: it was made without the memory ledger"

Row = dict[str, Any]
Key = tuple[int, int]


@dataclass(frozen=True)
class Tables:
    """The rows of one load in the tables that the ledger is made of."""

    page_cache: pd.DataFrame
    ledger: pd.DataFrame
    runs: pd.DataFrame
    buffers: pd.DataFrame
    files: pd.DataFrame  # of the whole recording
    meta: Mapping[str, Any]


def ledger(
    load: Mapping[str, Any], tables: Tables, processes: Sequence[Row], cachestat: Mapping[str, Any]
) -> Row:
    """The keys that the ledger adds to the contract's ``memory`` of ``load``.

    ``processes`` are what ``per_process`` made, ``cachestat`` is the file's after the load.
    """
    said = tables.meta.get("ledger") or {}
    samples = Samples(tables.ledger)
    if len(samples.times) < 2:
        return {**dict.fromkeys(_KEYS), "unavailable": {"ledger": _OLD}}
    unavailable = dict(said.get("unavailable") or {})
    loaded = (int(load["dev"]), int(load["ino"]))
    # One that was not open at any look is known by its load.
    names = {loaded: str(load["file"] or "")} | _names(tables.files, samples.times[-1])
    files = _files(tables, samples, loaded, names)
    cached = [file for file in files if file["kind"] == "file"]
    mine = [file for file in cached if file["loaded"]] or cached
    dmabufs = _dmabufs(tables.buffers, samples.times[-1])
    pinned = _pinned(load, samples)
    timeline = _timeline(files, tables.buffers, samples, said)
    refaulted = sum(process["refaulted"] for process in processes)
    result: Row = {
        "files": [{k: v for k, v in file.items() if k[0] != "_"} for file in files],
        "processes": list(processes),
        "removed_by": _sum(file["removed_by"] for file in mine),
        "removed_how": _sum(file["removed_how"] for file in mine),
        "byte_seconds": {
            "page_cache": sum(file["byte_seconds"] for file in cached),
            "shmem": sum(f["byte_seconds"] for f in files if f["kind"] == "shmem"),
            "dmabuf": sum(one["byte_seconds"] for one in dmabufs),
            "pinned": pinned["byte_seconds"],
        },
        "byte_seconds_error": {
            "page_cache": sum(file["byte_seconds_error"] for file in cached),
            "shmem": sum(f["byte_seconds_error"] for f in files if f["kind"] == "shmem"),
        },
        "readahead": _sum(file["readahead"] for file in cached)
        or dict.fromkeys(("added", "used", "mapped", "unread"), 0),
        "refaults": {
            "bytes": refaulted,
            "file_bytes": sum(file["refaulted"] for file in mine),
            "evicted": _pages(cachestat, "nr_evicted"),
            "recently_evicted": _pages(cachestat, "nr_recently_evicted"),
        },
        "reclaim_elsewhere": _elsewhere(cached, mine, samples),
        "dmabufs": dmabufs,
        "pinned": pinned,
        "psi": {
            name: samples.change("psi", {f"{kind}_ns": f"{name}.{kind}" for kind in _KINDS})
            for name in ("memory", "io")
        },
        "vmstat": samples.changes("vmstat") or None,
        "timeline": timeline,
        "unavailable": unavailable,
    }
    _without_hooks(result, tables.meta)
    if not cachestat:
        unavailable["cachestat"] = "this kernel has no cachestat(2) (before 6.5)"
    if "page cache" in unavailable:
        for key in ("files", "removed_by", "removed_how", "readahead", "reclaim_elsewhere"):
            result[key] = None
        result["byte_seconds"]["page_cache"] = result["byte_seconds"]["shmem"] = None
        timeline["page_cache"] = timeline["shmem"] = None
    return result


_KINDS = ("some", "full")


def _without_hooks(result: Row, meta: Mapping[str, Any]) -> None:
    """What hooks that are not attached would have said is not 0."""
    hooks = {str(hook.get("name")): hook for hook in meta.get("hooks") or []}
    lacking = {name for name, hook in hooks.items() if hook.get("attached") in (None, "null")}
    unavailable = result["unavailable"]
    if "workingset_refault" in lacking:
        unavailable["refaults"] = "workingset_refault is not attached"
        result["refaults"] |= {"bytes": None, "file_bytes": None}
        for row in (*result["files"], *result["processes"]):
            row["refaulted"] = None
    blind = sorted(lacking & {"page_cache_ra_unbounded", "filemap_read"})
    if blind:
        unavailable["readahead"] = f"{' and '.join(blind)} not attached"
        result["readahead"] = None
        for row in result["files"]:
            row["readahead"] = None
    shmem = hooks.get("shmem_alloc_and_add_folio", {}).get("function")
    if shmem not in (None, "shmem_alloc_and_add_folio"):
        unavailable["shmem by file"] = f"{shmem} returns folios that are not in their file yet"


def _files(tables: Tables, samples: Samples, loaded: Key, names: Mapping[Key, str]) -> list[Row]:
    runs: dict[Key, list[Row]] = {}
    for run in _runs(tables.runs, samples.times[0], samples.times[-1]):
        runs.setdefault((int(run["dev"]), int(run["ino"])), []).append(run)
    rows: dict[Key, list[Row]] = {}
    for row in _rows(tables.page_cache, "t_ns"):
        rows.setdefault((int(row["dev"]), int(row["ino"])), []).append(row)
    found = [
        _file(key, mine, samples.times, names.get(key, ""), runs.get(key, ()), loaded)
        for key, mine in rows.items()
    ]
    # A file that the load left alone was in the ledger since an earlier load.
    used = [f for f in found if f["loaded"] or f["added"] or f["removed"]]
    return sorted(used, key=lambda f: (not f["loaded"], -f["added"], f["dev"], f["ino"]))


def _names(table: pd.DataFrame, until: int) -> dict[Key, str]:
    """Paths as they were at a time; of one that was found later, the first.

    A file that is unlinked gives its inode's number to another.
    """
    found: dict[Key, str] = {}
    for row in _rows(table, "t_ns"):
        key = (int(row["dev"]), int(row["ino"]))
        if row["t_ns"] <= until or key not in found:
            found[key] = str(row["path"])
    return found


def _runs(table: pd.DataFrame, first: int, last: int) -> list[Row]:
    """Those that began in the load, each once: an open one may be reported again when it ends."""
    found = {
        tuple(run[name] for name in ("tid", "kind", "dev", "ino", "start", "since_ns")): run
        for run in _rows(table, "until_ns")
        if first <= run["since_ns"] <= last
    }
    return list(found.values())


def _file(
    key: Key, rows: Sequence[Row], times: Sequence[int], path: str, runs: Iterable[Row], loaded: Key
) -> Row:
    last = rows[-1]
    # One that the first sample does not have entered the ledger later, at zero.
    first = rows[0] if rows[0]["t_ns"] <= times[0] else _before(rows[0])
    grown = {name: int(last[name]) - int(first[name]) for name in _COUNTED}
    based = bool(last["based"]) if last["based"] in (True, False) else False
    # The base may be found after the first row, and shifts all before it.
    base = int(last["current"]) - int(last["added"]) + int(last["removed"])
    moments = [int(row["t_ns"]) for row in rows]
    nets = [base + int(row["added"]) - int(row["removed"]) for row in rows]
    moved = [int(row["added"]) + int(row["removed"]) for row in rows]
    before = base + int(first["added"]) - int(first["removed"])
    started = int(first["added"]) + int(first["removed"])
    current = _steps(moments, nets, times, before)
    total, error = _held(times, current, _steps(moments, moved, times, started))
    peak = int(last["peak"]) if int(last["peak"]) > int(first["peak"]) else max(current)
    how = {name: grown[f"removed_{name}"] for name in HOW}
    own = {name: grown[f"self_{name}"] for name in HOW}
    how["other"] = grown["removed"] - sum(how.values())
    own["other"] = grown["removed_self"] - sum(own.values())
    return {
        "path": path,
        "dev": key[0],
        "ino": key[1],
        "kind": str(last["kind"]) or "file",
        "loaded": key == loaded,
        "cached_before": before if based else None,
        **{name: grown[name] for name in ("added", "added_self", "removed", "removed_self")},
        "peak": peak if based else None,
        "end": int(last["current"]) if based else None,
        "byte_seconds": total,
        "byte_seconds_error": error,
        "readahead": readahead(runs),
        "refaulted": grown["refaulted"],
        "removed_by": _by(how, own),
        "removed_how": how,
        "_current": current,
    }


_COUNTED = (
    "added", "removed", "removed_self", "added_self", "refaulted",
    *(f"{who}_{how}" for who in ("removed", "self") for how in HOW),
)  # fmt: skip


def _rows(table: pd.DataFrame, by: str) -> list[Row]:
    """A table's rows in the order of a time."""
    found = table.sort_values(by, kind="stable").to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in found]


def _before(row: Row) -> Row:
    return {**row, **dict.fromkeys(_COUNTED, 0), "peak": 0}


def _by(how: Mapping[str, int], own: Mapping[str, int]) -> dict[str, int]:
    """Who removed it: the traced process by its own doing, else what removed it."""
    process = sum(own[name] for name in _DONE)
    return {"process": process, **{n: how[n] - (own[n] if n in _DONE else 0) for n in how}}


def _steps(
    moments: Sequence[int], values: Sequence[int], times: Sequence[int], before: int
) -> list[int]:
    """A step function's value at each time."""
    found = []
    for t_ns in times:
        place = bisect_right(moments, t_ns)
        found.append(values[place - 1] if place else before)
    # The last row is written a moment after the last sample's time was taken.
    if found and values:
        found[-1] = values[-1]
    return found


def _held(times: Sequence[int], current: Sequence[int], moved: Sequence[int]) -> tuple[int, int]:
    """(byte-seconds, by how much they may be off)."""
    total = error = 0
    for n in range(1, len(times)):
        ns = times[n] - times[n - 1]
        total += (current[n] + current[n - 1]) * ns
        error += (moved[n] - moved[n - 1]) * ns
    return round(total / 2e9), round(error / 2e9)


def _dmabufs(buffers: pd.DataFrame, end: int) -> list[Row]:
    """Per exporter and heap: bytes from export to release, counted until the buffer is full."""
    found: dict[tuple[str, str], Row] = {}
    held: dict[int, tuple[int, int, Row]] = {}
    levels: dict[tuple[str, str], int] = {}
    for row in _rows(buffers, "t_ns"):
        ino, t_ns = int(row["ino"]), int(row["t_ns"])
        if row["event"] == "export":
            name = (str(row["exporter"]), str(row["heap"]))
            one = found.setdefault(
                name,
                {"exporter": name[0], "heap": name[1] or None, "count": 0, "bytes": 0, "peak": 0,
                 "released": 0, "byte_seconds": 0},
            )  # fmt: skip
            one["count"] += 1
            one["bytes"] += int(row["size"])
            levels[name] = levels.get(name, 0) + int(row["size"])
            one["peak"] = max(one["peak"], levels[name])
            held[ino] = (t_ns, int(row["size"]), one)
        elif ino in held:
            since, size, one = held.pop(ino)
            levels[one["exporter"], one["heap"] or ""] -= size
            one["released"] += size
            one["byte_seconds"] += size * max(0, min(t_ns, end) - since)
    for since, size, one in held.values():
        one["byte_seconds"] += size * max(0, end - since)
    for one in found.values():
        one["byte_seconds"] = round(one["byte_seconds"] / 1e9)
    return list(found.values())


def _pinned(load: Mapping[str, Any], samples: Samples) -> Row:
    page_us = samples.between("pinned", "page_us") or 0
    return {
        "peak": int(load["pinned_peak"]),
        "end": samples.at("pinned", "now", samples.times[-1]),
        "held_ns": samples.between("pinned", "held_ns"),
        "byte_seconds": round(page_us * PAGE / 1e6),
    }


def _elsewhere(cached: Sequence[Row], mine: Sequence[Row], samples: Samples) -> Row:
    """What reclaim took from others while the load ran, whoever made it necessary.

    anon: of the whole machine (pgsteal_anon).  Of memory that reclaim took at the limit of
    a memory cgroup, pgsteal_kswapd and pgsteal_direct say nothing, pgsteal_anon and _file do.
    """
    others = [file for file in cached if file not in mine]
    found = {}
    for how in ("kswapd", "reclaim"):
        unknown = samples.between("elsewhere", how) or 0
        found[how] = unknown + sum(file["removed_how"][how] for file in others)
    anon = samples.between("vmstat", "pgsteal_anon")
    return {
        "page_cache": sum(found.values()),
        **found,
        "anon": None if anon is None else anon * PAGE,
    }


def _timeline(
    files: Sequence[Row], buffers: pd.DataFrame, samples: Samples, said: Mapping[str, Any]
) -> Row:
    """Bytes at every sample; pressure as ns since the first."""
    times = samples.times

    def of(kind: str) -> list[int]:
        series = [file["_current"] for file in files if file["kind"] == kind]
        return [sum(values) for values in zip(*series, strict=True)] or [0] * len(times)

    def pressure(name: str) -> list[int] | None:
        found = samples.series("psi", name)
        return None if found is None else [value - found[0] for value in found]

    live, level, ends = [], 0, _rows(buffers, "t_ns")
    known: dict[int, int] = {}
    for t_ns in times:
        while ends and ends[0]["t_ns"] <= t_ns:
            row = ends.pop(0)
            if row["event"] == "export":
                known[int(row["ino"])] = int(row["size"])
                level += int(row["size"])
            else:
                level -= known.pop(int(row["ino"]), 0)
        live.append(level)
    return {
        "interval_ns": int(said.get("interval_ns") or 0),
        "t_ns": [t_ns - times[0] for t_ns in times],
        "page_cache": of("file"),
        "shmem": of("shmem"),
        "dmabuf": live,
        "pinned": samples.series("pinned", "now"),
        "psi_memory_some_ns": pressure("memory.some"),
        "psi_io_some_ns": pressure("io.some"),
    }


#: Key of a process: the counter.
_PROCESS = {
    "page_cache_added": "cache_added_bytes",
    "page_cache_removed": "cache_removed_bytes",
    "readahead": "readahead_bytes",
    "refaulted": "refault_bytes",
    "shmem": "shmem_alloc_bytes",
    "pinned": "pin_bytes",
}


def per_process(threads: Iterable[tuple[int, str, Mapping[str, int]]]) -> list[Row]:
    """Bytes by the process whose threads added, removed, allocated or pinned them.

    ``threads`` are (tgid, comm, its counters); pinned is all that was, not the peak.
    """
    found: dict[int, Row] = {}
    for tgid, comm, counters in threads:
        row = found.setdefault(tgid, {"pid": tgid, "comm": comm, **dict.fromkeys(_PROCESS, 0)})
        for key, counter in _PROCESS.items():
            row[key] += counters.get(counter, 0)
    return [found[pid] for pid in sorted(found)]


def _sum(rows: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for row in rows:
        for name, value in row.items():
            total[name] = total.get(name, 0) + value
    return total


def _pages(cachestat: Mapping[str, Any], name: str) -> int | None:
    return int(cachestat[name]) * PAGE if name in cachestat else None
