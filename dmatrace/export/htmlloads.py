"""Tables of the HTML export about what followed processes loaded, how, and what it means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dmatrace.analysis.bufferflow import filled
from dmatrace.analysis.tried import WAYS
from dmatrace.export import markup
from dmatrace.export.markup import Cell, paragraph, table
from dmatrace.sizes import format_size

MOST = 50  # rows of a table, the largest


def sections(document: Mapping[str, Any]) -> Iterator[str]:
    """All of them; nothing of a recording that followed no process."""
    observed = {load["load_id"] for load in document["loads"] if load["strategy"] == "observed"}
    found = (_findings(document), _loads(document), _fills(document, observed),
             _steps(document, observed), *_tried(document))  # fmt: skip
    yield from (part for part in found if part)


def _findings(document: Mapping[str, Any]) -> str:
    rows: list[list[Cell | str]] = [
        [
            f"{load.get('comm', '')} {load.get('pid', '')}",
            markup.number(finding["rank"]),
            finding["text"] + (" [estimate]" if finding["estimate"] else ""),
            finding["next"],
        ]
        for load in document["loads"]
        for finding in load.get("findings") or ()
    ]
    heads = ["process", "rank", "finding", "next"]
    return table("What the figures mean", heads, rows, key="findings")


def _loads(document: Mapping[str, Any]) -> str:
    found = [load for load in document.get("file_loads", []) if load["strategy"] == "observed"]
    rows: list[list[Cell | str]] = [
        [
            _name(load),
            load["format"] or "-",
            f"{load['comm'] or 'process'} {load['pid']}",
            markup.size(load["bytes"]),
            markup.size(load["size"]),
            markup.ns(load["end_ns"] - load["start_ns"]),
            markup.size(load["bytes_per_s"]),
            load["verdict"],
            "; ".join(said for part in load["parts"] for said in part["evidence"]),
        ]
        for load in sorted(found, key=lambda each: -each["bytes"])[:MOST]
    ]
    heads = ["file", "format", "process", "loaded", "file's size", "time", "a second",
             "how", "evidence"]  # fmt: skip
    return table("Files that processes loaded", heads, rows, key="file-loads")


def _flows(document: Mapping[str, Any], observed: set[int]) -> list[Mapping[str, Any]]:
    flows = [flow for flow in document.get("buffer_flows", []) if flow["load_id"] in observed]
    return sorted(flows, key=lambda each: -int(each["size"]))[:MOST]


def _fills(document: Mapping[str, Any], observed: set[int]) -> str:
    rows: list[list[Cell | str]] = [
        [
            f"dma-buf {flow['ino']}",
            flow["heap"] or flow["exporter"] or "-",
            markup.size(flow["size"]),
            "; ".join(filled(fill) for fill in flow["fills"]) or "no read went into it",
        ]
        for flow in _flows(document, observed)
    ]
    return table("What filled the dma-bufs", ["buffer", "of", "size", "filled by"], rows,
                 key="buffer-flows")  # fmt: skip


def _steps(document: Mapping[str, Any], observed: set[int]) -> str:
    rows: list[list[Cell | str]] = []
    for flow in _flows(document, observed):
        start = min((step["start_ns"] for step in flow["steps"]), default=0)
        rows += [
            [f"dma-buf {flow['ino']}", step["step"], markup.ns(step["start_ns"] - start),
             markup.ns(step["end_ns"] - step["start_ns"]), step["what"]]
            for step in flow["steps"]
        ]  # fmt: skip
    heads = ["buffer", "step", "after", "for", "what"]
    return table("Steps of the dma-bufs", heads, rows[: 4 * MOST])


def _tried(document: Mapping[str, Any]) -> Iterator[str]:
    tried = document.get("tried")
    if not tried:
        return
    if tried["why"]:
        yield paragraph(f"Tried: nothing. {tried['why']}; {tried['do']}", "note")
        return
    target = tried["target"]
    way = f"the target ({WAYS.get(target['way'], target['way'])})"
    rows: list[list[Cell | str]] = [
        [way, markup.ns(target["ns"] or None), markup.size(target["page_cache_added"]), Cell("-")]
    ]
    rows += [
        [load["strategy"], markup.ns(load["ns"]), markup.size(load["page_cache_added"]),
         markup.number(load["gain"] or None, f"{load['gain'] or 0:.2f}x")]
        for load in tried["loads"]
    ]  # fmt: skip
    heads = ["by", "time", "page cache added", "as fast as the target"]
    caption = f"Tried on {tried['file']}: {format_size(tried['bytes'])}, {tried['cache']}"
    yield table(caption, heads, rows, key="tried")


def _name(load: Mapping[str, Any]) -> str:
    return str(load["path"]) or f"inode {load['ino']} of {load['dev']}"
