"""One real recording of six strategies: every figure is the same in every format."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from trace_processor import TraceProcessor

import dmatrace
from dmatrace.analysis.summary import summaries
from dmatrace.cli import main

SIX = Path(__file__).parents[1] / "data" / "six.dmt"
KINDS = ("cpu_ns", "blocked_ns", "runnable_ns")


def _run(*arguments: str, cwd: Path) -> bytes:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(shown), contextlib.chdir(cwd):
        assert main(list(arguments)) == 0
    shown.flush()
    return shown.buffer.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``report -f json`` prints: what the others are held against."""
    found = json.loads(_run("report", str(SIX), "-f", "json", cwd=tmp_path_factory.mktemp("r")))
    assert len({load["strategy"] for load in found["loads"]}) == 6
    assert isinstance(found, dict)
    return found


def _flat(load: Mapping[str, Any]) -> dict[str, Any]:
    """A load's figures by the names of the ``loads`` table."""
    return {
        **{name: load[name] for name in ("load_id", "round", "bytes")},
        **{name: load[name] for name in ("create_ns", "io_ns", "close_ns", "wall_ns")},
        **{k: v for k, v in load["memory"].items() if isinstance(v, int)},
        "copied_bytes": load["copies"]["cpu_bytes"],
        "copies_per_byte": load["copies"]["per_byte"],
        "requests": load["block"]["requests"],
        "read_bytes": load["block"]["read_bytes"],
        **{f"latency_{p}_ns": ns for p, ns in load["block"]["latency_ns"].items()},
        "direct_bytes": load["direct"]["direct_bytes"],
        "buffered_bytes": load["direct"]["buffered_bytes"],
        "alloc_ns": load["overlap"]["alloc_ns"],
        "reading_ns": load["overlap"]["io_ns"],
        "both_ns": load["overlap"]["both_ns"],
    }


def _phase_rows(document: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (load["load_id"], thread["tid"], phase["phase"], *(phase[kind] for kind in KINDS))
        for load in document["loads"]
        for thread in load["threads"]
        for phase in thread["phases"]
    ]


def test_frames_are_the_report(document: dict[str, Any]) -> None:
    frames = dmatrace.open(SIX)
    for load, row in zip(document["loads"], frames.loads.to_dict("records"), strict=True):
        assert {name: row[name] for name in _flat(load)} == _flat(load)
        assert (row["strategy"], row["direct"]) == (load["strategy"], load["direct"]["verdict"])
    phases = frames.phases[["load_id", "tid", "phase", *KINDS]]
    assert list(phases.itertuples(index=False, name=None)) == _phase_rows(document)
    # The raw rows say the same as the figures made of them.
    done = frames.requests[
        (frames.requests["op"] == "read") & frames.requests["latency_ns"].notna()
    ]
    for load in document["loads"]:
        mine = done[done["load_id"] == load["load_id"]]
        assert len(mine) == load["block"]["requests"]
        assert mine["bytes"].sum() == load["block"]["read_bytes"]
        assert mine["latency_ns"].max() == load["block"]["latency_ns"]["max"]


