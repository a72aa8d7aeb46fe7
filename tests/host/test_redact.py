"""Redaction: no path, command line or host name is left anywhere in the document."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import synthetic

from dmatrace.analysis import document
from dmatrace.analysis.redact import redact
from dmatrace.cli import main
from dmatrace.recording import Recording
from dmatrace.report import text


@pytest.fixture
def found(tmp_path: Path) -> dict[str, Any]:
    target = {"kind": "command", "strategies": ["dmabuf-bio"], "command": ["/opt/secret", "-x"],
              "host": "secret-host", "comm": "secret-comm", "later": {"a": "secret"}}  # fmt: skip
    found = document(
        Recording.open(synthetic.write(tmp_path / "a.dmt", rounds=2, meta={"target": target}))
    )
    for load in found["loads"]:
        load["file"] = "/data/my secret model.gguf"
        load["threads"][0]["comm"] = "secret-comm"
    found["loads"][0]["failed"] = "cannot read /data/my secret model.gguf: EIO (at ~/secret/x)"
    found["loads"][0]["direct"]["why"] = "see /home/secret/x, and /data/my secret model.gguf"
    found["loads"][1]["refused"] = "EFAULT: file:///home/secret/x"
    found["skipped"][0]["do"] = "make -C /home/secret/native; reads/s and 3/4 stay"
    found["loads"][1]["failed"] = "no route to secret-host"
    found["command"] = "run /secret"
    return found


def test_nothing_of_it_is_left(found: dict[str, Any]) -> None:
    before = copy.deepcopy(found)
    clean = redact(found, comms=True)
    assert found == before, "pure"
    assert "secret" not in json.dumps(clean)
    assert "secret" not in text.render(clean)
    assert clean["redacted"] is True
    assert clean["target"]["kind"] == "command"
    assert clean["skipped"][0]["do"].endswith("; reads/s and 3/4 stay")
    assert {load["file"] for load in clean["loads"]} == {"path-1"}, "one file is one name"
    assert "path-1: EIO" in clean["loads"][0]["failed"]


def test_comms_go_only_if_asked(found: dict[str, Any]) -> None:
    assert redact(found)["loads"][0]["threads"][0]["comm"] == "secret-comm"
    assert redact(found, comms=True)["loads"][0]["threads"][0]["comm"] == "comm-1"


def test_all_else_stays(tmp_path: Path) -> None:
    found = document(Recording.open(synthetic.write(tmp_path / "a.dmt")))
    clean = redact(found)
    for load in (*found["loads"], *clean["loads"]):
        del load["file"]
        for file in load["files"]:
            del file["path"]
    assert {**clean, "redacted": None} == {**found, "redacted": None}


def test_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(synthetic.write(tmp_path / "a.dmt"))
    for option in ("--redact", "--redact-comms"):
        for form in ("text", "json"):
            assert main(["report", out, "-f", form, option]) == 0
            shown = capsys.readouterr().out
            assert "model.bin" not in shown
            if form == "json":
                assert ('"comm": "loader"' in shown) is (option == "--redact")
