"""The ledger's figures from rows with known answers; its bounds against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from dmatrace.analysis import document
from dmatrace.analysis.ledger import HOW, Tables, ledger
from dmatrace.analysis.summary import summaries
from dmatrace.recording import Recording
from dmatrace.report import memory as report
from dmatrace.report import text
from dmatrace.report.layout import Style

MIB, S = 1 << 20, 1_000_000_000
INO, OTHER = 12, 13


def sample(t_ns: int, **values: int) -> list[dict[str, Any]]:
    """Rows of table ledger: ``psi__memory_some=1`` is (psi, memory.some)."""
    head = {"t_ns": t_ns, "load_id": 1}
    rows = [{**head, "what": "sample", "name": "mark", "value": 0}]
    for name, value in values.items():
        what, _, rest = name.partition("__")
        rest = rest.replace("memory_", "memory.") if what == "psi" else rest
        rows.append({**head, "what": what, "name": rest, "value": value})
    return rows


def cache(t_ns: int, ino: int = INO, base: int | None = 0, **values: int) -> dict[str, Any]:
    """A row of page_cache."""
    row = {"added": 0, "removed": 0, "removed_self": 0, "peak": 0, "kind": "file", **values}
    row["current"] = (base or 0) + row["added"] - row["removed"]
    row["peak"] += base or 0
    where = {"t_ns": t_ns, "load_id": 1, "dev": synthetic.DEV, "ino": ino}
    return {**where, "based": base is not None, **row}


def bill(**tables: list[dict[str, Any]]) -> dict[str, Any]:
    """The ``memory`` object of one load."""
    meta = {"ledger": {"interval_ns": 100, "unavailable": {"psi io": "off"}}}
    load = synthetic.load(1, "dmabuf-bio", dev=synthetic.DEV, ino=INO, file="/as/loaded.gguf")
    recording = synthetic.InMemory(tables)
    names = ("page_cache", "ledger", "runs", "buffers", "files")
    return ledger(load, Tables(*(recording.table(name) for name in names), meta), [], {})


def test_by_hand() -> None:
    """8 MiB come evenly in 2 s, stay for one; kswapd takes 2 of them at once, the process 1."""
    rows = [cache(0), cache(S, added=4 * MIB, peak=4 * MIB)]
    full = {"added": 8 * MIB, "added_self": 8 * MIB, "peak": 8 * MIB}
    rows += [cache(2 * S, **full)]
    gone = {"removed": 3 * MIB, "removed_self": MIB, "removed_kswapd": 2 * MIB}
    gone |= {"removed_truncate": MIB, "self_truncate": MIB}
    rows += [cache(3 * S, **full, **gone)]
    samples = sample(0, psi__memory_some=10, pinned__page_us=0, pinned__now=0, pinned__held_ns=0)
    samples += sample(S) + sample(2 * S, pinned__page_us=256 * 10**6, pinned__held_ns=S)
    samples += sample(3 * S, psi__memory_some=25)
    found = bill(page_cache=rows, ledger=samples)
    (file,) = found["files"]
    assert file["loaded"]
    assert (file["added"], file["removed"], file["end"]) == (8 * MIB, 3 * MIB, 5 * MIB)
    assert (file["peak"], file["cached_before"]) == (8 * MIB, 0)
    assert found["byte_seconds"]["page_cache"] == int((2 + 6 + 6.5) * MIB)
    assert found["byte_seconds_error"]["page_cache"] == int((2 + 2 + 1.5) * MIB)
    assert found["removed_by"] == {
        "process": MIB, "invalidate": 0, "truncate": 0, "unlink": 0, "drop_caches": 0,
        "reclaim": 0, "kswapd": 2 * MIB, "other": 0,
    }  # fmt: skip
    assert found["removed_how"]["truncate"] == MIB
    assert found["psi"] == {"memory": {"some_ns": 15}, "io": None}
    assert found["unavailable"]["psi io"] == "off"
    assert found["pinned"]["byte_seconds"] == MIB
    assert found["pinned"]["held_ns"] == S
    timeline = found["timeline"]
    assert timeline["t_ns"] == [0, S, 2 * S, 3 * S]
    assert timeline["page_cache"] == [0, 4 * MIB, 8 * MIB, 5 * MIB]
    assert timeline["psi_memory_some_ns"] == [0, 0, 0, 15]
    assert timeline["psi_io_some_ns"] is None


def test_a_file_that_comes_later_begins_at_nothing() -> None:
    rows = [cache(0), cache(S, ino=OTHER, base=None, added=MIB, peak=MIB), cache(2 * S)]
    rows += [cache(2 * S, ino=OTHER, base=None, added=MIB, peak=MIB)]
    found = bill(page_cache=rows, ledger=sample(0) + sample(S) + sample(2 * S))
    loaded, other = found["files"]
    assert (loaded["added"], other["added"]) == (0, MIB)
    assert other["byte_seconds"] == MIB + MIB // 2
    # What was cached before is not known, and nothing is made up for it.
    assert (other["cached_before"], other["peak"], other["end"]) == (None, None, None)
    assert found["removed_by"]["other"] == 0


@pytest.mark.parametrize(
    ("rows", "path"),
    [
        ([(S, "/then"), (3 * S, "/now")], "/then"),
        ([(3 * S, "/now"), (S, "/then")], "/then"),
        ([(S, "/then"), (2 * S, "/renamed"), (3 * S, "/now")], "/renamed"),
        ([(3 * S, "/found late"), (4 * S, "/now")], "/found late"),
        ([], "/as/loaded.gguf"),
    ],
)
def test_an_inode_s_number_that_another_file_gets_later(
    rows: list[tuple[int, str]], path: str
) -> None:
    """The load is over after 2 s; whatever the number means after that is not its file."""
    head = {"load_id": 1, "dev": synthetic.DEV, "ino": INO}
    found = bill(
        page_cache=[cache(0), cache(2 * S, added=MIB, peak=MIB)],
        ledger=sample(0) + sample(2 * S),
        files=[{**head, "t_ns": t_ns, "path": name} for t_ns, name in rows],
    )
    assert [file["path"] for file in found["files"]] == [path]


def test_what_an_earlier_load_did_is_not_this_ones() -> None:
    old = {"added": 9 * MIB, "removed": 9 * MIB, "removed_kswapd": 9 * MIB, "peak": 9 * MIB}
    rows = [cache(0), cache(0, ino=OTHER, base=MIB, **old), cache(S)]
    rows += [cache(S, ino=OTHER, base=MIB, **old)]
    found = bill(page_cache=rows, ledger=sample(0) + sample(S))
    assert [file["ino"] for file in found["files"]] == [INO]
    assert found["byte_seconds"]["page_cache"] == 0


def test_reclaim_elsewhere() -> None:
    rows = [cache(0), cache(0, ino=OTHER), cache(S, removed=MIB, removed_kswapd=MIB, added=MIB)]
    rows += [cache(S, ino=OTHER, added=4096, removed=4096, removed_reclaim=4096)]
    samples = sample(0, elsewhere__kswapd=5, elsewhere__drop_caches=0, vmstat__pgsteal_anon=3)
    samples += sample(S, elsewhere__kswapd=8197, elsewhere__drop_caches=99, vmstat__pgsteal_anon=4)
    assert bill(page_cache=rows, ledger=samples)["reclaim_elsewhere"] == {
        "page_cache": 8192 + 4096, "kswapd": 8192, "reclaim": 4096, "anon": 4096,
    }  # fmt: skip


def buffer(t_ns: int, event: str, ino: int, size: int, heap: str = "") -> dict[str, Any]:
    exporter = "system" if heap else "udmabuf"
    base = {"t_ns": t_ns, "load_id": 1, "event": event, "ino": ino, "size": size, "tid": 1}
    return {**base, "tgid": 1, "exporter": exporter, "heap": heap if event == "export" else ""}


def test_buffers_from_export_to_release() -> None:
    """One is released in the load, one after it, one not at all: until the load's end."""
    buffers = [
        buffer(0, "export", 1, MIB, "system"), buffer(S, "release", 1, MIB),
        buffer(S, "export", 2, 2 * MIB, "system"), buffer(5 * S, "release", 2, 2 * MIB),
        buffer(S, "export", 3, 4 * MIB),
    ]  # fmt: skip
    found = bill(buffers=buffers, ledger=sample(0) + sample(S) + sample(3 * S))
    assert found["dmabufs"] == [
        {"exporter": "system", "heap": "system", "count": 2, "bytes": 3 * MIB, "peak": 2 * MIB,
         "released": 3 * MIB, "byte_seconds": MIB + 4 * MIB},
        {"exporter": "udmabuf", "heap": None, "count": 1, "bytes": 4 * MIB, "peak": 4 * MIB,
         "released": 0, "byte_seconds": 8 * MIB},
    ]  # fmt: skip
    assert found["timeline"]["dmabuf"] == [MIB, 6 * MIB, 6 * MIB]


