"""Sizes, durations and times: what a user types, and what a report prints.

Sizes are IEC only (``K`` is 1024): a model file of ``1G`` must be the same
number of pages everywhere.  ``KB`` is refused rather than guessed at.
"""

from __future__ import annotations

import re

from dmatrace.errors import UsageError

_SIZE = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,12}))?\s*(?:([kmgtpe])(?:ib?)?|b)?", re.IGNORECASE)
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*(ms|s|m|h)?", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PREFIXES = "KMGTPE"
_LARGEST = (1 << 63) - 1


def parse_size(text: str) -> int:
    """Bytes of ``512K``, ``8M``, ``1.5G``, ``1GiB`` or a plain number.

    Raises UsageError for anything else, for a fraction of a byte, and above 2**63 - 1.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"not a size: {text!r}", do="write 512K, 8M, 1G or a number of bytes")
    whole, fraction, prefix = match.groups()
    power = _PREFIXES.index(prefix.upper()) + 1 if prefix else 0
    # In integers: 0.1 has no exact float, and 9007199254740993 lost its last bit there.
    digits = fraction or ""
    scaled = int(whole + digits) << (10 * power)
    size, rest = divmod(scaled, int("1" + "0" * len(digits)))
    if rest:
        raise UsageError(f"not a whole number of bytes: {text!r}", do="use a smaller unit")
    if size > _LARGEST:
        raise UsageError(f"too large a size: {text!r}", do="the limit is 8E minus one byte")
    return size


def parse_duration(text: str) -> float:
    """Seconds of ``10``, ``10s``, ``2m``, ``1h`` or ``500ms``.

    Raises UsageError for anything else and for zero.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"not a duration: {text!r}", do="write 10, 10s, 2m or 1h")
    number, unit = match.groups()
    seconds = float(number) * _SECONDS[(unit or "s").lower()]
    if seconds <= 0:
        raise UsageError(f"a duration must be more than zero: {text!r}", do="write 10, 10s or 2m")
    return seconds


def format_size(size: int) -> str:
    """``268435456`` -> ``256 MiB``; three significant digits, IEC units."""
    number, prefix = _scaled(size)
    return f"{number} {prefix}iB" if prefix else f"{number} B"


def short_size(size: int) -> str:
    """``268435456`` -> ``256M``, at most six characters: for table columns."""
    number, prefix = _scaled(size)
    return f"{number}{prefix}"


def format_ns(ns: int) -> str:
    """``1234567`` -> ``1.23 ms``; three significant digits, at most eight characters.

    From 1000 s on in minutes, hours and days, so that a column keeps its width.
    """
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    for unit, scale, limit in (
        ("ns", 1, 1000),
        ("us", 1_000, 1000),
        ("ms", 1_000_000, 1000),
        ("s", 1_000_000_000, 1000),
        ("min", 60_000_000_000, 1000),
        ("h", 3_600_000_000_000, 1000),
    ):
        number = _three_digits(ns / scale)
        if float(number) < limit:
            return f"{sign}{ns if scale == 1 else number} {unit}"
    return f"{sign}{_three_digits(ns / 86_400_000_000_000)} d"


def _three_digits(value: float) -> str:
    # Thresholds of what rounds up: 9.995 is "10.0", not "10.00".
    if value < 9.995:
        return f"{value:.2f}"
    if value < 99.95:
        return f"{value:.1f}"
    return f"{value:.0f}"


def _scaled(size: int) -> tuple[str, str]:
    sign, size = ("-", -size) if size < 0 else ("", size)
    if size < 1024:
        return f"{sign}{size}", ""
    value = float(size)
    for prefix in _PREFIXES:
        value /= 1024
        if round(value) < 1024 or prefix == _PREFIXES[-1]:
            break
    number = f"{value:.0f}" if value == int(value) else _three_digits(value)
    return f"{sign}{number}", prefix
