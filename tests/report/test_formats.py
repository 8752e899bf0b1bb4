from __future__ import annotations

import math

import pytest

from graphopt.report import formats


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0, "0 B"), (1023, "1,023 B"), (1024, "1.00 KiB"), (585_532, "572 KiB"),
     (1_048_575, "1.00 MiB"), (3 * 2**30, "3.00 GiB"), (2**50, "1,024 TiB")],
)  # fmt: skip
def test_sizes_have_three_digits_and_binary_units(value: int | None, shown: str) -> None:
    assert plain(formats.size(value)) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.0, "0 s"),
        (8e-5, "80.0 µs"),
        (0.00162, "1.62 ms"),
        (1.239, "1.24 s"),
        (125.2, "2 min 5 s"),
    ],
)
def test_times_choose_their_unit(value: float | None, shown: str) -> None:
    assert plain(formats.seconds(value)) == shown


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [(258, 179, "−31 %"), (100, 95, "−5.0 %"), (100, 100, "±0 %"), (10**6, 10**6 + 1, "≈0 %"), (0, 5, ""),
     (None, 5, ""), (1, 50, "50×"), (10**6, 1, "−100.00 %"), (10, 0, "−100 %")],
)  # fmt: skip
def test_changes_are_percentages_with_a_sign(before: float | None, after: float | None, shown: str) -> None:
    assert plain(formats.change(before, after)) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (5.96e-8, "6.0e−8"), (0.0312, "0.0312"), (math.inf, "∞"), (math.nan, "NaN"), (None, "–")],
)
def test_differences_are_short(value: float | None, shown: str) -> None:
    assert formats.small(value) == shown


def test_no_noise_is_exact() -> None:
    assert formats.decibels(math.inf) == formats.decibels(None, exact=True) == "exact"
    assert plain(formats.decibels(42.12)) == "42.1 dB"


def test_node_deltas_use_a_real_minus_sign() -> None:
    assert [formats.delta(5, 3), formats.delta(1, 1001), formats.delta(2, 2)] == ["−2", "+1,000", "0"]


def test_invisible_and_direction_changing_characters_become_visible() -> None:
    assert formats.clean("a\x00b\u202ec\ud800d") == "a�b�c�d"
    assert formats.clean("größe 形状") == "größe 形状"
