"""Whether meta.json holds what its readers expect, so that they need not ask again.

Only keys that are known are looked at; a newer recorder may add others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_LARGEST = 1 << 63


def _number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST


def _ratio(value: Any) -> bool:
    # What json reads as NaN or Infinity has no place in a text.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e18


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _maybe_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _named(**kinds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """An object in which the keys named here, where they are, are of their kind."""
    return lambda value: (
        isinstance(value, Mapping)
        and all(fits(value[key]) for key, fits in kinds.items() if key in value)
    )


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _or_null(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _pair(value: Any) -> bool:
    """One strategy's ratios with and without the tracer: all of them, readers print them."""
    whole = _named(
        strategy=_text, pairs=_number, ratio=_named(median=_ratio, min=_ratio, max=_ratio)
    )
    return (
        whole(value)
        and {"strategy", "pairs", "ratio"} <= set(value)
        and {"median", "min", "max"} <= set(value["ratio"])
    )


_KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("dmatrace", "kernel", "machine", "device", "started", "detail"),
        (_maybe_text, "a string"),
    ),
    "page_size": (_or_null(lambda value: _number(value) and value > 0), "a size"),
    "lost_events": (_or_null(lambda value: _number(value) and value >= 0), "a number"),
    "target": (_or_null(lambda value: isinstance(value, Mapping)), "an object"),
    "hooks": (
        _or_null(
            _list_of(_named(name=_text, phase=_maybe_text, attached=_maybe_text, hides=_maybe_text))
        ),
        "a list of hooks",
    ),
    "tried": (
        _or_null(
            _named(
                file=_text,
                why=_text,
                do=_text,
                cache=_text,
                way=_text,
                dev=_number,
                ino=_number,
                bytes=_number,
            )
        ),
        "what was tried",
    ),
    "skipped": (
        _or_null(_list_of(_named(strategy=_text, why=_text, do=_text))),
        "a list of strategies and why",
    ),
    "self": (
        _or_null(
            _named(
                **dict.fromkeys(
                    ("bpf_ns", "bpf_runs", "recorder_cpu_ns", "recorder_rss"), _or_null(_number)
                ),
                programs=_or_null(
                    _list_of(
                        _named(name=_text, run_time_ns=_number, run_cnt=_number, missed=_number)
                    )
                ),
                ab=_or_null(_list_of(_pair)),
            )
        ),
        "the recorder's own cost",
    ),
}


def damage(meta: Mapping[str, Any]) -> str:
    """What is wrong with ``meta``, or ""."""
    for key, (fits, what) in _KINDS.items():
        if key in meta and not fits(meta[key]):
            return f"{key} is not {what}"
    return ""
