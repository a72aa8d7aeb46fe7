"""docs/tutorial.md, typed as it stands, in a guest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.guest.lab import Lab

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
_STEP = re.compile(r"```sh\n(?P<script>.*?)```\n(?P<claims>(?:<!-- expect: .*? -->\n)*)", re.DOTALL)


@pytest.mark.long
def test_the_tutorial_says_what_happens(lab: Lab) -> None:
    """Each block succeeds, and prints (stdout or stderr) what the page claims below it."""
    if "system" not in lab.shell("ls /dev/dma_heap").out:
        pytest.skip("kernel lacks: dma-heaps")
    where = lab.must("mktemp -d").strip()
    steps = list(_STEP.finditer(PAGE.read_text()))
    assert len(steps) == PAGE.read_text().count("```sh")
    for step in steps:
        done = lab.shell(f"set -eo pipefail; cd {where}\n{step['script']}")
        said = " ".join((done.out + done.err).split())
        assert done.code == 0, f"{step['script']}\n{said}"
        for claim in re.findall(r"<!-- expect: (.*?) -->", step["claims"]):
            assert claim in said, f"{step['script']}\nsaid: {said}\nnot: {claim}"
