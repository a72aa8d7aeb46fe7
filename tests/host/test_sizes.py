"""Sizes and durations as users type them, and as reports print them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmatrace.errors import UsageError
from dmatrace.sizes import format_ns, format_size, parse_duration, parse_size, short_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("17B", 17),
        ("512K", 512 << 10),
        ("8M", 8 << 20),
        ("8m", 8 << 20),
        (" 1G ", 1 << 30),
        ("1GiB", 1 << 30),
        ("1 GiB", 1 << 30),
        ("3.5Gi", 7 << 29),
        ("2T", 2 << 40),
        ("9007199254740993", 9007199254740993),  # the first integer a float cannot hold
        (str((1 << 63) - 1), (1 << 63) - 1),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "K", "-1", "+1", "1KB", "1.5", "0.1K", "1e9", "0x10", "1 2", "1Q", "nan", "١", "8E",
     str(1 << 63), "9" * 5000, "1.K", ".5G", "1\n2"],
)  # fmt: skip
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert caught.value.code == 2
    assert caught.value.do


@given(st.integers(0, (1 << 63) - 1))
def test_a_printed_size_reads_back_nearly(size: int) -> None:
    for text in (format_size(size), short_size(size)):
        number, prefix = text.rstrip("B").rstrip("i").rstrip(), 0
        if not number[-1].isdigit():
            number, prefix = number[:-1].rstrip(), 1 + "KMGTPE".index(number[-1])
        back = Fraction(number) * 1024**prefix
        assert abs(back - size) <= Fraction(size, 199)
        assert Fraction(number) < 1024
    assert len(short_size(size)) <= 6


@given(st.integers(0, 1023), st.sampled_from("KMGTP"))
def test_whole_sizes_print_as_typed(number: int, prefix: str) -> None:
    text = f"{number}{prefix}"
    size = parse_size(text)
    assert size == number * 1024 ** (1 + "KMGTP".index(prefix))
    if number:
        assert short_size(size) == text
        assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10.0), ("10s", 10.0), ("2m", 120.0), ("1h", 3600.0), ("500ms", 0.5), ("1.5", 1.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "s", "inf", "nan", "1d", "1m30s", "1e3"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1000, "1.00 us"),
        (1_234_567, "1.23 ms"),
        (999_499, "999 us"),
        (999_999, "1.00 ms"),
        (12_345_678_901, "12.3 s"),
        (-1_500, "-1.50 us"),
        (1_000_000_000_000, "16.7 min"),
        (7_200_000_000_000, "120 min"),
        (72_000_000_000_000, "20.0 h"),
        ((1 << 63) - 1, "106752 d"),
    ],
)
def test_times(ns: int, text: str) -> None:
    assert format_ns(ns) == text


@given(st.integers(0, (1 << 63) - 1))
def test_times_fit_a_column_and_are_near(ns: int) -> None:
    text = format_ns(ns)
    assert len(text) <= 8
    number, unit = text.split()
    scale = {
        "ns": 1,
        "us": 10**3,
        "ms": 10**6,
        "s": 10**9,
        "min": 6 * 10**10,
        "h": 36 * 10**11,
        "d": 864 * 10**11,
    }
    assert abs(Fraction(number) * scale[unit] - ns) <= Fraction(ns, 180)
