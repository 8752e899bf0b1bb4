from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_layer_norm import FuseLayerNorm
from graphopt.passes.fuse.fuse_reduce_mean import RULES, FuseReduceMean
from graphopt.rewrite.fuzz import fuzz

NAMES = "int64[1] l = {-1}, float n = {4}, float p = {0.25}, float k = {12}, float bad = {0.26}, float e = {0.001}"


def model(body: str, names: str = NAMES, *, x: str = "float[N, 3, 4] x", y: str = "float[?, ?, ?] y", opset: int = 18):
    names = f"<{names}>" if names else ""
    return f'<ir_version: 8, opset_import: ["": {opset}]> g ({x}) => ({y}) {names} {{ {body} }}'


@pytest.mark.parametrize("body", ["s = ReduceSum(x, l) y = Div(s, n)", "s = ReduceSum(x, l) y = Mul(p, s)"])
def test_a_divided_sum_is_a_mean(rewrites, body):
    rewrites(FuseReduceMean(), model(body), model("y = ReduceMean<keepdims = 1>(x, l)", "int64[1] l = {-1}"))


@pytest.mark.parametrize("opset", [13, 17])
def test_axes_are_an_attribute_where_they_must_be(rewrites, opset):
    before = model("s = ReduceSum<keepdims = 0>(x, l) y = Div(s, n)", y="float[?, ?] y", opset=opset)
    after = model("y = ReduceMean<axes = [-1], keepdims = 0>(x)", "", y="float[?, ?] y", opset=opset)
    rewrites(FuseReduceMean(), before, after)


def test_before_opset_13_they_always_are(rewrites):
    before = model("s = ReduceSum<axes = [1, -1]>(x) y = Div(s, k)", opset=11)
    rewrites(FuseReduceMean(), before, model("y = ReduceMean<axes = [1, -1], keepdims = 1>(x)", "", opset=11))


def test_all_axes(rewrites):
    before = model("s = ReduceSum(x) y = Div(s, k)", x="float[3, 4] x", y="float[?, ?] y")
    rewrites(
        FuseReduceMean(), before, model("y = ReduceMean<keepdims = 1>(x)", "", x="float[3, 4] x", y="float[?, ?] y")
    )


@pytest.mark.parametrize(
    ("body", "options", "reason"),
    [
        ("s = ReduceSum(x, l) y = Div(s, k)", {}, "the sum of 4 terms is divided by 12"),
        ("s = ReduceSum(x, l) y = Mul(s, bad)", {}, "the sum of 4 terms is multiplied by 0.26"),
        ("s = ReduceSum(x, l) y = Div(s, n)", {"x": "float[N, 3, K] x"}, "the number of terms is not known"),
        ("s = ReduceSum(x, l) y = Div(s, n) z = Neg(s)", {"y": "float[?, ?, ?] y, float[?, ?, ?] z"}, "used elsewhere"),
        ("s = ReduceSum<noop_with_empty_axes = 1>(x) y = Div(s, n)", {}, "it sums nothing"),
    ],
)
def test_what_is_kept_has_a_reason(keeps, body, options, reason):
    keeps(FuseReduceMean(), model(body, **options), reason=reason)


def test_integers_are_kept(keeps):
    text = model(
        "s = ReduceSum(x, l) y = Div(s, n)", "int64[1] l = {-1}, int64 n = {4}", x="int64[2, 4] x", y="int64[?, ?] y"
    )
    keeps(FuseReduceMean(), text, reason="element type int64")


def test_var_mean_of_dynamo_is_a_layer_normalisation(rewrites):
    """As torch.onnx's newer exporter writes torch.var_mean, once its shapes are folded."""
    body = """c = ReduceMean(x, l) d = Sub(x, c) q = Mul(d, d) v = ReduceMean(q, l) u = Add(v, e) r = Sqrt(u)
              i = Reciprocal(r) s = ReduceSum(x, l) m = Div(s, n) f = Sub(x, m) y = Mul(f, i)"""
    between = body.replace("s = ReduceSum(x, l) m = Div(s, n)", "m = ReduceMean<keepdims = 1>(x, k)")
    numbers = "int64[1] l = {-1}, float e = {0.001}, int64[1] k = {-1}"
    rewrites(FuseReduceMean(), model(body), model(between, numbers))
    after = "y = LayerNormalization<axis = -1, epsilon = 0.001>(x, s)"
    rewrites(FuseLayerNorm(), model(between, numbers), model(after, "float[4] s = {1, 1, 1, 1}"))


@pytest.mark.parametrize("rule", RULES.rules, ids=lambda rule: rule.pattern)
def test_each_rule_holds_on_random_shapes(rule):
    quarter = "Mul" in rule.pattern
    fuzz(
        rule,
        shapes={"x": "3 4", "a": "1", "n": ""},
        types={"a": ir.DataType.INT64},
        values={
            "a": lambda rng, shape: np.full(shape, -1),
            "n": lambda rng, shape: np.asarray(0.25 if quarter else 4.0),
        },
        constants=["a"],
        dtypes=(ir.DataType.FLOAT, ir.DataType.DOUBLE),
    )
