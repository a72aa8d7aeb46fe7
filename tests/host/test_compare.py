"""`dmatrace compare`: known differences are found, equal rounds are not told apart."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import compared
import numpy as np
import pytest
import synthetic

from dmatrace.analysis import comparison, document
from dmatrace.analysis.comparison import spread
from dmatrace.cli import main
from dmatrace.errors import UsageError
from dmatrace.recording import Recording
from dmatrace.report import compare as text

EQUAL = (1_000_000, 1_010_000, 1_005_000, 990_000, 1_002_000)
SLOWER = tuple(wall + 200_000 for wall in EQUAL)


def _documents(*paths: Path) -> list[tuple[str, dict[str, Any]]]:
    return [(path.name, document(Recording.open(path))) for path in paths]


def _rows(found: dict[str, Any], pair: int = 0) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in found["pairs"][pair]["rows"]}


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """b is 200 us slower and adds twice as much to the page cache."""
    base = compared.write(tmp_path / "a.dmt", compared.walls(*EQUAL))
    slow = compared.walls(*SLOWER)
    new = compared.write(
        tmp_path / "b.dmt", lambda s, r: {**slow(s, r), "page_cache_added": 2 * synthetic.SIZE}
    )
    return [base, new]


def test_a_known_difference_with_its_spread(pair: list[Path]) -> None:
    found = comparison.compare(_documents(*pair))
    rows = _rows(found)
    wall = rows["wall"]
    assert (wall["base"], wall["new"], wall["difference"]) == (1_002_000, 1_202_000, 200_000)
    assert wall["verdict"] == "worse"
    low, high = wall["interval"]
    assert 180_000 <= low < 200_000 < high <= 220_000
    assert wall["ratio"] == pytest.approx(1.2, abs=0.001)
    assert rows["page_cache_added"]["interval"] == [synthetic.SIZE, synthetic.SIZE]
    assert rows["create"]["verdict"] == "same"
    assert rows["copy"]["base"] == 940_000
    order = [row["name"] for row in found["pairs"][0]["rows"]]
    assert order[:3] == ["page_cache_added", "wall", "io"], "regressions first, the greatest first"
    assert [row["verdict"] for row in found["pairs"][0]["rows"]][3:] == ["same"] * (len(order) - 3)


def test_equal_rounds_are_not_told_apart(tmp_path: Path) -> None:
    base = compared.write(tmp_path / "a.dmt", compared.walls(*EQUAL))
    new = compared.write(tmp_path / "b.dmt", compared.walls(*reversed(EQUAL)))
    found = comparison.compare(_documents(base, new))
    assert {row["verdict"] for row in found["pairs"][0]["rows"]} == {"same"}
    report = text.render(found)
    assert "no difference seen: wall, create" in report
    assert "worse" not in report


def test_the_method_errs_as_often_as_its_page_says() -> None:
    """Of equal normal rounds; the figures are those of docs/compare.md."""
    random = np.random.default_rng(1)
    for rounds, says in ((3, 10), (5, 4), (10, 3)):
        apart = 0
        for _ in range(600):
            low, high = spread.interval(random.normal(size=rounds), random.normal(size=rounds)) or (
                0,
                0,
            )
            apart += low > 0 or high < 0
        assert abs(100 * apart / 600 - says) < 3.5
    assert spread.interval([1, 2], [1, 2, 3]) is None
    assert spread.interval([1, 2, 3], [4, 5, 7]) == spread.interval([1, 2, 3], [4, 5, 7])


def test_one_round_has_no_spread_and_says_so(tmp_path: Path) -> None:
    base = compared.write(tmp_path / "a.dmt", compared.walls(*EQUAL))
    new = compared.write(tmp_path / "b.dmt", compared.walls(*SLOWER), rounds=1)
    found = comparison.compare(_documents(base, new))
    wall = _rows(found)["wall"]
    assert (wall["interval"], wall["verdict"], wall["direction"]) == (None, "unknown", "worse")
    report = text.render(found)
    assert "of too few rounds to tell from noise" in report
    assert "record with --rounds 5" in " ".join(report.split())


def test_strategies_of_one_recording(tmp_path: Path) -> None:
    out = synthetic.write(tmp_path / "a.dmt", rounds=3)
    found = comparison.compare(_documents(out))
    assert (found["by"], found["base"]) == ("strategy", "dmabuf-bio")
    rows = _rows(found)
    assert (rows["gup"]["base"], rows["gup"]["new"], rows["gup"]["ratio"]) == (0, 940_000, None)
    assert rows["gup"]["verdict"] == "worse"
    assert rows["copies"]["difference"] == -1.0
    assert rows["copies"]["verdict"] == "better"
    # A phase and a memory row of the same name are two rows.
    assert rows["shmem_bytes"]["new"] == synthetic.SIZE
    assert rows["shmem_bytes"]["unit"] == "bytes"
    assert "shmem" not in rows
    turned = comparison.compare(_documents(out), base="udmabuf-dio")
    assert _rows(turned)["gup"]["verdict"] == "better"
    with pytest.raises(UsageError, match="nothing to compare"):
        comparison.compare(_documents(synthetic.write(tmp_path / "b.dmt", ("dmabuf-bio",))))
    with pytest.raises(UsageError, match="there is dmabuf-bio, udmabuf-dio"):
        comparison.compare(_documents(out), base="nonsense")


@pytest.mark.parametrize("by", ["kernel", "machine", "device"])
def test_machines_are_pooled(tmp_path: Path, by: str) -> None:
    paths = [
        compared.write(tmp_path / f"{n}.dmt", compared.walls(*walls), rounds=2, meta={by: where})
        for n, (walls, where) in enumerate(
            ((EQUAL, "one"), (EQUAL[2:], "one"), (SLOWER, "two"), (SLOWER[2:], "two"))
        )
    ]
    found = comparison.compare(_documents(*paths), by)
    (only,) = found["pairs"]
    assert (only["base"]["name"], only["base"]["rounds"], only["new"]["rounds"]) == ("one", 4, 4)
    assert _rows(found)["wall"]["verdict"] == "worse"
    assert {row["what"] for row in found["differences"]} == {by}


def test_rounds_of_a_recording(tmp_path: Path) -> None:
    out = compared.write(tmp_path / "a.dmt", compared.walls(1_500_000, 1_000_000), rounds=2)
    found = comparison.compare(_documents(out), "round")
    assert (found["base"], found["pairs"][0]["new"]["name"]) == ("1", "2")
    assert _rows(found)["wall"]["direction"] == "better"


def test_what_differs_besides_the_loads(tmp_path: Path) -> None:
    base = compared.write(tmp_path / "a.dmt", compared.walls(*EQUAL))
    hooks = [dict(synthetic.META["hooks"][0], attached=None, hides="the copying"),
             dict(synthetic.META["hooks"][1], attached="kprobe")]  # fmt: skip
    new = compared.write(
        tmp_path / "b.dmt",
        lambda _s, _r: {"bytes": 2 * synthetic.SIZE, "cache_before": "warm"},
        meta={"kernel": "7.2", "device": "a phone", "detail": "sampled", "hooks": hooks,
              "lost_events": 3},
    )  # fmt: skip
    found = comparison.compare(_documents(base, new))
    by_what = {row["what"]: row for row in found["differences"]}
    assert {"kernel", "device", "detail", "file size", "cache state", "lost events"} < set(by_what)
    assert by_what["hook filemap_read"]["hides"] == "the copying"
    assert (
        by_what["hook dma_heap_buffer_alloc"]["hides"] == "the heap's own share of dma_heap_ioctl"
    )
    assert by_what["how hooks attach"]["new"] == ["kprobe"]
    (only,) = found["pairs"]
    assert {row["what"] for row in only["differs"]} == {"bytes", "cache"}
    report = " ".join(text.render(found).split())
    assert "NOT ALIKE: bytes 1 MiB -> 2 MiB" in report
    assert "not attached; hidden without it: the copying" in report


def test_what_has_no_counterpart_is_listed(tmp_path: Path) -> None:
    base = synthetic.write(tmp_path / "a.dmt", ("dmabuf-bio", "udmabuf-dio", "memfd-bio"))
    new = synthetic.write(tmp_path / "b.dmt", ("dmabuf-bio", "anon-dio", "anon-bio"))
    found = comparison.compare(_documents(base, new))
    assert len(found["pairs"]) == 1
    sides = [(row["side"], row["where"]["strategy"]) for row in found["unmatched"]]
    assert sorted(sides) == [
        ("a.dmt", "memfd-bio"), ("a.dmt", "udmabuf-dio"), ("b.dmt", "anon-bio"),
        ("b.dmt", "anon-dio"),
    ]  # fmt: skip
    # Each other's only choice: two builds of a command.
    one = synthetic.write(tmp_path / "c.dmt", ("old-build",))
    two = synthetic.write(tmp_path / "d.dmt", ("new-build",))
    (pair,) = comparison.compare(_documents(one, two))["pairs"]
    assert pair["differs"] == [{"what": "strategy", "base": "old-build", "new": "new-build"}]


def test_loads_that_failed_are_left_out_and_missing_figures_are_no_zeroes(tmp_path: Path) -> None:
    base = compared.write(tmp_path / "a.dmt", compared.walls(*EQUAL))
    (label, found) = _documents(base)[0]
    new = copy.deepcopy(found)
    new["loads"][0]["failed"] = "no"
    new["loads"][1]["partial"] = True
    for load in new["loads"]:
        load["memory"]["page_cache_added"] = None
        load["memory"]["evicted_elsewhere"] = 4096
    result = comparison.compare([(label, found), ("b", new)])
    assert (result["pairs"][0]["new"]["rounds"], result["pairs"][0]["new"]["left_out"]) == (3, 2)
    rows = _rows(result)
    assert (rows["page_cache_added"]["verdict"], rows["page_cache_added"]["new"]) == (
        "not measured",
        None,
    )
    assert rows["evicted_elsewhere"]["verdict"] == "not measured", "a row only one side has"
    failed = comparison.exceeded([comparison.parse("page_cache_added>5%")], result)
    assert "not measured" in failed[0]["why"]
    for load in new["loads"]:
        load["failed"] = "no"
    result = comparison.compare([(label, found), ("b", new)])
    assert "no whole load" in comparison.exceeded([comparison.parse("wall>5%")], result)[0]["why"]
    assert "nothing to compare" in text.render(result)


@pytest.mark.parametrize(
    ("limit", "fails"),
    [
        ("wall>5%", True),
        ("wall > 19%", True),
        ("wall>21%", False),
        ("wall>150us", True),
        ("wall>0.19ms", True),
        ("wall>201us", False),
        ("wall<-1%", False),
        ("page_cache_added>99%", True),
        ("page_cache_added>512K", True),
        ("page_cache_added>1M", False),
        ("create>0%", False),
        ("copies>0", False),
        ("gup>0%", False),
        ("latency_p99>1%", False),
    ],
)
def test_limits(pair: list[Path], limit: str, fails: bool) -> None:
    found = comparison.compare(_documents(*pair))
    assert bool(comparison.exceeded([comparison.parse(limit)], found)) is fails


def test_a_difference_within_its_spread_does_not_fail(tmp_path: Path) -> None:
    base = compared.write(tmp_path / "a.dmt", compared.walls(*EQUAL))
    noisy = (900_000, 1_300_000, 950_000, 1_250_000, 1_100_000)
    new = compared.write(tmp_path / "b.dmt", compared.walls(*noisy))
    found = comparison.compare(_documents(base, new))
    assert _rows(found)["wall"]["difference"] > 0.05 * EQUAL[4]
    assert comparison.exceeded([comparison.parse("wall>5%")], found) == []
    # Without a spread the medians decide, and it is said.
    single = compared.write(tmp_path / "c.dmt", compared.walls(1_300_000), rounds=1)
    found = comparison.compare(_documents(base, single))
    (failed,) = comparison.exceeded([comparison.parse("wall>5%")], found)
    assert "may be noise" in failed["why"]
    # Of nothing, any more exceeds any percentage.
    both = synthetic.write(tmp_path / "d.dmt", rounds=3)
    found = comparison.compare(_documents(both))
    assert comparison.exceeded([comparison.parse("gup>1000%")], found)
    assert not comparison.exceeded([comparison.parse("copy>5%")], found)
    assert comparison.exceeded([comparison.parse("copy<-5%")], found)


@pytest.mark.parametrize(
    "limit", ["wall", "wall>", "wall>5x", "wall>5M", "copies>1M", ">5%", "wall>1.2.3%", "a b>5%"]
)
def test_what_is_no_limit_is_a_usage_error(limit: str) -> None:
    with pytest.raises(UsageError):
        comparison.parse(limit)


def _cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dmatrace", "compare", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command(pair: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["compare", *map(str, arguments)])
        return code, *capsys.readouterr()

    code, out, err = run(*pair)
    assert (code, err) == (0, "")
    assert "b.dmt against a.dmt (5 and 5 rounds)" in out
    assert max(map(len, out.splitlines())) < 80
    code, out, err = run(*pair, "--fail-on", "wall>5%", "--fail-on", "create>5%", "-f", "json")
    assert code == 1
    assert re.fullmatch(r"dmatrace: wall>5%: b\.dmt, dmabuf-bio: wall .*\(\+20\.0%\)\n", err)
    found = compared.as_json(out)
    assert [row["limit"] for row in found["failed"]] == ["wall>5%"]
    assert found == {
        **comparison.compare(_documents(*pair)),
        "failed": found["failed"],
    }
    code, out, err = run(*pair, "--base", pair[1], "-f", "json")
    assert compared.as_json(out)["base"] == "b.dmt"
    code, out, err = run(pair[1], "--base", pair[0], "-f", "json")
    assert [row["label"] for row in compared.as_json(out)["recordings"]] == ["a.dmt", "b.dmt"]
    code, out, err = run(*pair, "--redact", "-f", "json")
    assert compared.as_json(out)["base"] == "recording-1"
    for wrong in (["--fail-on", "nonsense>5%"], ["--fail-on", "wall"], ["--by", "strategy"]):
        code, out, err = run(*pair, *wrong)
        assert (code, out, err.count("\n")) == (2, "", 1)
    code, out, err = run()
    assert code == 2
    code, out, err = run(pair[0], pair[0].with_name("absent"))
    assert (code, err.count("\n")) == (1, 1)


def test_a_usage_error_of_the_parser_is_one_line() -> None:
    done = _cli("--by", "nonsense", "a\x1b[31m.dmt")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    done = _cli("-h")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) < 80
    assert done.stdout.rstrip().splitlines()[-1].startswith("  dmatrace compare")


def test_names_cannot_drive_the_terminal(tmp_path: Path) -> None:
    hostile = "a\x1b[2J\r\nb\u202e\u2028\x9b31m"
    base = compared.write(tmp_path / "a.dmt", compared.walls(*EQUAL), (hostile,))
    new = compared.write(
        tmp_path / f"b{hostile}.dmt", compared.walls(*SLOWER), (hostile,),
        meta={"kernel": hostile, "machine": hostile, "device": hostile, "detail": hostile},
    )  # fmt: skip
    done = _cli(base, new, "--fail-on", "wall>5%")
    assert done.returncode == 1
    shown = (done.stdout + done.stderr).replace("\n", "")
    assert not {"\x1b", "\r", "\u202e", "\u2028", "\x9b"} & set(shown)
    assert done.stderr.count("\n") == 1
