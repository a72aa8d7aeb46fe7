"""The JSON document of ``report -f json``: a recording as the contract describes it.

Besides the contract's keys it carries what the text report needs: whether the
recorder closed the recording (``complete``), which tables lost their tail
(``torn``), per load ``load_id``, ``failed``, ``refused``, ``partial`` (a
thread's end was not seen), what the loader module reported of itself (``module``),
its steps as they were traced (``steps``), the machine's dma-bufs at its end
(``inventory``, null if nobody looked), the counts of what the phase stack could
not follow (``stack``) and, where stacks were sampled, the functions they were in
(``samples``); of a process that was followed (strategy "observed") its ``pid``,
``comm``, ``command`` and how it ``ended`` ("" if it ran on); per thread what the
kernel's delay accounting says (``delays``, null if nothing is known).  ``file_loads``
are the large files that processes loaded, and how (classify.py); ``buffer_flows`` which of
them filled each dma-buf; a load's ``findings`` what its figures mean, ranked; ``tried`` is
what ``--try`` measured, null where it was not given.  ``lost`` has
``lost_events`` by kind, and beside them "missed", the calls of any task that probes
missed, null where the kernel does not count those.  A load's ``hidden`` names the missing
hooks of each figure that is too low or, as in its ``copies``, null without them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dmatrace.analysis import (
    block,
    critical,
    delays,
    files,
    findings,
    inventory,
    loaded,
    overlap,
    samples,
    sweep,
    time,
)
from dmatrace.analysis.copies import copies
from dmatrace.analysis.hidden import hidden
from dmatrace.analysis.ledger import Tables, ledger, per_process
from dmatrace.analysis.memory import memory
from dmatrace.analysis.steps import steps
from dmatrace.analysis.tried import tried
from dmatrace.analysis.verdicts import direct
from dmatrace.recording.schema import TABLES

if TYPE_CHECKING:
    import pandas as pd

    from dmatrace.recording.reader import Recording

SCHEMA = 1


def document(recording: Recording) -> dict[str, Any]:
    """The document of ``recording``: plain dicts, lists, ints, floats and strings.

    Raises DmatraceError when a table is damaged.
    """
    meta = recording.meta
    loads = _loads(recording)
    files_loaded, flows = loaded.of_recording(recording)
    for load in loads:
        load["findings"] = findings.findings(load, files_loaded, flows)
    return {
        "schema": SCHEMA,
        "dmatrace": str(meta.get("dmatrace", "")),
        "kernel": str(meta.get("kernel", "")),
        "machine": str(meta.get("machine", "")),
        "device": str(meta.get("device") or ""),
        "started": str(meta.get("started", "")),
        "detail": str(meta.get("detail", "")),
        "sample_hz": int(meta.get("sample_hz") or 0),
        "page_size": int(meta.get("page_size") or 4096),
        "complete": recording.complete,
        "torn": sorted(recording.torn),
        "target": dict(meta.get("target") or {}),
        "lost_events": int(meta.get("lost_events") or 0),
        "lost": dict(meta.get("lost") or {}),
        "hooks": [_named(hook, _HOOK) for hook in meta.get("hooks") or []],
        "loads": loads,
        "tried": tried(recording, loads),
        "file_loads": files_loaded,
        "buffer_flows": flows,
        "skipped": [_named(skip, _SKIPPED) for skip in meta.get("skipped") or []],
        "self": _self_cost(meta.get("self") or {}),
    }


def figured(recording: Recording) -> dict[str, Any]:
    """What loads are compared by (comparison/loads.py) of ``recording``.

    Of the document its ``kernel``, ``machine``, ``device`` and ``loads``, and of a load all
    but what explains its figures: ``direct``, ``critical``, ``files``, ``steps``,
    ``module``, ``inventory``, ``samples`` and ``findings`` are not there.  Raises as
    document() does, for the tables that it reads.
    """
    names = ("kernel", "machine", "device")
    return {
        **{name: str(recording.meta.get(name) or "") for name in names},
        "loads": _loads(recording, explained=False),
    }


# Tables that every load has its part of.
_PER_LOAD = ("intervals", "waits", "file_reads")
#: Tables of the memory ledger that have a load_id.
_SAMPLED = ("page_cache", "ledger", "runs", "buffers")
_HOOK = {"name": "", "phase": "", "attached": None, "hides": None}
_PROGRAM = {"name": "", "run_time_ns": 0, "run_cnt": 0, "missed": 0}
_SKIPPED = {"strategy": "", "why": "", "do": ""}


def _named(found: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    return {key: found.get(key, default) for key, default in keys.items()}


def _self_cost(found: Mapping[str, Any]) -> dict[str, Any]:
    numbers = ("bpf_ns", "bpf_runs", "recorder_cpu_ns", "recorder_rss")
    return {
        **{name: int(found.get(name) or 0) for name in numbers},
        "programs": [_named(each, _PROGRAM) for each in found.get("programs") or []],
        "ab": list(found.get("ab") or []),
    }


def _loads(recording: Recording, *, explained: bool = True) -> list[dict[str, Any]]:
    snapshots = recording.table("snapshots")
    found = [span for span in time.spans(snapshots) if span.first.load_id > 0]
    phases = time.cells(found, snapshots, "phase", time.CELLS)
    counted = time.cells(found, recording.table("counters"), "counter", ("value",))
    clocks = time.own_clocks(recording.table("threads"))
    comms = _comms(recording.table("threads"))
    for name in ("requests", *_PER_LOAD, *_SAMPLED, "samples"):
        recording.part(name, 0)  # torn or damaged is to be said, whether or not there are loads
    dmabufs = inventory.by_load(recording.table("inventory")) if explained else {}
    windows = time.own_windows(recording.table("threads"))
    divided = recording.meta.get("detail") == "sampled"
    delayed = delays.by_thread(
        recording.table("delays"), recording.meta.get("delay_kinds") or delays.KINDS
    )
    rows = _load_rows(recording.table("loads"))
    for span in found:
        # A recorder killed before it named the load: the measurements still count.
        rows.setdefault(span.first.load_id, _unnamed(span.first.load_id))
    result = []
    for load_id in sorted(rows):
        mine = [span for span in found if span.first.load_id == load_id]
        counters = {
            name: values[0] for name, values in time.total(counted[span] for span in mine).items()
        }
        threads = time.thread_rows(
            mine,
            phases,
            counted,
            {tid: windows for (load, tid), windows in clocks.items() if load == load_id},
            comms,
        )
        for thread in threads:
            thread["delays"] = delays.possible(
                delayed.get((load_id, int(str(thread["tid"])))), int(str(thread["wall_ns"]))
            )
        tables = Tables(
            **{name: recording.part(name, load_id) for name in _SAMPLED},
            files=recording.table("files"),
            meta=recording.meta,
        )
        processes = per_process(
            (span.tgid, span.comm, {name: values[0] for name, values in counted[span].items()})
            for span in mine
        )
        bill = memory(rows[load_id])
        bill |= ledger(rows[load_id], tables, processes, bill["cachestat_after"])
        stacks = recording.part("samples", load_id)
        if divided:
            _divide(threads, samples.tallies(mine, stacks))
        parts = {name: recording.part(name, load_id) for name in _PER_LOAD}
        row = rows[load_id]
        load, times = _load(recording, row, bill, threads, counters, parts["intervals"])
        load["partial"] |= not all(span.whole for span in mine)
        if explained:
            load |= _explained(recording, row, load, counters, parts)
            load["critical"] = critical.of_load(
                threads, mine, parts, times, windows.get(load_id, {})
            )
            load["inventory"] = inventory.held(dmabufs.get(load_id, []), str(row["inventory"]))
            if recording.meta.get("sample_hz"):
                load["samples"] = samples.functions(mine, stacks)
        result.append(load)
    return result


def _divide(threads: list[dict[str, Any]], tallied: Mapping[time.Span, samples.Tally]) -> None:
    """The threads' phases in place, by their samples."""
    for thread in threads:
        mine = [tally for span, tally in tallied.items() if span.first.tid == thread["tid"]]
        thread["phases"] = samples.divide(thread["phases"], samples.together(mine))