def test_without_samples_nothing_is_known(tmp_path: Path) -> None:
    found = document(Recording.open(synthetic.write(tmp_path / "a.dmt")))
    for load in found["loads"]:
        memory = load["memory"]
        assert memory["files"] is memory["removed_by"] is memory["timeline"] is None
        assert "without the memory ledger" in memory["unavailable"]["ledger"]
    assert list(report.memory(summaries(found["loads"]), Style())) == []


def test_without_its_tracepoints_the_page_cache_is_not_zero() -> None:
    meta = {"ledger": {"interval_ns": 1, "unavailable": {"page cache": "not attached"}}}
    rows = {"loads": [synthetic.load(1, "dmabuf-bio")], "ledger": sample(0) + sample(S)}
    found = document(synthetic.InMemory(rows, meta))["loads"][0]["memory"]
    assert found["files"] is found["readahead"] is found["removed_by"] is None
    assert found["byte_seconds"]["page_cache"] is found["timeline"]["page_cache"] is None
    assert found["byte_seconds"]["dmabuf"] == 0


def test_what_a_hook_that_is_not_attached_would_have_said_is_not_zero() -> None:
    hooks = [
        {"name": name, "phase": None, "attached": None, "hides": "it", "function": None}
        for name in ("workingset_refault", "page_cache_ra_unbounded")
    ]
    rows = {
        "loads": [synthetic.load(1, "dmabuf-bio")], "ledger": sample(0) + sample(S),
        "page_cache": [cache(0), cache(S, added=MIB, peak=MIB)],
    }  # fmt: skip
    found = document(synthetic.InMemory(rows, {"hooks": hooks, "ledger": {"interval_ns": 1}}))
    memory = found["loads"][0]["memory"]
    assert memory["refaults"]["bytes"] is memory["refaults"]["file_bytes"] is None
    assert memory["readahead"] is memory["files"][0]["readahead"] is None
    assert {"refaults", "readahead"} <= set(memory["unavailable"])
    assert "workingset_refault is not attached" in text.render(found)


