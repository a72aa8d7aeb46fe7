"""The ledger's sampling, of a made-up tracer and /proc: what is written, when, and what is not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dmatrace.bpf import layout
from dmatrace.cli import arguments
from dmatrace.recording import schema
from dmatrace.session import ledger
from dmatrace.session.ledger import Ledger
from dmatrace.session.pagecounts import PageCounts
from tests.host.page_table import PageTable

KEY = (0xFE00001, 12)
PSI = "some avg10=0.00 avg60=0.00 avg300=0.00 total={some}\nfull avg10=0.00 total=7\n"


class Tracer:
    """Counts what a test says."""

    load_id = 3

    def __init__(self) -> None:
        self.table = PageTable()
        self.counts = self.table.counts
        self.pages = PageCounts(self.table)
        self.held = {"now": 0, "page_us": 0, "held_ns": 0}

    def elsewhere(self) -> dict[str, int]:
        return {"kswapd": 0}

    def pinned(self) -> dict[str, int]:
        return dict(self.held)


class Writer:
    """Keeps rows, and refuses what the recording would."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.meta: dict[str, Any] = {}

    def append(self, table: str, rows: list[dict[str, Any]]) -> None:
        columns = {column.name for column in schema.TABLES[table]}
        required = {column.name for column in schema.TABLES[table] if not column.optional}
        for row in rows:
            assert required <= set(row) <= columns
        self.rows.setdefault(table, []).extend(rows)

    def update_meta(self, /, **values: Any) -> None:
        self.meta.update(values)

    def take(self, table: str) -> list[dict[str, Any]]:
        return self.rows.pop(table, [])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/pressure").mkdir(parents=True)
    for name in ("memory", "io"):
        (tmp_path / "proc/pressure" / name).write_text(PSI.format(some=5))
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 1\npgsteal_anon 4\npswpin 0\n")
    return tmp_path


def _made(root: Path, interval: float = 0.0) -> tuple[Ledger, Tracer, Writer]:
    tracer, writer = Tracer(), Writer()
    return Ledger(tracer, writer, interval, root=root), tracer, writer


def _values(rows: list[dict[str, Any]]) -> dict[tuple[str, str], int]:
    return {(row["what"], row["name"]): row["value"] for row in rows}


def test_everything_at_begin_and_end_and_changes_between(root: Path) -> None:
    found, tracer, writer = _made(root)
    tracer.counts[KEY] = layout.FilePages(added=4096, by=(0,) * 8)
    found.begin({KEY: 8192})
    begun = _values(writer.take("ledger"))
    assert begun["sample", "mark"] == 1
    assert begun["psi", "memory.some"] == 5000
    assert begun["psi", "io.full"] == 7000
    assert begun["vmstat", "pgsteal_anon"] == 4
    assert ("vmstat", "pgscan_anon") not in begun  # not of this kernel: no row, no 0
    (row,) = writer.take("page_cache")
    assert (row["current"], row["based"], row["load_id"], row["kind"]) == (12288, True, 3, "file")
    found.sample()
    assert list(_values(writer.take("ledger"))) == [("sample", "mark")]
    assert writer.take("page_cache") == []
    tracer.held["now"] = 4096
    tracer.counts[KEY] = layout.FilePages(added=4096, removed=4096, by=(0, 4096, 0, 0, 0, 0, 0, 0))
    (root / "proc/pressure/memory").write_text(PSI.format(some=6))
    found.sample()
    assert _values(writer.take("ledger")) == {
        ("sample", "mark"): 0, ("pinned", "now"): 4096, ("psi", "memory.some"): 6000,
    }  # fmt: skip
    (row,) = writer.take("page_cache")
    assert (row["current"], row["removed_invalidate"], row["removed_kswapd"]) == (8192, 4096, 0)
    found.end()
    assert set(_values(writer.take("ledger"))) == set(begun)
    assert len(writer.take("page_cache")) == 1


def test_nothing_before_begin_and_after_end(root: Path) -> None:
    found, _, writer = _made(root)
    found.sample()
    found.end()
    assert writer.rows == {}
    found.begin()
    found.end()
    writer.rows.clear()
    found.sample()
    found.end()
    assert writer.rows == {}


