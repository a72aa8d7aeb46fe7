"""The HTML export: in a real browser, with hostile names, on a phone, printed, and large."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import chromium
import everything
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import synthetic

import dmatrace
from dmatrace.analysis.frames import Frames
from dmatrace.cli import main
from dmatrace.export import Options, charts, html

SIX = Path(__file__).parents[1] / "data" / "six.dmt"

# Runs around the pages, in frames of a phone's and a desk's width; tells what it found.
_CHECK = """<!doctype html>
<iframe id=phone src="six.html" style="width:390px;height:900px"></iframe>
<iframe id=desk src="six.html" style="width:1100px;height:900px"></iframe>
<iframe id=hostile src="hostile.html" style="width:390px;height:900px"></iframe>
<script>
const look = (name) => {
  const page = document.getElementById(name).contentDocument;
  const root = page.documentElement;
  const seen = [...page.querySelectorAll(".chart")].map((chart) => ({
    id: chart.id,
    drawn: chart.querySelectorAll(".main-svg .bars path, .main-svg .trace, .hm image").length,
    wide: chart.querySelector(".main-svg").getBoundingClientRect().width,
  }));
  return {
    charts: seen, drawn: root.dataset.drawn, failed: root.dataset.failed,
    scroll: root.scrollWidth, width: root.clientWidth, hacked: page.defaultView.hacked || null,
    title: page.title, scripts: page.scripts.length,
    links: [...page.querySelectorAll("[src], link, a[href]:not([href^='#'])")].length,
    asked: page.defaultView.performance.getEntriesByType("resource").length,
  };
};
const ready = (name) => {
  const page = document.getElementById(name).contentDocument;
  const state = page && page.documentElement.dataset;
  return state && (state.drawn || state.failed);
};
const wait = () => {
  if (!["phone", "desk", "hostile"].every(ready)) return setTimeout(wait, 100);
  const all = {phone: look("phone"), desk: look("desk"), hostile: look("hostile")};
  fetch("found", {method: "POST", body: JSON.stringify(all)});
};
addEventListener("load", wait);
</script>
"""
_EVIL = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>\x1b[2J"


def test_a_browser_draws_it_on_a_phone_and_a_desk_and_runs_no_name(tmp_path: Path) -> None:
    assert main(["export", str(SIX), "-f", "html", "-o", str(tmp_path / "six.html")]) == 0
    with synthetic.Writer.create(tmp_path / "h.dmt", {**synthetic.META, "kernel": _EVIL}) as writer:
        for load_id, name in enumerate(("dmabuf-bio", "udmabuf-dio", "x" + _EVIL), start=1):
            synthetic.write_load(writer, load_id, name, file=_EVIL, refused=_EVIL)
    where = tmp_path / "hostile.html"
    assert main(["export", str(tmp_path / "h.dmt"), "-f", "html", "-o", str(where)]) == 0
    check = tmp_path / "check.html"
    check.write_text(_CHECK)
    with chromium.Served(tmp_path, "check.html", tmp_path / "profile") as browser:
        found = json.loads(browser.told())
    for name, page in found.items():
        assert page.get("failed") is None, name
        assert int(page["drawn"]) == len(page["charts"]) > 0, name
        assert all(chart["drawn"] for chart in page["charts"]), name
        assert page["scroll"] <= page["width"], f"{name} scrolls sideways"
        assert all(chart["wide"] <= page["width"] for chart in page["charts"]), name
        assert (page["links"], page["asked"]) == (0, 0), f"{name} asks for other files"
        assert page["hacked"] is None, name
        assert page["scripts"] == 4, name
    ids = {chart["id"] for chart in found["desk"]["charts"]}
    assert {"chart-phases", "chart-kinds", "chart-memory", "chart-latency"} <= ids
    assert {"chart-waterfall", "chart-table-V2"} <= ids


@pytest.mark.long
def test_it_prints(tmp_path: Path) -> None:
    assert main(["export", str(SIX), "-f", "html", "-o", str(tmp_path / "six.html")]) == 0
    chromium.run(
        tmp_path / "profile", "--virtual-time-budget=20000", "--no-pdf-header-footer",
        f"--print-to-pdf={tmp_path / 'six.pdf'}", (tmp_path / "six.html").as_uri(),
    )  # fmt: skip
    pdf = (tmp_path / "six.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert 3 <= pages <= 15


def _page(frames: Frames) -> str:
    out = io.BytesIO()
    html.write(frames, out, Options())
    return out.getvalue().decode()


def _charts(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="charts">(.*?)</script>', page)
    assert match
    found = json.loads(match[1])
    assert isinstance(found, dict)
    return found


def test_plotly_knows_every_key() -> None:
    drawn = _charts(_page(dmatrace.open(SIX)))
    assert len(drawn) >= 6
    for chart in drawn.values():
        go.Figure(chart)  # ValueError for a key or a value that it does not know


def test_every_hidden_hook_and_verdict_is_told(tmp_path: Path) -> None:
    meta = {"lost_events": 7}
    page = _page(dmatrace.open(synthetic.write(tmp_path / "a.dmt", meta=meta)))
    assert "the heap&#x27;s own share of dma_heap_ioctl" in page
    assert "build it with make -C native and load it" in page
    assert "7 events were lost" in page
    assert "came from the direct read path" in page
    assert "Udmabuf direct" not in page
    assert "udmabuf direct I/O" in page  # V2's row 7, beside dmabuf-bio, its row 1


class _Large(synthetic.InMemory):
    """A recording with a million requests, made in one go."""

    count = 1_000_000

    def _read(self, name: str) -> pd.DataFrame:
        if name != "requests":
            return super()._read(name)
        frame = super()._read(name)
        many = np.arange(self.count, dtype="int64")
        values: dict[str, Any] = dict.fromkeys(frame.columns, 0)
        queue = 1_000_000 + many
        values |= {"load_id": 1, "bytes": 4096, "op": "read", "queue_ns": queue}
        values |= {"issue_ns": queue + 10, "complete_ns": queue + 10 + many % 977 + 1}
        return pd.DataFrame(values, index=many).astype(frame.dtypes.to_dict())


def test_a_page_does_not_grow_with_the_requests() -> None:
    threads = [
        {"load_id": 1, "window": 0, "tid": 1, "comm": "l", "start_ns": 1_000_000,
         "end_ns": 2_000_000, "sched_run_ns": 0, "sched_wait_ns": 0},
    ]  # fmt: skip
    load = synthetic.load(1, "dmabuf-bio")
    page = _page(Frames(_Large({"loads": [load], "threads": threads})))
    assert len(page) < len(_page(dmatrace.open(SIX)))
    heat = _charts(page)["chart-latency"]["data"][0]["z"]
    assert (len(heat), len(heat[0])) == (charts.ROWS, charts.COLUMNS)
    assert sum(n or 0 for line in heat for n in line) == _Large.count


@pytest.mark.parametrize("count", [1, 3, 399, 401, 10_000])
def test_a_thinned_curve_keeps_its_ends_and_its_peak(count: int) -> None:
    points = [(float(n), float((n * 7919) % 1009)) for n in range(count)]
    kept = charts.thin(points, charts.POINTS)
    assert len(kept) <= charts.POINTS
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert max(value for _, value in kept) == max(value for _, value in points)
    assert kept == sorted(kept)


def test_a_waterfall_s_pieces_are_joined_only_where_no_gap_is_seen() -> None:
    pieces = [(0.0, 1.0), (1.05, 2.0), (5.0, 6.0)]
    assert charts.joined(pieces, 0.1) == [(0.0, 2.0), (5.0, 6.0)]
    assert charts.joined(pieces, 0.01) == pieces


def test_labels_are_not_html() -> None:
    assert charts.label("<b>x</b>\x1b") == "&lt;b&gt;x&lt;/b&gt;\\x1b"
    assert len(charts.label("a" * 500)) < 60


def test_samples_bounds_and_files_are_drawn_and_listed(tmp_path: Path) -> None:
    page = _page(dmatrace.open(everything.write(tmp_path / "e.dmt")))
    drawn = _charts(page)
    for chart in drawn.values():
        go.Figure(chart)
    assert {"chart-bounds", "chart-memory", "chart-pressure", "chart-depth"} <= set(drawn)
    pinned = [t for t in drawn["chart-memory"]["data"] if t["name"] == "pinned"]
    assert [t["y"] for t in pinned] == [[0.0, 0.5, 1.0, 0.0]]
    memory = [t for t in drawn["chart-pressure"]["data"] if t["name"] == "memory"]
    assert memory[0]["y"] == [5.0, 5.0, 5.0, 0.0]
    bounds = drawn["chart-bounds"]["data"]
    assert sum(trace["x"][0] for trace in bounds) == pytest.approx(1.0)  # the wall time, ms
    for said in ("8 KiB by kswapd", "page cache -&gt; user", "drm scanout", everything.OTHER):
        assert said in page
    assert f"{everything.COMM} {everything.PID}" in page