def _load(
    recording: Recording,
    row: Mapping[str, Any],
    bill: dict[str, Any],
    threads: list[dict[str, object]],
    counters: Mapping[str, int],
    intervals: pd.DataFrame,
) -> tuple[dict[str, Any], block.Times]:
    """What a load is and costs, and when the device read for it."""
    done = block.columns(_reads(recording, int(row["load_id"]), block.COLUMNS))
    devices = recording.meta.get("devices") or []
    blocks, times = block.block(done, counters.get("bio_read_bytes", 0), devices)
    del done  # the largest; a load of ten million requests has to fit
    allocating = intervals[intervals["phase"].isin(overlap.ALLOCATING)]
    unknown = hidden(recording.meta.get("hooks") or [])
    return {
        "load_id": int(row["load_id"]),
        "strategy": str(row["strategy"]),
        "round": int(row["round"]),
        "file": str(row["file"]),
        "bytes": int(row["bytes"]),
        "cache_before": str(row["cache_before"]),
        "verified": row["verified"],
        "failed": str(row["failed"]),
        "refused": str(row["refused"]),
        **{name: row[name] for name in ("pid", "comm", "command", "ended") if row["pid"]},
        "partial": not row["end_ns"] and not row["failed"],
        **{name: int(row[name]) for name in ("create_ns", "io_ns", "close_ns", "wall_ns")},
        "threads": threads,
        "memory": bill,
        "copies": copies(counters, int(row["bytes"]), known="copies" not in unknown),
        "block": blocks,
        "overlap": overlap.overlapping(
            sweep.intervals(allocating["start_ns"].to_numpy(), allocating["end_ns"].to_numpy()),
            times.reading,
        ),
        "stack": {name: counters.get(name, 0) for name in ("lost_exits", "overflows")},
        "hidden": {what: list(names) for what, names in unknown.items()},
    }, times


