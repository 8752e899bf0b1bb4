from __future__ import annotations

import pytest

from graphopt.passes.clean.eliminate_noop import EliminateNoop


@pytest.mark.parametrize(
    "operation",
    [
        "b = Cast<to = 1>(a)",
        "b = CastLike(a, x)",
        "b = Transpose<perm = [0, 1]>(a)",
        "s = Constant<value = int64[2] {2, 3}>() b = Reshape(a, s)",
        "s = Constant<value = int64[2] {0, -1}>() b = Reshape(a, s)",
        "b = Flatten<axis = 1>(a)",
        "s = Constant<value = int64[2] {2, 3}>() b = Expand(a, s)",
        "s = Constant<value = int64[1] {1}>() b = Expand(a, s)",
        "s = Constant<value = int64[2] {1, 1}>() b = Tile(a, s)",
        "p = Constant<value = int64[4] {0, 0, 0, 0}>() b = Pad(a, p)",
        "b = Concat<axis = 1>(a)",
        "b = Sum(a)",
        "b = Max(a)",
        "b = Mean(a)",
        "b = Dropout(a)",
        "p = Constant<value = int64[2] {0, 0}>() q = Constant<value = int64[2] {2, 3}>() b = Slice(a, p, q)",
        "p = Constant<value = int64[1] {0}>() q = Constant<value = int64[1] {9223372036854775807}>()"
        " r = Constant<value = int64[1] {1}>() b = Slice(a, p, q, r, r)",
    ],
)
def test_it_vanishes(rewrites, operation):
    rewrites(
        EliminateNoop(),
        f"g (float[2, 3] x) => (float[2, 3] y) {{ a = Relu(x) {operation} y = Neg(b) }}",
        "g (float[2, 3] x) => (float[2, 3] y) { a = Relu(x) y = Neg(a) }",
    )


@pytest.mark.parametrize(
    "operation",
    [
        "b = Cast<to = 7>(a) ",  # a real conversion
        "b = Transpose(a)",  # the default reverses the axes
        "s = Constant<value = int64[2] {3, 2}>() b = Reshape(a, s)",
        "s = Constant<value = int64[3] {1, 2, 3}>() b = Expand(a, s)",
        "s = Constant<value = int64[2] {1, 2}>() b = Tile(a, s)",
        "p = Constant<value = int64[4] {0, 1, 0, 0}>() b = Pad(a, p)",
        "p = Constant<value = int64[1] {-1}>() q = Constant<value = int64[1] {-9223372036854775807}>()"
        " z = Constant<value = int64[1] {0}>() b = Slice(a, p, q, z, p)",  # reverses: the shape is the same
    ],
)
def test_what_does_something_stays(keeps, operation):
    keeps(EliminateNoop(), f"g (float[2, 3] x) => (y) {{ a = Relu(x) {operation} y = Identity(b) }}")


def test_a_stale_declared_shape_is_not_believed(keeps):
    """The file says b has x's shape; it has not. A peer believed it and dropped the Reshape."""
    keeps(
        EliminateNoop(),
        """g (float[N, 6] x) => (float[N, 6] y) <float[N, 6] b> {
             s = Constant<value = int64[3] {0, 2, 3}>()
             b = Reshape(x, s)
             f = Flatten(b)
             y = Relu(f)
           }""",
    )


def test_two_unknown_sizes_are_not_taken_for_equal(keeps):
    keeps(
        EliminateNoop(),
        """g (float[?, 4] x, int64[2] s) => (y) { a = Relu(x) b = Reshape(a, s) y = Neg(b) }""",
        runs=False,
    )


def test_dynamic_sizes_with_one_name_are_equal(rewrites):
    rewrites(
        EliminateNoop(),
        "g (float[N, 4] x) => (float[N, 4] y) { a = Relu(x) s = Shape(x) b = Reshape(a, s) y = Neg(b) }",
        "g (float[N, 4] x) => (float[N, 4] y) { a = Relu(x) y = Neg(a) }",
    )


def test_a_dropout_in_training_stays(keeps):
    keeps(
        EliminateNoop(),
        """g (float[3] x) => (float[3] y) {
             r = Constant<value = float {0.5}>()
             t = Constant<value = bool {1}>()
             a = Dropout(x, r, t)
             y = Relu(a)
           }""",
        runs=False,
    )


def test_a_dropout_whose_mask_is_used_stays(keeps):
    keeps(
        EliminateNoop(),
        "g (float[3] x) => (float[3] y, bool[3] m) { a, m = Dropout(x) y = Relu(a) }",
        reason="second output",
    )


def test_an_attribute_that_is_a_function_parameter_is_not_guessed(keeps):
    keeps(
        EliminateNoop(),
        """<ir_version: 8, opset_import: ["": 17, "local": 1]>
           g (float[2, 2] x) => (float[2, 2] y) { y = local.f<perm = [1, 0]>(x) }
           <domain: "local", opset_import: ["": 17]> f <perm> (a) => (c) { b = Transpose<perm: ints = @perm>(a) c = Relu(b) }""",
        runs=False,
    )


def test_a_loop_that_changes_the_shape_of_what_it_carries_is_not_simplified(keeps):
    """The first trip sees [2] and slices all of it; the second sees [4]."""
    keeps(
        EliminateNoop(),
        """g (float[2] x) => (y) {
             n = Constant<value = int64 {2}>()
             c = Constant<value = bool {1}>()
             z = Constant<value = int64[1] {0}>()
             two = Constant<value = int64[1] {2}>()
             y = Loop (n, c, x) <body = b (int64 i, bool k, float[2] v) => (bool k2, float[M] w) {
               k2 = Identity(k)
               s = Slice(v, z, two)
               w = Concat<axis = 0>(s, v)
             }>
           }""",
    )