def test_the_interval(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(ledger.time, "monotonic", lambda: clock[0])
    found, _, writer = _made(root, interval=0.5)
    found.begin()
    for _ in range(20):
        clock[0] += 0.125
        found.sample()
    assert len([row for row in writer.rows["ledger"] if row["what"] == "sample"]) == 1 + 5


def test_what_was_cached_before_is_not_known_of_a_file_nobody_has_open(root: Path) -> None:
    found, tracer, writer = _made(root)
    tracer.counts[KEY] = layout.FilePages(added=4096)
    found.begin()
    (row,) = writer.take("page_cache")
    assert row["based"] is False
    assert found.current(KEY) is None


def test_a_shmem_file_had_nothing_before(root: Path) -> None:
    found, tracer, writer = _made(root)
    tracer.counts[KEY] = layout.FilePages(added=4096, shmem=1)
    found.begin()
    (row,) = writer.take("page_cache")
    assert (row["kind"], row["based"]) == ("shmem", True)


def test_paths_of_open_and_mapped_files(tmp_path: Path) -> None:
    """Of this process: the key that a stat makes is the one that the tracer names."""
    path = tmp_path / "model"
    path.write_bytes(b"x" * 5000)
    status = os.stat(path)
    key = (layout.kernel_dev(os.major(status.st_dev), os.minor(status.st_dev)), status.st_ino)
    tracer, writer = Tracer(), Writer()
    tracer.counts[key] = layout.FilePages(added=4096)
    found = Ledger(tracer, writer, 0.0, lambda: [os.getpid()])
    with path.open("rb"):
        found.begin()
    assert [row["path"] for row in writer.rows["files"]] == [str(path)]
    assert (found.current(key) is None) == (writer.rows["page_cache"][0]["based"] is False)


def test_what_a_kernel_lacks_is_said_with_the_reason(root: Path) -> None:
    (root / "proc/pressure/memory").unlink()
    (root / "proc/vmstat").write_text("nr_free_pages 1\n")
    tracer, writer = Tracer(), Writer()
    tracer.pages = PageCounts(None)
    found = Ledger(tracer, writer, 0.1, root=root)
    said = writer.meta["ledger"]["unavailable"]
    assert set(said) == {"psi memory", "vmstat", "page cache"}
    assert "No such file" in said["psi memory"]
    assert "CONFIG_PSI" in said["psi memory"]
    found.begin()
    names = set(_values(writer.rows["ledger"]))
    assert ("psi", "memory.some") not in names
    assert ("psi", "io.some") in names


@pytest.mark.parametrize(("text", "seconds"), [("100ms", 0.1), ("1", 1), ("10ms", 0.01)])
def test_an_interval(text: str, seconds: float) -> None:
    assert arguments.interval(text) == seconds


@pytest.mark.parametrize("text", ["0", "9ms", "2h", "fast", "-1s", ""])
def test_no_interval(text: str) -> None:
    import argparse

    with pytest.raises(argparse.ArgumentTypeError):
        arguments.interval(text)


@pytest.mark.parametrize("still", [True, False])
def test_a_file_that_is_being_read_while_it_is_measured(
    root: Path, monkeypatch: pytest.MonkeyPatch, still: bool
) -> None:
    """7 pages were cached before; its reader adds one at each look, for three looks or always."""
    looks = [0]
    page = 4096

    def added() -> int:
        return page * (min(looks[0], 3) if still else looks[0])

    def count(_dev: int, _ino: int) -> layout.FilePages:
        looks[0] += 1
        return layout.FilePages(added=added())

    def cachestat(_fd: int) -> dict[str, int]:
        looks[0] += 1
        return {"cached": 7 * page + added()}

    found, tracer, _ = _made(root)
    monkeypatch.setattr(tracer.pages, "file", count)
    monkeypatch.setattr(ledger.kernel, "cachestat", cachestat)
    path = root / "model"
    path.write_bytes(b"")
    status = path.stat()
    key = layout.kernel_dev(os.major(status.st_dev), os.minor(status.st_dev)), status.st_ino
    monkeypatch.setattr(ledger, "_files_of", lambda *_: [(key, str(path), str(path))])
    monkeypatch.setattr(found, "_pids", lambda: (1,))
    tracer.counts[key] = layout.FilePages(added=page)
    found.begin()
    measured = found.current(key)
    assert measured is not None
    # Nothing changed between two looks, in the end; else by no more than one look's page.
    assert (7 * page - measured) // page == (0 if still else 1)
    assert looks[0] <= 3 * 8 + 1


def _gone(pages: int, **more: int) -> layout.FilePages:
    """Of a memfd that was filled, unlinked and closed."""
    size = 4096 * pages
    by = (0, 0, 0, size, 0, 0, 0, 0)
    return layout.FilePages(added=size, removed=size, peak=size, shmem=1, by=by, **more)


def test_files_of_earlier_loads_are_not_written_again(root: Path) -> None:
    """A memfd per load: a load has the rows of its own, and the kernel's map keeps none."""
    found, tracer, writer = _made(root)
    written = []
    for number in range(50):
        found.begin({KEY: 0})
        key = (1, 100 + number)
        tracer.counts[key] = layout.FilePages(added=4096, peak=4096, shmem=1)
        found.sample()
        tracer.counts[key] = _gone(1)
        found.sample()
        found.end()
        rows = [row for row in writer.take("page_cache") if (row["dev"], row["ino"]) != KEY]
        written.append(len(rows))
        assert {(row["ino"], row["current"]) for row in rows} == {(key[1], 4096), (key[1], 0)}
        assert tracer.counts == {}
    assert set(written) == {3}  # as it is filled, as it is gone, and in the full last sample


def test_a_file_s_number_that_comes_back(root: Path) -> None:
    """In the same window its counts go on; in another they start at zero, as a file that is new."""
    found, tracer, writer = _made(root)
    found.begin()
    tracer.counts[KEY] = _gone(3)
    found.sample()
    found.sample()
    assert tracer.counts == {}
    assert tracer.pages.every().keys() == {KEY}
    writer.take("page_cache")
    tracer.counts[KEY] = layout.FilePages(added=8192, peak=8192, shmem=1)
    found.sample()
    (row,) = writer.take("page_cache")
    assert (row["added"], row["removed"], row["current"]) == (5 * 4096, 3 * 4096, 2 * 4096)
    tracer.counts[KEY] = _gone(2)
    found.sample()
    found.end()
    found.begin()
    assert tracer.pages.every() == {}
    tracer.counts[KEY] = layout.FilePages(added=4096, peak=4096, shmem=1)
    writer.take("page_cache")
    found.sample()
    (row,) = writer.take("page_cache")
    assert (row["added"], row["removed"], row["current"]) == (4096, 0, 4096)


def test_what_still_goes_is_waited_for(root: Path) -> None:
    """A file is forgotten once two samples found the same, and nothing of it is cached."""
    found, tracer, writer = _made(root)
    found.begin({KEY: 8 * 4096})
    tracer.counts[KEY] = _gone(3)  # of 8 pages that were cached before, none has gone yet
    for _ in range(3):
        found.sample()
    assert set(tracer.counts) == {KEY}
    tracer.counts[KEY] = layout.FilePages(
        added=4096, removed=9 * 4096, peak=4096, by=(0, 0, 0, 9 * 4096, 0, 0, 0, 0)
    )
    found.sample()
    assert set(tracer.counts) == {KEY}
    found.sample()
    assert set(tracer.counts) == set()
    assert writer.take("page_cache")[-1]["current"] == 0


@pytest.mark.parametrize("before", [0, 7])
def test_a_folio_in_the_cache_that_is_not_counted_yet(
    root: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """Nothing moves between two looks, and the first of them see one page on its way in."""
    page, looks = 4096, [0]

    def cachestat(_fd: int) -> dict[str, int]:
        looks[0] += 1
        return {"cached": (before + 5 + (looks[0] <= 2)) * page}

    found, tracer, writer = _made(root)
    monkeypatch.setattr(ledger.kernel, "cachestat", cachestat)
    path = root / "memfd"
    path.write_bytes(b"")
    key = (1, 12)
    monkeypatch.setattr(ledger, "_files_of", lambda *_: [(key, str(path), str(path))])
    monkeypatch.setattr(found, "_pids", lambda: (1,))
    tracer.counts[key] = layout.FilePages(added=5 * page, peak=5 * page, shmem=1)
    found.begin()
    assert found.current(key) == before * page
    (row,) = writer.take("page_cache")
    assert row["current"] == row["peak"] == (before + 5) * page
