"""Fleets: known outliers are found and explained, damage is named, and every engine agrees."""

from __future__ import annotations

import json
import logging
import statistics
from pathlib import Path
from typing import Any

import fleet_data
import pytest
import synthetic

from dmatrace.analysis.comparison.loads import loads
from dmatrace.analysis.document import document, figured
from dmatrace.cli import main
from dmatrace.fleet import engine
from dmatrace.recording import Recording
from dmatrace.report import fleet as text

COUNT = 120


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, fleet_data.Fleet]:
    """120 recordings of two sources: four outliers, four damaged in four ways."""
    place = tmp_path_factory.mktemp("fleet")
    sources = [synthetic.write(place / "a.dmt", rounds=1), synthetic.write(place / "b.dmt")]
    out = place / "incoming"
    return out, fleet_data.make(sources, out, COUNT, odd=30, damage=30)


@pytest.fixture(scope="module")
def found(made: tuple[Path, fleet_data.Fleet]) -> dict[str, Any]:
    return engine.local(engine.find([str(made[0])]))


def test_a_fleet_has_the_figures_of_a_comparison() -> None:
    """What it leaves out of a document is in none of them."""
    recording = Recording.open(Path(__file__).parents[1] / "data/six.dmt")
    whole, short = loads([("six", document(recording))]), loads([("six", figured(recording))])
    assert len(whole) == recording.table("loads")["load_id"].nunique()
    assert short == whole


def test_everything_is_counted(made: tuple[Path, fleet_data.Fleet], found: dict[str, Any]) -> None:
    fleet = made[1]
    assert (found["recordings"], found["readable"]) == (COUNT, COUNT - len(fleet.damaged))
    assert {Path(row["recording"]).name for row in found["damaged"]} == set(fleet.damaged)
    assert len(fleet.damaged) == len(set(fleet.damaged.values())) == 4
    groups = found["groups"]
    assert len(groups) == len(fleet_data.DEVICES) * len(fleet_data.KERNELS) * 2
    assert sum(row["recordings"] for row in groups) == 2 * found["readable"]


def test_groups_hold_what_their_recordings_say(
    made: tuple[Path, fleet_data.Fleet], found: dict[str, Any]
) -> None:
    """Against medians computed by other means, from the loads tables alone."""
    import pyarrow.parquet as pq

    walls: dict[tuple[str, str, str], list[int]] = {}
    for path in engine.find([str(made[0])]):
        if Path(path).name in made[1].damaged:
            continue
        meta = json.loads((Path(path) / "meta.json").read_text())
        for row in pq.ParquetFile(Path(path) / "loads.parquet").read().to_pylist():
            key = (meta["device"], meta["kernel"], row["strategy"])
            walls.setdefault(key, []).append(row["wall_ns"])
    for row in found["groups"]:
        mine = walls[row["device"], row["kernel"], row["strategy"]]
        assert row["recordings"] == len(mine)
        assert (row["wall"]["min"], row["wall"]["max"]) == (min(mine), max(mine))
        assert abs(row["wall"]["median"] - statistics.median(mine)) <= 1


def test_the_outliers_are_those_and_their_reasons(
    made: tuple[Path, fleet_data.Fleet], found: dict[str, Any]
) -> None:
    wanted = {k: v for k, v in made[1].outliers.items() if k not in made[1].damaged}
    assert len(wanted) == 4
    assert {Path(row["recording"]).name: row["why"][0]["name"] for row in found["outliers"]} == (
        wanted
    )
    for row in found["outliers"]:
        judged = {one["name"] for one in row["measures"]}
        slow = wanted[Path(row["recording"]).name] == "submit"
        assert judged == ({"wall"} if slow else {"page_cache_added"})
    report = " ".join(text.render(found).split())
    assert "why: submit +" in report
    assert "why: page_cache_added +2 MiB" in report
    assert "damaged: 4, left out" in report


def test_small_groups_are_judged_by_their_strategy_or_not_at_all(tmp_path: Path) -> None:
    source = synthetic.write(tmp_path / "a.dmt", ("dmabuf-bio",))
    few = fleet_data.make([source], tmp_path / "few", 4, odd=100, damage=100)
    found = engine.local(engine.find([str(tmp_path / "few")]))
    assert (len(found["not_judged"]), found["outliers"]) == (few.count, [])
    assert "groups of fewer than 5" in text.render(found)
    fleet_data.make([source], tmp_path / "more", 8, odd=100, damage=100)
    found = engine.local(engine.find([str(tmp_path / "more")]))
    assert found["not_judged"] == []


def test_a_real_scheduler_and_two_workers_give_the_same_answer(
    made: tuple[Path, fleet_data.Fleet], found: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    import distributed

    # What Dask has to say of a busy machine is not ours.
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None,
        silence_logs=logging.ERROR,
    ) as cluster:  # fmt: skip
        command = ["compare", "--fleet", str(made[0]), "--scheduler", cluster.scheduler_address]
        assert main([*command, "-f", "json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == found
    assert err == f"dmatrace: 4 of {COUNT} are damaged\n"


def test_what_is_named_is_found_once(tmp_path: Path) -> None:
    source = synthetic.write(tmp_path / "a.dmt")
    fleet_data.make([source], tmp_path / "in", 3, odd=100, damage=100)
    (tmp_path / "in" / "empty.dmt").write_bytes(b"")
    renamed = tmp_path / "in" / "000" / "no-suffix"
    (tmp_path / "in" / "000" / "000000.dmt").rename(renamed)
    paths = engine.find([str(tmp_path / "in")])
    assert [Path(path).name for path in paths] == [
        "000001.dmt", "000002.dmt", "no-suffix", "empty.dmt",
    ]  # fmt: skip
    assert engine.find([str(tmp_path / "in"), f"{tmp_path}/in/*/*.dmt", str(renamed)]) == paths


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["compare", *arguments])
        return code, *capsys.readouterr()

    source = synthetic.write(tmp_path / "a.dmt", ("dmabuf-bio",))
    (tmp_path / "in").mkdir()
    hostile = tmp_path / "in" / "b\x1b[2J\n.dmt"
    hostile.mkdir()
    code, out, err = run("--fleet", str(tmp_path / "in"))
    assert (code, err.count("\n")) == (1, 2)
    assert "\x1b" not in out + err
    fleet_data.make([source], tmp_path / "in", 6, odd=100, damage=100)
    code, out, err = run("--fleet", str(tmp_path / "in"))
    assert (code, err) == (0, "dmatrace: 1 of 7 are damaged\n")
    assert max(map(len, out.splitlines())) < 80
    assert "Phone A1, 6.6.30-android15" in out
    code, out, err = run("--fleet", f"{tmp_path}/in/*/*.dmt", "-f", "json", "--redact")
    assert code == 0
    assert str(tmp_path) not in out
    for wrong in (["--workers", "2", str(source)], ["--fleet", "x", "--by", "kernel"],
                  ["--fleet", "x", "--fail-on", "wall>5%"]):  # fmt: skip
        assert run(*wrong)[0] == 2
    code, out, err = run("--fleet", str(tmp_path / "absent"))
    assert (code, err.count("\n")) == (1, 1)
    code, out, err = run("--fleet", str(tmp_path / "in"), "--scheduler", "nonsense")
    assert (code, err.count("\n")) == (1, 1)
