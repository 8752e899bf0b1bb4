"""Ranges: ends worth having, 0 always among them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.calibrate import Histogram, find_range
from graphopt.calibrate.ranges import Calibrator

ALL: tuple[Calibrator, ...] = ("min-max", "percentile", "mse", "entropy")


def histogram(array: np.ndarray) -> Histogram:
    found = Histogram()
    found.see(np.asarray(array, np.float32))
    return found


def error(array: np.ndarray, low: float, high: float, levels: int) -> float:
    """Mean squared error of rounding to equally spaced numbers, computed on the numbers themselves."""
    scale = (high - low) / (levels - 1)
    zero = np.round(-low / scale)
    codes = np.clip(np.round(array / scale) + zero, 0, levels - 1)
    return float(np.mean(((codes - zero) * scale - array) ** 2))


def test_min_max_is_the_range_and_holds_0():
    assert find_range(histogram([-1, 3])) == (-1, 3)
    assert find_range(histogram([2, 3])) == (0, 3)
    assert find_range(histogram([-2, -1])) == (-2, 0)


@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_is_no_worse_than_min_max_and_better_with_outliers(symmetric: bool):
    rng = np.random.default_rng(0)
    array = np.concatenate([rng.normal(size=20_000), [40.0, -35.0]]).astype(np.float32)
    found = histogram(array)
    for levels in (16, 256):
        low, high = find_range(found, "mse", levels=levels, symmetric=symmetric)
        reach = 40.0 if symmetric else None
        widest = (-reach, reach) if reach else (-35.0, 40.0)
        assert error(array, low, high, levels) <= error(array, *widest, levels) * 1.001
    low, high = find_range(found, "mse", levels=16, symmetric=symmetric)
    assert high < 12
    assert low > -12


def test_a_percentile_leaves_out_the_tails():
    array = np.linspace(-1, 1, 100_001)
    low, high = find_range(histogram(array), "percentile", percentile=90)
    assert (low, high) == pytest.approx((-0.9, 0.9), abs=2e-3)
    low, high = find_range(histogram(np.abs(array)), "percentile", percentile=90)
    assert (low, high) == pytest.approx((0, 0.9), abs=2e-3)


def test_entropy_cuts_far_outliers():
    rng = np.random.default_rng(0)
    array = np.concatenate([np.abs(rng.normal(size=50_000)), [100.0]])
    low, high = find_range(histogram(array), "entropy", levels=128)
    assert low == 0
    assert high < 60


@given(
    numbers=st.lists(st.floats(-1e6, 1e6, width=32), min_size=0, max_size=30),
    calibrator=st.sampled_from(ALL),
    symmetric=st.booleans(),
)
def test_the_ends_hold_0_and_lie_within_what_was_seen(numbers: list[float], calibrator: Calibrator, symmetric: bool):
    found = histogram(np.array(numbers, np.float32))
    low, high = find_range(found, calibrator, symmetric=symmetric)
    assert low <= 0 <= high
    reach = max([0.0, *map(abs, numbers)])
    assert max(-low, high) <= reach * 1.001
