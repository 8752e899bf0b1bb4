"""Rounding by moments: the quadratic form is the true error, and its solutions come in the order that is known."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.passes.quantize._rounding import (
    Form,
    Grid,
    Moments,
    descend,
    feed_back,
    fitted_scale,
    form_of,
    search_scale,
)
from graphopt.passes.quantize._solve import solve

FEATURES, OUTPUTS = 96, 64


def layer(rows: int = 2000, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights of heavy tails, and inputs of power-law covariance with six features that are 20 times as large."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(5, (1, OUTPUTS, FEATURES)) * 0.05
    turn = np.linalg.qr(rng.normal(size=(FEATURES, FEATURES)))[0]
    inputs = rng.normal(size=(rows, FEATURES)) * np.arange(1, FEATURES + 1) ** -0.6 @ turn
    inputs[:, rng.choice(FEATURES, 6, replace=False)] *= 20
    return weight, inputs


def moments(x: np.ndarray, y: np.ndarray) -> Moments:
    """Of rows [N, F] and [N, R], as one group."""
    return Moments(
        (x.T @ x)[None], (y.T @ x)[None], np.sum(y**2, axis=0)[None], x.sum(axis=0)[None], y.sum(axis=0)[None], len(x)
    )


def grid_of(weight: np.ndarray, bits: int = 4) -> Grid:
    most = 2 ** (bits - 1) - 1
    return Grid(np.abs(weight).max(axis=-1) / most, -most - 1, most)


def test_the_quadratic_form_is_the_error_of_the_outputs():
    weight, x = layer(500)
    rng = np.random.default_rng(1)
    y = x @ weight[0].T + rng.normal(size=(500, OUTPUTS))
    other = weight + 0.01 * rng.normal(size=weight.shape)
    found = moments(x, y).error(other)
    np.testing.assert_allclose(found[0], np.sum((y - x @ other[0].T) ** 2, axis=0), rtol=1e-9)


def test_centred_moments_are_those_of_a_product_with_the_best_bias():
    weight, x = layer(500)
    x = x + 3.0
    y = x @ weight[0].T + 7.0
    other = weight * 1.1
    error = y - x @ other[0].T
    found = moments(x, y).centred().error(other)
    np.testing.assert_allclose(found[0], np.sum((error - error.mean(axis=0)) ** 2, axis=0), rtol=1e-6)


def test_the_target_is_ridge_regression():
    weight, x = layer(300)
    y = x @ weight[0].T + np.sin(x[:, :1])
    found = form_of(moments(x, y), weight, ridge=0.1)
    ridge = 0.1 * np.mean(np.sum(x**2, axis=0))
    tall = np.concatenate([x, np.sqrt(ridge) * np.eye(FEATURES)])
    wanted = np.linalg.lstsq(tall, np.concatenate([y, np.sqrt(ridge) * weight[0].T]), rcond=None)[0].T
    np.testing.assert_allclose(found.target[0], wanted, atol=1e-8)


@pytest.mark.parametrize("bits", [3, 4])
def test_methods_come_in_the_order_that_is_known(bits: int):
    weight, x = layer()
    train, held = x[:1500], x[1500:]
    form = form_of(moments(train, train @ weight[0].T), weight, ridge=0.01, refit=False)
    truth = moments(held, held @ weight[0].T)

    def error(grid: Grid, codes: np.ndarray) -> float:
        return float(truth.error(grid.weight(codes)).sum())

    plain = grid_of(weight, bits)
    searched = search_scale(form, plain)
    nearest = error(plain, plain.codes(weight))
    scaled = error(searched, searched.codes(weight))
    descended = error(searched, descend(form, searched, searched.codes(weight)))
    fed = error(searched, feed_back(form, searched))
    both = error(searched, descend(form, searched, feed_back(form, searched)))
    assert nearest > scaled > descended > both
    assert scaled > fed
    assert nearest > 1.5 * both


@pytest.mark.parametrize("features", [9, 64, 65, 96])
def test_descent_never_makes_the_form_larger(features: int):
    rng = np.random.default_rng(features)
    x = rng.normal(size=(5, 200, features)) @ rng.normal(size=(features, features))
    form = Form(x.swapaxes(1, 2) @ x, rng.normal(size=(5, 3, features)))
    grid = grid_of(form.target)
    codes = grid.codes(form.target)
    values = [form.value(grid.weight(codes)).sum()]
    for _ in range(4):
        codes = descend(form, grid, codes, sweeps=1)
        values.append(form.value(grid.weight(codes)).sum())
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]
    assert codes.min() >= grid.low
    assert codes.max() <= grid.high


def test_descent_ends_where_no_single_code_can_be_exchanged():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 6)) @ rng.normal(size=(6, 6))
    form = Form((x.T @ x)[None], rng.normal(size=(1, 2, 6)))
    grid = grid_of(form.target, 3)
    codes = descend(form, grid, grid.codes(form.target), sweeps=50)
    least = form.value(grid.weight(codes))
    for column in range(6):
        for code in range(grid.low, grid.high + 1):
            other = codes.copy()
            other[:, :, column] = code
            assert (form.value(grid.weight(other)) >= least - 1e-9).all()


def test_feedback_on_a_diagonal_form_is_rounding_to_nearest():
    rng = np.random.default_rng(4)
    form = Form(np.diag(rng.uniform(1, 9, 70))[None], rng.normal(size=(1, 5, 70)))
    grid = grid_of(form.target)
    np.testing.assert_array_equal(feed_back(form, grid), grid.codes(form.target))


def test_the_scale_of_given_codes_is_least_squares():
    weight, x = layer(300)
    form = form_of(moments(x, x @ weight[0].T), weight, ridge=0.01, refit=False)
    grid = grid_of(weight)
    codes = grid.codes(weight)
    fitted = fitted_scale(form, grid, codes)
    value = form.value(fitted.weight(codes))
    for share in (0.99, 1.01):
        other = Grid(fitted.scale * share, grid.low, grid.high)
        assert (form.value(other.weight(codes)) > value).all()


def test_one_scale_for_a_whole_weight_stays_one():
    weight, x = layer(300)
    grid = Grid(np.asarray(np.abs(weight).max() / 7), -8, 7)
    parts = [moments(x[:200], x[:200] @ weight[0].T), moments(x[200:], x[200:] @ weight[0].T)]
    found = solve(weight, grid, grid.codes(weight), parts, centred=False)
    assert found.grid.scale.shape == ()
    assert found.after < found.before


def test_a_solution_is_never_worse_than_what_there_is():
    weight, x = layer(300)
    grid = Grid(np.full((1, OUTPUTS), 0.01), -8, 7)
    exact = grid.codes(weight) * 0.01
    parts = [moments(x, x @ exact[0].T)]
    found = solve(exact, grid, grid.codes(exact), parts, centred=False)
    assert found.after <= found.before <= 1e-12


def test_dead_inputs_and_dead_outputs_are_left_finite():
    weight, x = layer(300)
    x[:, :10], weight[:, 3] = 0.0, 0.0
    parts = [moments(x[:200], x[:200] @ weight[0].T), moments(x[200:], x[200:] @ weight[0].T)]
    grid = Grid(np.maximum(np.abs(weight).max(axis=-1), 1e-3) / 7, -8, 7)
    found = solve(weight, grid, grid.codes(weight), parts, centred=True)
    assert np.isfinite(found.codes).all()
    assert (found.grid.scale > 0).all()
    assert not found.codes[0, 3].any()


def test_inputs_that_are_all_zero_keep_the_nearest_codes():
    weight, _ = layer(10)
    x = np.zeros((50, FEATURES))
    grid = grid_of(weight)
    found = solve(weight, grid, grid.codes(weight), [moments(x, x @ weight[0].T)] * 2, centred=True)
    np.testing.assert_array_equal(found.codes, grid.codes(weight))