def _explained(
    recording: Recording,
    row: Mapping[str, Any],
    load: Mapping[str, Any],
    counters: Mapping[str, int],
    parts: Mapping[str, pd.DataFrame],
) -> dict[str, Any]:
    """What says why a load costs what it does."""
    bill, intervals = load["memory"], parts["intervals"]
    seen = {**bill, "page_cache_added": None} if "cached" in load["hidden"] else bill
    reads = _reads(recording, load["load_id"], files.COLUMNS)
    return {
        "direct": direct(counters, load["strategy"], load["refused"], seen, load["bytes"]),
        "files": files.files(parts["file_reads"], reads, row),
        "steps": steps(
            zip(
                *(intervals[name].tolist() for name in ("hook", "start_ns", "end_ns")),
                strict=True,
            )
        ),
        "module": _module(str(row["module"])),
    }


def _reads(recording: Recording, load_id: int, columns: Sequence[str]) -> pd.DataFrame:
    return recording.part("requests", load_id, columns, where=block.READS, categories=True)


def _module(text: str) -> dict[str, int] | None:
    """What the loader module reported of a load; None if it had no part in it."""
    try:
        found = json.loads(text or "null")
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    return {name: value for name, value in found.items() if isinstance(value, int)}


def _load_rows(loads: pd.DataFrame) -> dict[int, dict[str, Any]]:
    """{load_id: its last row}, as plain Python values."""
    unknown = loads["verified"].isna().tolist()
    verified = loads["verified"].fillna(False).tolist()
    columns = {name: loads[name].tolist() for name in loads.columns}
    columns["verified"] = [
        None if missing else bool(value) for missing, value in zip(unknown, verified, strict=True)
    ]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {int(row["load_id"]): row for row in rows}


def _unnamed(load_id: int) -> dict[str, Any]:
    row = {column.name: column.default for column in TABLES["loads"]}
    return {**row, "load_id": load_id, "strategy": "unknown"}


def _comms(threads: pd.DataFrame) -> dict[int, str]:
    return dict(zip(threads["tid"].tolist(), threads["comm"].tolist(), strict=True))
