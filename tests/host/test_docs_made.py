"""What is made from the parser is up to date, and examples in the docs run."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dmatrace.cli import VERBS, main
from dmatrace_loaders.table import strategies

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generate() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "generate.py"))


def test_pages_man_pages_and_completions_are_up_to_date(
    generate: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "COLUMNS", "79")  # put back afterwards
    monkeypatch.setitem(os.environ, "NO_COLOR", "1")
    # Pythons wrap usage lines at different places; words and their order are the same.
    stale = [
        str(path.relative_to(ROOT))
        for path, text in generate["made"]()
        if not path.exists() or path.read_text(encoding="utf-8").split() != text.split()
    ]
    assert not stale, "run make docs"


@pytest.mark.parametrize("verb", [module.NAME for module in VERBS])
def test_every_verb_has_a_page_with_prose_and_a_man_page(verb: str) -> None:
    page = (ROOT / "docs" / f"{verb}.md").read_text()
    prose = page[: page.index("<!-- made by make docs")]
    assert len(prose.split()) > 30, "a page needs more than its options"
    assert f"docs/{verb}.md" in (ROOT / "README.md").read_text()
    assert (ROOT / "docs" / "man" / f"dmatrace-{verb}.1").is_file()


def test_the_example_of_the_python_page_runs() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "memfd-sendfile-bio" in done.stdout
    assert "dmabuf-gather-dio" in done.stdout


_BASH = """
source /dev/stdin
complete=$(complete -p dmatrace | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
$complete dmatrace "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def _completed(script: str, *words: str) -> set[str]:
    done = subprocess.run(
        ["bash", "-c", _BASH, "bash", *words],
        input=script, capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    return set(done.stdout.split())


def test_bash_completes_verbs_options_strategies_and_choices(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert {module.NAME for module in VERBS} <= _completed(script, "dmatrace", "")
    assert "--strategy" in _completed(script, "dmatrace", "record", "--str")
    assert set(strategies()) <= _completed(script, "dmatrace", "record", "--strategy", "")
    second = _completed(script, "dmatrace", "record", "--strategy", "anon-dio,udmabuf-d")
    assert second == {"anon-dio,udmabuf-dio"}
    assert "perfetto" in _completed(script, "dmatrace", "export", "x.dmt", "-f", "p")
    assert {"tests/data"} <= _completed(script, "dmatrace", "report", "tests/da")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_with_every_strategy(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in strategies())
    assert "_dmatrace_strategies" in script
