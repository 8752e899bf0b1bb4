from __future__ import annotations

import math

import pytest

from graphopt.cli.words import change, clean, decibels, large, plural, seconds, size, small, three


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (size(0), "0 B"),
        (size(1023), "1023 B"),
        (size(1024), "1.00 KiB"),
        (size(2**20 - 1), "1.00 MiB"),
        (size(3 * 2**30), "3.00 GiB"),
        (large(9_999), "9,999"),
        (large(10_000), "10.0 k"),
        (large(1_234_567_890), "1.23 G"),
        (plural(1, "pass", "passes"), "1 pass"),
        (plural(2, "pass", "passes"), "2 passes"),
        (change(200, 120), "-40.0 %"),
        (change(0, 5), ""),
        (seconds(0.0012), "1.2 ms"),
        (seconds(125), "2 min 5 s"),
        (small(math.nan), "nan"),
        (decibels(math.inf), "exact"),
        (clean("a\x1b[31m\u202e\n"), "a?[31m??"),
        (clean("größe"), "größe"),
    ],
)
def test_numbers_and_names_are_short_and_harmless(said: str, expected: str) -> None:
    assert said == expected


def test_what_a_tolerance_allows_is_readable() -> None:
    from graphopt.execute.compare import Tolerance, allowance

    assert allowance(Tolerance(scale=0.05)) == "5 % of the largest value"
    assert allowance(Tolerance(rtol=1e-3, atol=1e-5)) == "0.1 % of each value + 1e-05"
    assert allowance(Tolerance()) == "no difference"


def test_zeros_at_the_end_of_a_time_stay() -> None:
    assert [three(value) for value in (0.07, 0.0888, 1.9, 36.2, 417.2, 1234.0, 0.0)] == [
        "0.0700", "0.0888", "1.90", "36.2", "417", "1,234", "0",
    ]  # fmt: skip
