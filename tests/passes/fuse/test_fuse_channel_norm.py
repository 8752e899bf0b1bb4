"""fuse-channel-norm: LayerNorm2d as exporters write it, and what is kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_channel_norm import RULES, FuseChannelNorm
from graphopt.pipeline import Context
from graphopt.rewrite.fuzz import fuzz
from graphopt.target import targets

NUMBERS = "float two = {2}, float e = {0.001}, float one = {1}"
WEIGHTS = "float[3, 1, 1] w = {1, 2, -3}, float[1, 3, 1, 1] h = {0.5, 0, 1}"
PARTS = """c = ReduceMean<axes = [1]>(x) d = Sub(x, c) p = Pow(d, two) q = ReduceMean<axes = [1]>(p)
           v = Add(q, e) r = Sqrt(v)"""
X, Y = "float[N, 3, H, W] x", "float[?, ?, ?, ?] y"
AFTER = """t = Transpose<perm = [0, 2, 3, 1]>(x) l = LayerNormalization<axis = -1, epsilon = 0.001>(t, w, h)
           y = Transpose<perm = [0, 3, 1, 2]>(l)"""


def model(body: str, names: str, *, x: str = X, y: str = Y, opset: int = 17) -> str:
    return f'<ir_version: 8, opset_import: ["": {opset}]> g ({x}) => ({y}) <{names}> {{ {body} }}'


def fused(scale: str = "{1, 2, -3}", bias: str = "{0.5, 0, 1}", **options: str) -> str:
    if bias:
        return model(AFTER, f"float[3] w = {scale}, float[3] h = {bias}", **options)
    return model(AFTER.replace(", h)", ")"), f"float[3] w = {scale}", **options)


@pytest.mark.parametrize(
    ("body", "scale", "bias"),
    [
        ("n = Div(d, r) m = Mul(w, n) y = Add(m, h)", "{1, 2, -3}", "{0.5, 0, 1}"),
        ("i = Reciprocal(r) n = Mul(d, i) m = Mul(n, w) y = Add(h, m)", "{1, 2, -3}", "{0.5, 0, 1}"),
        ("i = Div(one, r) n = Mul(d, i) y = Mul(n, w)", "{1, 2, -3}", ""),
        ("y = Div(d, r)", "{1, 1, 1}", ""),
    ],
)
def test_each_dialect_is_one_operator(rewrites, body, scale, bias):
    rewrites(FuseChannelNorm(), model(f"{PARTS} {body}", f"{NUMBERS}, {WEIGHTS}"), fused(scale, bias))


def test_means_that_were_taken_twice(rewrites):
    """As dynamo and TorchScript write SAM's: x.mean(1), then (x - u).pow(2), then (x - u) again."""
    body = """c = ReduceMean<keepdims = 1>(x, a) f = Sub(x, c) p = Mul(f, f) q = ReduceMean(p, a) v = Add(q, e)
        r = Sqrt(v) d = Sub(x, c) n = Div(d, r) m = Mul(w, n) y = Add(m, h)"""
    before = model(body, f"{NUMBERS}, {WEIGHTS}, int64[1] a = {{-3}}", opset=18)
    rewrites(FuseChannelNorm(), before, fused().replace('"": 17', '"": 18'))


def test_of_three_axes(rewrites):
    x, y = "float[N, 3, L] x", "float[?, ?, ?] y"
    after = AFTER.replace("[0, 2, 3, 1]", "[0, 2, 1]").replace("[0, 3, 1, 2]", "[0, 2, 1]").replace(", h)", ")")
    before = model(f"{PARTS} y = Div(d, r)", NUMBERS, x=x, y=y)
    rewrites(FuseChannelNorm(), before, model(after, "float[3] w = {1, 1, 1}", x=x, y=y))


def test_half_precision(rewrites, in_type):
    body = f"{PARTS} n = Div(d, r) m = Mul(w, n) y = Add(m, h)"
    before, after = (
        in_type(text, ir.DataType.FLOAT16)
        for text in (model(body, f"{NUMBERS}, {WEIGHTS}"), fused().replace("0.001", "0.0010004043579101562"))
    )
    rewrites(FuseChannelNorm(), before, after)


@pytest.mark.parametrize(
    ("body", "options", "reason"),
    [
        (f"{PARTS} y = Div(d, r)", {"opset": 13}, "needs opset 17"),
        (f"{PARTS} y = Div(d, r)", {"x": "float[N, C, H, W] x"}, "number of channels is not known"),
        (f"{PARTS} y = Div(d, r)", {"y": f"{Y}, float[?, ?, ?, ?] d"}, "is an output"),
        (f"{PARTS.replace('[1]', '[2]')} y = Div(d, r)", {}, "not the channels"),
        (f"{PARTS} n = Div(d, r) y = Mul(n, row)", {"y": f"{Y}, float[?, ?, ?, ?] r"}, "is an output"),
    ],
)
def test_what_is_kept_has_a_reason(keeps, body, options, reason):
    names = f"{NUMBERS}, {WEIGHTS}, float[4] row = {{1, 2, 3, 4}}"
    keeps(FuseChannelNorm(), model(body, names, **options), reason=reason, runs="row" not in body)


def test_a_scale_of_another_kind_stays_behind_it(rewrites):
    names = "float[4] row = {1, 2, 3, 4}"
    before = model(f"{PARTS} n = Div(d, r) y = Mul(n, row)", f"{NUMBERS}, {names}", x="float[N, 3, H, 4] x")
    after = AFTER.replace(", h)", ")").replace("y = ", "n = ") + " y = Mul(n, row)"
    after = model(after, f"float[3] w = {{1, 1, 1}}, {names}", x="float[N, 3, H, 4] x")
    rewrites(FuseChannelNorm(), before, after)


def test_double_is_kept(keeps, in_type):
    text = in_type(model(f"{PARTS} y = Div(d, r)", NUMBERS), ir.DataType.DOUBLE)
    keeps(FuseChannelNorm(), text, reason="less exactly than double")


def test_a_target_may_object(keeps):
    context = Context(target=dataclasses.replace(targets()["onnx"], lacks=frozenset({"LayerNormalization"})))
    keeps(FuseChannelNorm(), model(f"{PARTS} y = Div(d, r)", NUMBERS), context=context, reason="LayerNormalization")


@pytest.mark.parametrize("rule", RULES.rules, ids=lambda rule: rule.pattern)
def test_each_rule_holds_on_random_shapes(rule):
    fuzz(
        rule,
        trials=8,
        shapes={"x": "n 3 h w", "eps": "", "g": "3 1 1", "h": "3 1 1"} | dict.fromkeys("abk", "1"),
        types=dict.fromkeys("abk", ir.DataType.INT64),
        values={name: lambda rng, shape: np.array([1]) for name in "abk"} | {"eps": lambda rng, shape: np.array(1e-3)},
        constants=[name for name in "abkgh" if name in rule.source.variables],
    )
