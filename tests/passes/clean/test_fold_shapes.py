from __future__ import annotations

import onnx_ir as ir

from graphopt.ir import dims, infer
from graphopt.passes.clean.fold_shapes import FoldShapes
from graphopt.pipeline import Context


def test_one_known_dimension_is_a_constant(rewrites):
    rewrites(
        FoldShapes(),
        """g (float[N, 3] x, int64 k) => (int64 y) <int64 one = {1}> { s = Shape(x) d = Gather(s, one) y = Add(k, d) }""",
        "g (float[N, 3] x, int64 k) => (int64 y) <int64 d = {3}> { y = Add(k, d) }",
    )


def test_a_reshape_to_dimensions_of_its_input_is_constant(rewrites):
    rewrites(
        FoldShapes(),
        """g (float[N, S, 12] x) => (y) <int64[1] z = {0}, int64[1] o = {1}, int64[1] t = {2}, int64[2] h = {3, 4}> {
             s = Shape(x)
             n = Slice(s, z, o)
             l = Slice(s, o, t)
             w = Concat<axis = 0>(n, l, h)
             y = Reshape(x, w)
           }""",
        "g (float[N, S, 12] x) => (y) <int64[4] w = {0, 0, 3, 4}> { y = Reshape(x, w) }",
    )


def test_one_size_that_only_the_run_knows_is_minus_one(rewrites):
    rewrites(
        FoldShapes(),
        """g (float[N, S, 12] x) => (y) <int64 z = {0}, int64 o = {1}, int64[1] a = {0}, int64[1] h = {12}> {
             s = Shape(x)
             n = Gather(s, z)
             l = Gather(s, o)
             p = Mul(n, l)
             q = Unsqueeze(p, a)
             w = Concat<axis = 0>(q, h)
             y = Reshape(x, w)
           }""",
        "g (float[N, S, 12] x) => (y) <int64[2] w = {-1, 12}> { y = Reshape(x, w) }",
    )


def test_two_sizes_that_only_the_run_knows_are_kept(keeps):
    keeps(
        FoldShapes(),
        """g (float[N, S] x, float[M, K] k) => (y) { s = Shape(k) y = Reshape(x, s) }""",
        reason="known only in the run",
        runs=False,
    )


def test_the_same_dimension_is_read_once(rewrites):
    rewrites(
        FoldShapes(),
        """g (float[N, 3] x) => (int64[2] y) <int64[1] z = {0}, int64[1] o = {1}> {
             a = Relu(x)
             s = Shape(x)
             t = Shape(a)
             n = Slice(s, z, o)
             m = Slice(t, z, o)
             y = Concat<axis = 0>(n, m)
           }""",
        """g (float[N, 3] x) => (int64[2] y) <int64[1] z = {0}, int64[1] o = {1}> {
             s = Shape(x)
             n = Slice(s, z, o)
             y = Concat<axis = 0>(n, n)
           }""",
    )


def test_names_of_unknown_sizes_are_not_trusted():
    """Exporters write "?" for two different sizes; the two must not be taken for one."""
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[H, W] x, float[H, W] k) => (y) <int64[2] r = {1, 0}> { s = Shape(k) w = Gather(s, r) y = Reshape(x, w) }"""
    model = ir.from_onnx_text(text)
    for value in model.graph.inputs:
        value.shape = ir.Shape(["?", "?"])
    infer(model)
    first, second = dims(model.graph.inputs[0]) or ()
    assert first != second
    assert not [site for site in FoldShapes().apply(model, Context()) if site.edit is not None]


def test_a_size_is_never_minus_one(rewrites):
    """How torch writes ``x.expand(-1, 4)``: Where(shape = -1, 1, shape)."""
    rewrites(
        FoldShapes(),
        """g (float[N, 3] x) => (bool[2] y) <int64[2] m = {-1, 3}> { s = Shape(x) e = Equal(s, m) y = Not(e) }""",
        "g (float[N, 3] x) => (bool[2] y) <bool[2] e = {0, 1}> { y = Not(e) }",
    )


def test_a_difference_of_sizes_may_be_minus_one(keeps):
    keeps(
        FoldShapes(),
        """g (float[N] x) => (bool[1] y) <int64[1] m = {-1}, int64[1] five = {5}> {
             s = Shape(x) d = Sub(s, five) e = Equal(d, m) y = Not(e) }""",
    )


def test_a_copied_size_and_one_to_work_out_do_not_go_together(keeps):
    """An empty batch: what is left over cannot be worked out from no elements at all."""
    keeps(
        FoldShapes(),
        """g (float[N, S, 3] x) => (y) <int64[1] z = {0}, int64[1] o = {1}, int64[1] t = {2}, int64[1] k = {3}> {
             s = Shape(x) n = Slice(s, z, o) l = Slice(s, o, t) m = Mul(l, k) w = Concat<axis = 0>(n, m) y = Reshape(x, w) }""",
        reason="beside a copied one",
    )