@given(
    st.lists(st.tuples(st.integers(1, 10**9), st.integers(-9, 9)), min_size=1, max_size=30),
    st.sets(st.integers(0, 30), max_size=8),
)
@settings(deadline=None, max_examples=40)
def test_byte_seconds_are_within_the_bound_that_is_given(
    steps: list[tuple[int, int]], sampled: set[int]
) -> None:
    """Additions and removals at any time; samples now and then."""
    t_ns = added = removed = true = 0
    rows, samples = [cache(0)], sample(0)
    for number, (ns, mib) in enumerate(steps):
        true += (added - removed) * ns
        t_ns += ns
        added += max(mib, 0) * MIB
        removed += min(max(-mib, 0) * MIB, added - removed)
        if number in sampled or number == len(steps) - 1:
            rows.append(cache(t_ns, added=added, removed=removed, peak=added))
            samples += sample(t_ns)
    found = bill(page_cache=rows, ledger=samples)
    ours, bound = found["byte_seconds"]["page_cache"], found["byte_seconds_error"]["page_cache"]
    assert abs(ours - true / S) <= bound + 1


@given(st.dictionaries(st.sampled_from(HOW), st.tuples(st.integers(0, 99), st.integers(0, 99))))
@settings(deadline=None, max_examples=40)
def test_who_removed_it_sums_to_what_was_removed(
    by: dict[str, tuple[int, int]],
) -> None:
    """Whatever others and the process did; ``other`` is what no function names."""
    values = {"removed": 7, "removed_self": 3}
    for how, (others, own) in by.items():
        values |= {f"removed_{how}": others + own, f"self_{how}": own}
        values["removed"] += others + own
        values["removed_self"] += own
    found = bill(page_cache=[cache(0), cache(S, **values)], ledger=sample(0) + sample(S))
    assert sum(found["removed_by"].values()) == values["removed"]
    assert sum(found["removed_how"].values()) == values["removed"]
    assert found["removed_by"]["other"] == 4
    assert min(found["removed_by"].values()) >= 0
    own = sum(own for how, (_, own) in by.items() if how in ("invalidate", "truncate", "unlink"))
    assert found["removed_by"]["process"] == own + 3