def test_csv_and_parquet_are_the_report(document: dict[str, Any], tmp_path: Path) -> None:
    _run("export", str(SIX), "-f", "csv", "-o", "as-csv", cwd=tmp_path)
    _run("export", str(SIX), "-f", "parquet", "-o", "as-parquet", cwd=tmp_path)
    with (tmp_path / "as-csv" / "loads.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    for load, row in zip(document["loads"], rows, strict=True):
        for name, value in _flat(load).items():
            assert type(value)(row[name]) == value, name
    with (tmp_path / "as-csv" / "phases.csv").open(newline="") as lines:
        found = [
            (int(r["load_id"]), int(r["tid"]), r["phase"], *(int(r[kind]) for kind in KINDS))
            for r in csv.DictReader(lines)
        ]
    assert found == _phase_rows(document)

    loads = pd.read_parquet(tmp_path / "as-parquet" / "loads.parquet")
    for load, row in zip(document["loads"], loads.to_dict("records"), strict=True):
        assert {name: row[name] for name in _flat(load)} == _flat(load)
    phases = pd.read_parquet(tmp_path / "as-parquet" / "phases.parquet")
    columns = ["load_id", "tid", "phase", *KINDS]
    assert list(phases[columns].itertuples(index=False, name=None)) == _phase_rows(document)
    frames = dmatrace.open(SIX)
    for name in frames:
        assert (tmp_path / "as-csv" / f"{name}.csv").is_file()
        stored = pd.read_parquet(tmp_path / "as-parquet" / f"{name}.parquet")
        assert len(stored) == len(frames[name]), name


def test_folded_stacks_sum_to_the_report(document: dict[str, Any], tmp_path: Path) -> None:
    time: dict[tuple[str, str, str], int] = {}
    for line in _run("export", str(SIX), "-f", "folded", "-o", "-", cwd=tmp_path).splitlines():
        stack, weight = line.decode().rsplit(" ", 1)
        strategy, _, phase, kind = stack.split(";")
        key = (strategy, phase, kind)
        time[key] = time.get(key, 0) + int(weight)
    expected: dict[tuple[str, str, str], int] = {}
    for load in document["loads"]:
        for thread in load["threads"]:
            for phase in thread["phases"]:
                for kind in KINDS:
                    key = (load["strategy"], phase["phase"], kind.removesuffix("_ns"))
                    expected[key] = expected.get(key, 0) + phase[kind]
    assert time == {key: ns for key, ns in expected.items() if ns}

    weight_by = ("-f", "folded", "--weight", "page-cache", "-o", "-")
    cache: dict[str, int] = {}
    for line in _run("export", str(SIX), *weight_by, cwd=tmp_path).splitlines():
        stack, weight = line.decode().rsplit(" ", 1)
        strategy = stack.split(";")[0]
        cache[strategy] = cache.get(strategy, 0) + int(weight)
    added: dict[str, int] = {}
    for load in document["loads"]:
        bytes_ = load["memory"]["page_cache_added"]
        added[load["strategy"]] = added.get(load["strategy"], 0) + bytes_
    assert cache == {strategy: bytes_ for strategy, bytes_ in added.items() if bytes_}


class _Page(HTMLParser):
    """The JSON that a page carries, and its tables: {name: {row: [figures]}}."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.json: dict[str, Any] = {}
        self.tables: dict[str, dict[str, list[str | None]]] = {}
        self._id = self._table = self._row = ""
        self._head = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "script":
            self._id = found.get("id") or ""
        elif tag == "table":
            self._table = found.get("data-table") or ""
        elif tag == "th":
            self._head = found.get("scope") == "row"
            self._row = ""
        elif tag == "td":
            self.tables.setdefault(self._table, {}).setdefault(self._row, []).append(None)
        elif tag == "data":
            self.tables[self._table][self._row][-1] = found["value"]

    def handle_endtag(self, tag: str) -> None:
        self._id = "" if tag == "script" else self._id
        self._head = False if tag == "th" else self._head

    def handle_data(self, data: str) -> None:
        if self._id:
            self.json[self._id] = json.loads(data)
        elif self._head:
            self._row += data


def test_the_page_is_the_report(document: dict[str, Any], tmp_path: Path) -> None:
    _run("export", str(SIX), "-f", "html", "-o", "six.html", cwd=tmp_path)
    page = _Page((tmp_path / "six.html").read_text())
    assert page.json["document"] == document
    loads = summaries(document["loads"])
    names = [load.label for load in loads]
    for load in loads:
        spent = [sum(parts[i] for parts in load.phases.values()) for i in range(3)]
        times = [load.times[f"{name}_ns"] for name in ("create", "io", "close", "wall")]
        expected = [load.size, len(load.loads), *times, *spent]
        assert [int(v or 0) for v in page.tables["times"][load.label]] == expected
        bill = [int(v or 0) for v in page.tables["memory"][load.label][:-1]]
        order = ("page_cache_added", "page_cache_removed", "page_cache_peak", "page_cache_end")
        more = ("mapped", "dmabuf", "shmem", "pinned_peak")
        assert bill == [load.memory[name] for name in (*order, *more)]
        block = [int(v or 0) for v in page.tables["block"][load.label]]
        assert block == [
            load.block[n] for n in ("requests", "read_bytes", "p50", "p90", "p99", "max")
        ]
        overlap = [int(v or 0) for v in page.tables["overlap"][load.label]]
        assert overlap == [load.overlap[name] for name in ("alloc_ns", "io_ns", "both_ns")]
    # The bars are the table, and the table is the report.
    drawn = {bar["name"]: bar for bar in page.json["charts"]["chart-phases"]["data"]}
    for phase, bar in drawn.items():
        cells = page.tables["phases"][phase][: len(names)]
        for load, cell, x in zip(loads, cells, bar["x"], strict=True):
            ns = sum(load.phases.get(phase, (0, 0, 0)))
            assert int(cell or 0) == ns
            assert x == pytest.approx(ns / 1e6)
    # Each cell of the heat map counts reads: none is lost.
    heat = page.json["charts"]["chart-latency"]["data"]
    counted = [sum(n or 0 for line in each["z"] for n in line) for each in heat]
    assert counted == [sum(one["block"]["requests"] for one in load.loads) for load in loads]


def test_perfetto_says_the_same_in_sql(document: dict[str, Any], tmp_path: Path) -> None:
    """By Perfetto's own trace processor."""
    _run("export", str(SIX), "-f", "perfetto", "-o", "six.trace", cwd=tmp_path)
    with TraceProcessor((tmp_path / "six.trace").read_bytes()) as engine:
        errors = (
            "select name, value from stats where severity in ('error', 'data_loss') and value > 0"
        )
        assert engine.query(errors) == []

        # Loads: a slice each, with the report's figures as arguments.
        args = engine.query(
            "select s.id, s.name, a.flat_key, a.int_value, a.real_value from slice s"
            " join args a using (arg_set_id) where s.category = 'load'"
        )
        found: dict[int, dict[str, Any]] = {}
        for number, name, key, whole, real in args:
            load = found.setdefault(number, {"": name})
            load[key.removeprefix("debug.")] = real if whole is None else whole
        by_id = {load["load_id"]: load for load in found.values()}
        assert len(by_id) == len(document["loads"])
        for load in document["loads"]:
            assert {name: by_id[load["load_id"]][name] for name in _flat(load)} == _flat(load)
            assert by_id[load["load_id"]][""] == load["strategy"]

        # Create, io and close lie inside and are as long as the loader says.
        steps = engine.query(
            "select extract_arg(p.arg_set_id, 'debug.load_id'), s.name, s.dur from slice s"
            " join slice p on s.parent_id = p.id where s.category = 'step'"
        )
        assert {(load, f"{name}_ns"): ns for load, name, ns in steps} == {
            (load["load_id"], name): load[name]
            for load in document["loads"]
            for name in ("create_ns", "io_ns", "close_ns")
            if load[name]
        }

        # Requests: as many, as large and as slow.
        reads = engine.query(
            "select extract_arg(arg_set_id, 'debug.load_id') as load, count(*),"
            " sum(extract_arg(arg_set_id, 'debug.bytes')), max(dur) from slice"
            " where category = 'request' and name glob 'read *'"
            " and extract_arg(arg_set_id, 'debug.never_completed') is null group by load"
        )
        assert {row[0]: row[1:] for row in reads if row[0] > 0} == {
            load["load_id"]: (
                load["block"]["requests"],
                load["block"]["read_bytes"],
                load["block"]["latency_ns"]["max"],
            )
            for load in document["loads"]
            if load["block"]["requests"]
        }

        # Flows: from each load to each of its requests.
        flows = engine.query(
            "select extract_arg(l.arg_set_id, 'debug.load_id') as load,"
            " sum(extract_arg(r.arg_set_id, 'debug.load_id') ="
            "     extract_arg(l.arg_set_id, 'debug.load_id')), count(*)"
            " from flow f join slice l on f.slice_out = l.id join slice r on f.slice_in = r.id"
            " where l.category = 'load' and r.category = 'request' group by load"
        )
        rows = dmatrace.open(SIX).requests.groupby("load_id").size()
        assert flows == [
            (load["load_id"], rows[load["load_id"]], rows[load["load_id"]])
            for load in document["loads"]
        ]

        # Counters: a thread's last value in a load is the report's, by phase and by kind.
        values = engine.query(
            "select extract_arg(w.arg_set_id, 'debug.load_id') as load, th.tid, t.name,"
            " max(c.value) from slice w join thread_track tt on w.track_id = tt.id join thread th"
            " using (utid) join thread_counter_track t on t.utid = th.utid"
            " join counter c on c.track_id = t.id"
            " where w.category = 'window' and c.ts >= w.ts and c.ts <= w.ts + w.dur"
            " group by load, th.tid, t.name"
        )
        last = {(load, tid, name): int(value) for load, tid, name, value in values}
        expected: dict[tuple[int, int, str], int] = {}
        for load_id, tid, phase, *spent in _phase_rows(document):
            expected[load_id, tid, phase] = sum(spent)
            for kind, ns in zip(KINDS, spent, strict=True):
                key = (load_id, tid, f"all {kind.removesuffix('_ns')}")
                expected[key] = expected.get(key, 0) + ns
        assert {key: ns for key, ns in last.items() if ns} == {
            k: v for k, v in expected.items() if v
        }

        # Memory: the ledger, the dma-bufs and the pins.
        peaks = dict(
            engine.query(
                "select t.name, cast(max(c.value) as int) from counter c"
                " join counter_track t on c.track_id = t.id group by t.name"
            )
        )
        most = {
            name: max(load["memory"][name] for load in document["loads"])
            for name in ("page_cache_end", "dmabuf", "pinned_peak", "page_cache_added")
        }
        assert peaks["page cache of the file"] == most["page_cache_end"]
        assert peaks["page cache added by the load"] == most["page_cache_added"]
        assert peaks["dma-bufs"] == most["dmabuf"]
        assert peaks["pinned at most in the load"] == most["pinned_peak"]
        names = {name for (name,) in engine.query("select distinct name from slice")}
        assert not [name for name in names if re.search(r"[\x00-\x1f\x7f]", name)]
