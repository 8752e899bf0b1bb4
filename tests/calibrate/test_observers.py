"""Observers: what they keep does not depend on the order, on the shards, or on a file in between."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.calibrate.observers import (
    BINS,
    ChannelMean,
    ChannelRange,
    Gram,
    Histogram,
    MovingRange,
    Observer,
    Range,
)

MAKERS: list[Callable[[], Observer]] = [
    Range,
    Histogram,
    lambda: ChannelRange(1),
    lambda: ChannelMean(1),
    lambda: Gram(1),
]


def batches(seed: int, count: int = 4) -> list[np.ndarray]:
    """Arrays [n, 3, m] of very different ranges, some numbers 0."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        array = rng.normal(size=(int(rng.integers(1, 4)), 3, int(rng.integers(1, 6)))) * 10.0 ** rng.integers(-3, 4)
        array[rng.random(array.shape) < 0.2] = 0
        found.append(array.astype(np.float32))
    return found


def seen(make: Callable[[], Observer], arrays: list[np.ndarray]) -> Observer:
    observer = make()
    for array in arrays:
        observer.see(array)
    return observer


def assert_same(left: Observer, right: Observer) -> None:
    first, second = left.state(), right.state()
    assert first.keys() == second.keys()
    for name, array in first.items():
        if array.dtype.kind == "f":
            # sums of float32 products depend on their grouping; everything else is exact
            np.testing.assert_allclose(array, second[name], rtol=1e-5, atol=1e-5 * np.abs(array).max(initial=1e-30))
        else:
            np.testing.assert_array_equal(array, second[name], err_msg=name)


@pytest.mark.parametrize("make", MAKERS)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(4)), cut=st.integers(0, 4))
@settings(max_examples=40)
def test_order_and_shards_make_no_difference(make: Callable[[], Observer], seed: int, order: list[int], cut: int):
    arrays = batches(seed)
    whole = seen(make, arrays)
    shuffled = [arrays[index] for index in order]
    left, right = seen(make, shuffled[:cut]), seen(make, shuffled[cut:])
    left.merge(right)
    assert_same(whole, left)


@pytest.mark.parametrize("make", [*MAKERS, MovingRange])
def test_a_state_comes_back_whole(make: Callable[[], Observer]):
    observer = seen(make, batches(7))
    other = make()
    other.restore(observer.state())
    assert_same(observer, other)
    assert other.key == observer.key


@given(seed=st.integers(0, 10_000))
def test_a_histogram_counts_every_number_in_the_bin_that_holds_it(seed: int):
    arrays = batches(seed)
    found = seen(Histogram, arrays)
    assert isinstance(found, Histogram)
    flat = np.concatenate([array.reshape(-1) for array in arrays]).astype(np.float64)
    bins = np.floor(flat / found.width).astype(np.int64) - found.first
    np.testing.assert_array_equal(np.bincount(bins, minlength=len(found.counts)), found.counts)
    assert len(found.counts) <= BINS
    assert found.zeros == np.count_nonzero(flat == 0)
    assert (found.low, found.high) == (flat.min(), flat.max())


def test_a_histogram_of_one_number_and_of_nothing_but_zeros_is_sound():
    for number in (0.0, 3.0, -1e-20, 1e30):
        found = seen(Histogram, [np.full(5, number, np.float32)])
        assert isinstance(found, Histogram)
        assert found.counts.sum() == 5
        assert found.low == found.high == np.float32(number)


def test_numbers_that_are_not_finite_are_counted_apart():
    found = Range()
    found.see(np.array([1, np.nan, np.inf, -2], np.float32))
    assert (found.broken, found.elements, found.low, found.high) == (2, 4, -2, 1)


def test_an_empty_array_teaches_nothing():
    for make in (*MAKERS, MovingRange):
        observer = make()
        before = copy.deepcopy(observer)
        observer.see(np.zeros((0, 3, 2), np.float32))
        assert_same(observer, before)


def test_mean_variance_and_gram_are_those_of_numpy():
    arrays = batches(3)
    rows = np.concatenate([np.moveaxis(array, 1, 0).reshape(3, -1) for array in arrays], axis=1).astype(np.float64)
    mean, gram = seen(lambda: ChannelMean(1), arrays), seen(lambda: Gram(1), arrays)
    assert isinstance(mean, ChannelMean)
    assert isinstance(gram, Gram)
    np.testing.assert_allclose(mean.mean, rows.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(mean.variance, rows.var(axis=1), rtol=1e-5)
    np.testing.assert_allclose(gram.matrix, rows @ rows.T, rtol=1e-5)
    assert gram.rows == rows.shape[1]


def test_a_moving_range_forgets_outliers():
    found = MovingRange(0.5)
    for high in (1, 1, 9, 1, 1, 1):
        found.see(np.array([0, high], np.float32))
    assert found.high == pytest.approx(1.5)


def test_observers_of_different_options_do_not_merge():
    with pytest.raises(ValueError, match="cannot be merged"):
        ChannelRange(0).merge(ChannelRange(1))
