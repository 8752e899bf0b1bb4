from __future__ import annotations

import pytest

from graphopt.passes.clean.eliminate_neutral import EliminateNeutral


@pytest.mark.parametrize(
    "operation",
    [
        "c = Constant<value = float {0}>() b = Add(a, c)",
        "c = Constant<value = float {0}>() b = Add(c, a)",
        "c = Constant<value = float {0}>() b = Sub(a, c)",
        "c = Constant<value = float[3] {1, 1, 1}>() b = Mul(a, c)",
        "c = Constant<value = float {1}>() b = Div(a, c)",
        "c = Constant<value = float {1}>() b = Pow(a, c)",
    ],
)
def test_it_vanishes(rewrites, operation):
    rewrites(
        EliminateNeutral(),
        f"g (float[2, 3] x) => (float[2, 3] y) {{ a = Relu(x) {operation} y = Neg(b) }}",
        "g (float[2, 3] x) => (float[2, 3] y) { a = Relu(x) y = Neg(a) }",
    )


@pytest.mark.parametrize(
    "operation",
    [
        "c = Constant<value = float {0}>() b = Sub(c, a)",
        "c = Constant<value = float {1}>() b = Div(c, a)",
        "c = Constant<value = float[3] {1, 1, 2}>() b = Mul(a, c)",
        "c = Constant<value = float {1.0000001}>() b = Mul(a, c)",
    ],
)
def test_what_changes_a_number_stays(keeps, operation):
    keeps(EliminateNeutral(), f"g (float[2, 3] x) => (float[2, 3] y) {{ a = Relu(x) {operation} y = Neg(b) }}")


def test_a_constant_that_widens_the_shape_stays(keeps):
    keeps(
        EliminateNeutral(),
        "g (float[1, 3] x) => (y) { c = Constant<value = float[2, 1] {1, 1}>() b = Mul(x, c) y = Neg(b) }",
        reason="may widen the shape",
    )


def test_a_decided_where_is_its_branch(rewrites):
    rewrites(
        EliminateNeutral(),
        "g (float[2, 3] x, float[3] z) => (float[2, 3] y) <bool[3] c = {1, 1, 1}> { b = Where(c, x, z) y = Neg(b) }",
        "g (float[2, 3] x, float[3] z) => (float[2, 3] y) { y = Neg(x) }",
    )


def test_a_where_that_also_widens_stays(keeps):
    keeps(
        EliminateNeutral(),
        "g (float[2, 3] x, float[3] z) => (float[2, 3] y) <bool[3] c = {0, 0, 0}> { b = Where(c, x, z) y = Neg(b) }",
        reason="may widen the shape",
    )
