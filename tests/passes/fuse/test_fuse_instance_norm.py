"""fuse-instance-norm: the parts, and constants behind the operator."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_instance_norm import RULES, FuseInstanceNorm
from graphopt.rewrite.fuzz import fuzz

NUMBERS = "float two = {2}, float e = {0.001}, float o = {1}"
WEIGHTS = "float[3, 1, 1] w = {1, 2, -3}, float[1, 3, 1, 1] h = {0.5, 0, 1}"
NORM = """c = ReduceMean<axes = [2, 3]>(x) d = Sub(x, c) p = Pow(d, two) q = ReduceMean<axes = [-1, -2]>(p)
          v = Add(q, e) r = Sqrt(v) n = Div(d, r)"""
OPERATOR = "InstanceNormalization <epsilon = 0.001> (x, s, b)"


def model(body: str, names: str, *, x: str = "float[N, 3, H, W] x", y: str = "float[?, ?, ?, ?] y", opset: int = 17):
    return f'<ir_version: 8, opset_import: ["": {opset}]> g ({x}) => ({y}) <{names}> {{ {body} }}'


def fused(scale: str = "{1, 1, 1}", bias: str = "{0, 0, 0}", **options):
    return model(f"y = {OPERATOR}", f"float[3] s = {scale}, float[3] b = {bias}", **options)


@pytest.mark.parametrize(
    ("body", "scale", "bias"),
    [
        ("m = Mul(w, n) y = Add(m, h)", "{1, 2, -3}", "{0.5, 0, 1}"),
        ("y = Mul(n, two)", "{2, 2, 2}", "{0, 0, 0}"),
        ("m = Add(n, h) y = Mul(m, w)", "{1, 2, -3}", "{0.5, 0, -3}"),
        ("m = Sub(n, h) y = Div(m, two)", "{0.5, 0.5, 0.5}", "{-0.25, 0, -0.5}"),
    ],
)
def test_the_parts_with_scale_and_bias(rewrites, body, scale, bias):
    rewrites(FuseInstanceNorm(), model(f"{NORM} {body}", f"{NUMBERS}, {WEIGHTS}"), fused(scale, bias))


@pytest.mark.parametrize(
    ("body", "bias"),
    [
        ("l = Mul(x, i) z = Mul(c, i) k = Sub(h, z) y = Add(l, k)", "{0.5, 0, 1}"),
        ("y = Mul(d, i)", "{0, 0, 0}"),
    ],
)
def test_a_scale_between_the_parts(rewrites, body, bias):
    """As tf2onnx writes moments and batch_normalization of a picture."""
    parts = f"{NORM.replace('n = Div(d, r)', 'j = Reciprocal(r) i = Mul(j, w)')} {body}"
    rewrites(FuseInstanceNorm(), model(parts, f"{NUMBERS}, {WEIGHTS}"), fused("{1, 2, -3}", bias))


@pytest.mark.parametrize("opset", [8, 11, 13])
def test_every_opset_has_the_operator(rewrites, opset):
    body = NORM.replace("-1, -2", "3, 2").replace("n = Div", "y = Div")
    rewrites(FuseInstanceNorm(), model(body, NUMBERS, opset=opset), fused(opset=opset))


def test_constants_behind_an_operator_that_was_there(rewrites):
    names = "float[3] s = {1, 2, 3}, float[3] b = {1, 0, -1}, float[3, 1, 1] w = {2, 2, -1}"
    rewrites(
        FuseInstanceNorm(),
        model(f"n = {OPERATOR} y = Mul(n, w)", names),
        fused("{2, 4, -3}", "{2, 0, 1}"),
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = Mul(n, row)", "not one number for each channel"),
        ("y = Mul(n, many)", "not that of the scale"),
        ("y = Mul(n, huge)", "would not be finite"),
        ("y = Mul(n, deep)", "would add a dimension"),
    ],
)
def test_constants_behind_it_that_stay(keeps, body, reason):
    names = """float[1] s = {2}, float[1] b = {0}, float[4] row = {1, 2, 3, 4}, float[2, 1, 1] many = {1, 2},
               float huge = {3e38}, float[1, 1, 1, 1, 1] deep = {2}"""
    y = "float[?, ?, ?, ?, ?] y" if "deep" in body else "float[?, ?, ?, ?] y"
    text = model(f"n = {OPERATOR} {body}", names, x="float[N, 1, H, 4] x", y=y)
    keeps(FuseInstanceNorm(), text, reason=reason)


@pytest.mark.parametrize(
    ("body", "options", "reason"),
    [
        (NORM, {"x": "float[N, C, H, W] x"}, "the number of channels is not known"),
        (NORM.replace("[2, 3]", "[1, 2, 3]"), {}, "its two means are over different axes"),
        (NORM.replace("[2, 3]", "[1]").replace("[-1, -2]", "[1]"), {}, "not all behind the channels"),
        (NORM, {"y": "float[?, ?, ?, ?] y, float[?, ?, ?, ?] d"}, "is an output of the graph"),
    ],
)
def test_what_is_kept_has_a_reason(keeps, body, options, reason):
    keeps(FuseInstanceNorm(), model(f"{body} y = Identity(n)", NUMBERS, **options), reason=reason)


def test_three_axes_are_left_to_layer_normalisation(keeps):
    body = NORM.replace("[2, 3]", "[2]").replace("[-1, -2]", "[2]") + " y = Identity(n)"
    keeps(FuseInstanceNorm(), model(body, NUMBERS, x="float[N, 3, 8] x", y="float[?, ?, ?] y"), reason="of a picture")


def test_double_has_no_kernel_that_is_as_exact(keeps, in_type):
    keeps(FuseInstanceNorm(), in_type(model(f"{NORM} y = Identity(n)", NUMBERS), ir.DataType.DOUBLE), reason="double")


@pytest.mark.parametrize("rule", RULES.rules, ids=lambda rule: rule.pattern)
def test_each_rule_holds_on_random_shapes(rule):
    fuzz(
        rule,
        trials=12,
        shapes={"x": "n 3 h w", "eps": "", "g": "3 1 1", "h": "3 1 1"} | dict.fromkeys("abk", "2"),
        types=dict.fromkeys("abk", ir.DataType.INT64),
        values={name: lambda rng, shape: np.array([2, 3]) for name in "abk"}
        | {"eps": lambda rng, shape: np.array(1e-3)},
        constants=[name for name in "abkgh" if name in rule.source.variables],
    )
