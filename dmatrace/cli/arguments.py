"""Types of arguments that several verbs take, as argparse wants them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dmatrace.errors import UsageError
from dmatrace.sizes import format_size, parse_duration, parse_size

if TYPE_CHECKING:
    from dmatrace.analysis.redact import Names


def size(text: str) -> int:
    """Bytes of ``512K``, ``8M``, ``1G``."""
    try:
        return parse_size(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def sizes(text: str) -> tuple[int, ...]:
    """Bytes of ``512K,8M,1G``."""
    return tuple(size(part) for part in text.split(","))


def whole(text: str) -> int:
    """A whole number, 0 included."""
    if not text.isdecimal() or not text.isascii():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def block(text: str) -> int:
    """A size that one read call can have: up to 1 GiB, which is where the loader module ends."""
    return _within(text, 1, 1 << 30)


def gather(text: str) -> int:
    """A size that the loader module gathers: whole pages from 1 MiB to 1 GiB."""
    from dmatrace_loaders import kernel, native

    found = _within(text, native.MIN_GATHER, native.MAX_GATHER)
    if found % kernel.PAGE:
        raise argparse.ArgumentTypeError(f"{text!r} is no multiple of the page size")
    return found


def _within(text: str, least: int, most: int) -> int:
    found = size(text)
    if not least <= found <= most:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not between {format_size(least)} and {format_size(most)}"
        )
    return found


def duration(text: str) -> float:
    """Seconds of ``10``, ``10s``, ``2m``, ``1h``."""
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
    try:
        found = float(text[:-1] if unit else text) * (unit or 1)
    except ValueError:
        found = 0.0
    if not 0 < found < 1e8:  # not "nan" either
        raise argparse.ArgumentTypeError(f"{text!r} is no duration, such as 10, 10s or 2m")
    return found


def pids(text: str) -> tuple[int, ...]:
    """Process numbers with commas between."""
    found = []
    for word in text.split(","):
        digits = word.strip()
        # Short enough for int(), which refuses thousands of digits in its own words.
        known = digits.isdecimal() and digits.isascii() and len(digits) < 20
        if not known or not 0 < int(digits) < 1 << 22:
            raise argparse.ArgumentTypeError(f"{digits[:40]!r} is no process number")
        found.append(int(digits))
    return tuple(dict.fromkeys(found))


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or not text.isascii() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def color(parser: argparse.ArgumentParser) -> None:
    """``--color``, for output.colored()."""
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="auto: on a terminal, unless NO_COLOR is set (default)",
    )


def redact(parser: argparse.ArgumentParser) -> None:
    """``--redact`` and ``--redact-comms``, for redacted()."""
    parser.add_argument(
        "--redact", action="store_true", help="without paths, command lines and host names"
    )
    parser.add_argument(
        "--redact-comms", action="store_true", help="the same, and without names of threads"
    )


def names(args: argparse.Namespace) -> Names | None:
    """What redacts as the options of redact() ask for it; None: nothing does."""
    from dmatrace.analysis.redact import Names

    return Names(args.redact_comms) if args.redact or args.redact_comms else None


def redacted(document: Mapping[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """``document`` as the options of redact() ask for it."""
    from dmatrace.analysis.redact import redact as without

    by = names(args)
    return without(document, names=by) if by else dict(document)


def interval(text: str) -> float:
    """Seconds between two samples: ``100ms``, ``1s``; from 10 ms, which sampling takes itself."""
    try:
        found = parse_duration(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not 0.01 <= found <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 10ms and 1h")
    return found
