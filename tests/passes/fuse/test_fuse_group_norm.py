"""fuse-group-norm: what torch's exporters write for GroupNorm, for a target that likes the operator."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_group_norm import RULES, FuseGroupNorm
from graphopt.pipeline import Context
from graphopt.rewrite.fuzz import fuzz
from graphopt.target import targets

LIKES = Context(target=dataclasses.replace(targets()["onnx"], forms=frozenset({"GroupNormalization"})))
NAMES = """int64[3] to = {0, 2, -1}, float[2] i = {1, 1}, float[2] o = {0, 0}"""
WEIGHTS = "float[4, 1, 1] w = {1, 2, -3, 4}, float[4, 1, 1] h = {0.5, 0, 1, 2}"
PARTS = """r = Reshape(x, to) k = InstanceNormalization <epsilon = 0.001> (r, i, o)
           z = Shape(x) n = Reshape(k, z)"""
OPERATOR = "GroupNormalization <epsilon = 0.001, num_groups = 2> (x, s, b)"


def model(body: str, names: str, *, x: str = "float[N, 4, H, W] x", y: str = "float[?, ?, ?, ?] y", opset: int = 21):
    return f'<ir_version: 8, opset_import: ["": {opset}]> g ({x}) => ({y}) <{names}> {{ {body} }}'


def test_with_scale_and_bias_of_each_channel(rewrites):
    before = model(f"{PARTS} m = Mul(n, w) y = Add(m, h)", f"{NAMES}, {WEIGHTS}")
    after = model(f"y = {OPERATOR}", "float[4] s = {1, 2, -3, 4}, float[4] b = {0.5, 0, 1, 2}")
    rewrites(FuseGroupNorm(), before, after, context=LIKES)


def test_without_them(rewrites):
    after = model(f"n = {OPERATOR} y = Relu(n)", "float[4] s = {1, 1, 1, 1}, float[4] b = {0, 0, 0, 0}")
    rewrites(FuseGroupNorm(), model(f"{PARTS} y = Relu(n)", NAMES), after, context=LIKES)


@pytest.mark.parametrize("name", ["onnx", "x86-64", "arm64"])
def test_other_targets_keep_the_parts(keeps, name):
    text = model(f"{PARTS} y = Relu(n)", NAMES)
    assert not keeps(FuseGroupNorm(), text, context=Context(target=targets()[name])).kept


@pytest.mark.parametrize("opset", [18, 20])
def test_before_opset_21_the_scale_was_one_of_each_group(keeps, opset):
    text = model(f"{PARTS} y = Relu(n)", NAMES, opset=opset)
    keeps(FuseGroupNorm(), text, context=LIKES, reason="needs opset 21")
    own = "n = GroupNormalization <epsilon = 0.001, num_groups = 2> (x, i, o) y = Mul(n, w)"
    keeps(FuseGroupNorm(), model(own, f"{NAMES}, {WEIGHTS}", opset=opset), context=LIKES, runs=False)


@pytest.mark.parametrize(
    ("body", "names", "reason"),
    [
        (PARTS, NAMES.replace("{1, 1}", "{1, 2}"), "scaled by group"),
        (PARTS, NAMES.replace("{0, 0}", "{0, 2}"), "shifted by group"),
        (PARTS, NAMES.replace("{0, 2, -1}", "{-1, 2, 8}"), "not proven to split the channels"),
        (PARTS.replace("Shape(x)", "Abs(t)"), f"{NAMES}, int64[4] t = {{-1, 4, 1, 8}}", "not known to have the same shape"),
        (f"{PARTS} y2 = Neg(k)", NAMES, "used elsewhere"),
    ],
)  # fmt: skip
def test_what_is_kept_has_a_reason(keeps, body, names, reason):
    y = "float[?, ?, ?, ?] y, float[?, ?, ?] y2" if "y2" in body else "float[?, ?, ?, ?] y"
    keeps(FuseGroupNorm(), model(f"{body} y = Relu(n)", names, y=y), context=LIKES, reason=reason, runs=False)


def test_the_rule_holds_on_random_shapes():
    def shape(rng, size):
        return np.array([0, 2, -1])

    fuzz(
        RULES.rules[0],
        shapes={"x": "3 4 5 2", "s": "2", "b": "2", "to": "3", "back": "4"},
        types={"to": ir.DataType.INT64, "back": ir.DataType.INT64},
        values={
            "s": lambda rng, size: np.ones(size),
            "b": lambda rng, size: np.zeros(size),
            "to": shape,
            "back": lambda rng, size: np.array([3, 4, 5, 2]),
        },
        constants=["to", "back"],
        attributes={"e": 1e-3},
    )