# --- as text


def test_the_report() -> None:
    rows = [cache(0), cache(S, added=8 * MIB, peak=8 * MIB, removed=MIB, removed_kswapd=MIB)]
    runs = [
        {"load_id": 1, "tid": 1, "tgid": 1, "dev": synthetic.DEV, "ino": INO, "kind": kind,
         "start": 0, "end": end, "since_ns": since, "until_ns": until}
        for kind, end, since, until in (
            ("readahead", 9 * MIB, -1, -1),  # before the load
            ("readahead", 2 * MIB, 1, 1),  # reported while it was open
            ("readahead", 4 * MIB, 1, 2),
            ("read", 3 * MIB, 2, 2),
        )
    ]  # fmt: skip
    files = [{"t_ns": 0, "load_id": 1, "dev": synthetic.DEV, "ino": INO, "path": "/m/a.gguf"}]
    tables = {
        "loads": [synthetic.load(1, "dmabuf-bio")], "page_cache": rows, "runs": runs,
        "files": files, "buffers": [buffer(0, "export", 1, MIB, "system")],
        "ledger": sample(0, psi__memory_some=0) + sample(S, psi__memory_some=2_000_000),
    }  # fmt: skip
    found = document(synthetic.InMemory(tables, {"ledger": {"unavailable": {"psi io": "is off"}}}))
    whole = text.render(found)
    for line in (
        "  a.gguf                    8M      1M      8M      7M",
        "kswapd 1 MiB",
        "4 MiB added, 3 MiB used, 1 MiB wasted (25%)",
        "1 of system from heap system: 1 MiB, 1 MiB x s, not",
        "memory some 2.00 ms",
        "    page cache  ",
        "psi io                  is off",
    ):
        assert line in whole, whole
    assert all(len(line) < 80 for line in whole.splitlines())
    assert text.render(found, ascii_only=True).isascii()


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([0, 8, 4, 0], " █▄ "), ([1, 1, 1, 1], "████"), ([0, 0, 0, 0], "    "),
        ([0, 0, 0, 1000], "   █"), ([1, 0, 0, 1000], "▁  █"),
    ],
)  # fmt: skip
def test_a_sparkline(values: list[int], drawn: str) -> None:
    assert report.sparkline([0, 10, 20, 30], values, 4) == drawn


def test_a_sparkline_of_fewer_samples_than_columns() -> None:
    assert report.sparkline([0, 10], [4, 8], 4) == "▄▄▄█"
    assert report.sparkline([5], [8], 3, ascii_only=True) == "@@@"


@given(st.lists(st.integers(-5, 1 << 40), min_size=1, max_size=40), st.integers(1, 60))
def test_a_sparkline_is_as_wide_as_asked(values: list[int], width: int) -> None:
    times = [17 * n for n in range(len(values))]
    assert len(report.sparkline(times, values, width)) == width
