"""`dmatrace record`'s options for loaders: their bounds, and which are said to do nothing."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dmatrace.cli import arguments, record
from dmatrace.session import plan
from dmatrace.session.strategies import Request
from dmatrace_loaders import native
from dmatrace_loaders.table import strategies


def _parsed(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    record.configure(parser)
    return parser.parse_args(["--strategy", "all", "--size", "1M", *options])


def test_defaults_are_the_requests_own() -> None:
    given = _parsed()
    assert {name: getattr(given, name) for name in Request.DEFAULTS} == Request.DEFAULTS
    assert given.load_module is False


@pytest.mark.parametrize("text", ["1M", "1G", "4M", "1052672"])
def test_a_gather(text: str) -> None:
    assert native.MIN_GATHER <= arguments.gather(text) <= native.MAX_GATHER


@pytest.mark.parametrize("text", ["1023K", "1025M", "1048577", "0", "much", "-1M", ""])
def test_no_gather(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        arguments.gather(text)


def test_a_block_has_an_end() -> None:
    assert arguments.block("1G") == 1 << 30
    assert arguments.block("1") == 1
    for text in ("1025M", "0"):
        with pytest.raises(argparse.ArgumentTypeError, match="not between 1 B and 1 GiB"):
            arguments.block(text)


def _said(names: list[str], **options: int) -> list[str]:
    said: list[str] = []
    given = SimpleNamespace(**{**Request.DEFAULTS, **options}, say=said.append)
    plan._say_unheeded(cast(Any, given), names)
    return said


def test_what_options_do_nothing_for() -> None:
    everything = list(strategies())
    assert _said(everything) == []
    assert _said(["anon-bio", "memfd-dio"], jobs=2, block=4096) == []
    assert _said(["anon-bio", "filemap-bio"], jobs=2) == ["--jobs does nothing for filemap-bio"]
    assert _said(["anon-bio"], depth=2) == ["--depth does nothing for these strategies"]
    assert _said(everything, depth=2) == ["--depth is for udmabuf-uring-dio alone"]
    (line,) = _said(everything, jobs=3)
    assert line.startswith("--jobs does nothing for memfd-rw-bio, memfd-rw-dio, dmabuf-allocread-")
    gathering = "dmabuf-gather-bio, dmabuf-gather-dio"
    assert _said(everything, gather=1 << 20) == [f"--gather is for {gathering} alone"]
    assert _said([], jobs=2) == []
