"""The generic fuzz test itself: it passes right rules of every kind, and catches wrong ones."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.errors import GraphoptError
from graphopt.rewrite import Rewrite, constant, floating, near, same_shape, that
from graphopt.rewrite.fuzz import Variant, fuzz

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)

GELU = Rewrite(
    "Mul(Mul(x, Add(Erf(Div(x, r)), one)), half)",
    "Gelu(x)",
    where=[near("r", 2**0.5), near("one", 1.0), near("half", 0.5)],
)


def test_gelu_is_right_in_every_type():
    result = fuzz(GELU, dtypes=FLOATS)
    assert result.unusable == 0
    assert result.fused[Variant.FUNCTION] > 0
    assert result.fused[Variant.EXPOSED] == 0


def test_numbers_in_the_pattern_are_right():
    fuzz(Rewrite("Mul(Mul(x, Add(Erf(Div(x, 1.4142135623730951)), 1)), 0.5)", "Gelu(x)"), dtypes=FLOATS)


def test_a_rule_with_new_weights_is_right():
    rule = Rewrite(
        "Mul(Conv{**a}(x, w), s)",
        "Conv{**a}(x, v)",
        where=[constant("w", "s"), that("s is not per channel", lambda m: m.array("s").ndim == 3, "s")],
        let={"v": lambda match: match.array("w") * match.array("s")[..., None]},
    )
    shapes = {"x": "n c h w", "w": "m c 1 1", "s": "m 1 1"}
    fuzz(rule, shapes=shapes, attributes={"a": {"strides": [1, 1]}})


def test_transposes_are_merged_right():
    rule = Rewrite(
        "Transpose{perm=p}(Transpose{perm=q}(x))",
        "Transpose{perm=r}(x)",
        let={"r": lambda match: [match.attr("q")[axis] for axis in match.attr("p")]},
    )
    permutation = {name: lambda rng: [int(axis) for axis in rng.permutation(3)] for name in "pq"}
    fuzz(
        rule,
        shapes={"x": "a b c"},
        attributes=permutation,
        dtypes=(ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.BOOL),
    )


def test_several_outputs_are_right():
    rule = Rewrite(
        "q = MatMul(x, a)\nk = MatMul(x, b)",
        "both = MatMul(x, Concat{axis=-1}(a, b))\nq, k = Split{axis=-1, num_outputs=2}(both)",
        where=[same_shape("a", "b"), floating("x")],
    )
    result = fuzz(rule, shapes={"x": "n k", "a": "k m", "b": "k m"}, largest=4)
    assert result.fused[Variant.STRAIGHT] > 0


def test_foreign_operators_are_right():
    fuzz(Rewrite("Mul(x, Sigmoid(Mul(x, 1.702)))", "com.microsoft::QuickGelu{alpha=1.702}(x)"), ulps=64)


def test_operators_that_may_be_missing_and_optional_operands_are_right():
    fuzz(Rewrite("Relu(Identity?(Clip(x, low?)))", "Clip(Relu(x), low?)"), shapes={"low": ""}, trials=24)


def test_lists_are_right():
    fuzz(Rewrite("Max(Max(xs...), y)", "Max(y, xs...)"), dtypes=(ir.DataType.FLOAT, ir.DataType.INT64))


def ones(rng, shape):
    return np.ones(shape)


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        (Rewrite("Sub(a, b)", "Neg(Add(b, a))"), {}, "differs by"),
        (Rewrite("Mul(a, b)", "Abs(a)", where=[near("b", 1.0)]), {}, "differs by"),
        (Rewrite("Mul(a, b)", "a", where=[constant("b")]), {"values": {"b": ones}}, "is float32"),
        (Rewrite("Gelu(Neg(x))", 'Gelu{approximate="tanh"}(Neg(x))'), {}, "differs by"),
        (
            Rewrite("Softmax{**_}(x)", "LogSoftmax(Exp(x))"),
            {"attributes": {"_": {"axis": 0}}, "shapes": {"x": "a b"}},
            "differs",
        ),
        (Rewrite("Equal(a, b)", "Less(a, b)"), {}, "differs"),
        (Rewrite("Log(x)", "Sqrt(Log(x))", where=[that("done", lambda m: m.root.name == "Log_0")]), {}, "NaN"),
        (
            Rewrite("Add(a, Neg(b))", "Sub(a, b)", where=[that("first", lambda m: m.root.inputs[0] is m["a"])]),
            {},
            "the order of operands matters",
        ),
        (Rewrite("Exp(x)", "Exp(Neg(Neg(x)))"), {}, "never end"),
        (Rewrite("Exp(x)", "Neg(x)", where=[that("no", lambda m: False)]), {}, "never fired"),
        (Rewrite("MatMul(Neg(x), y)", "MatMul(x, Neg(y))"), {"shapes": {"x": "2 3", "y": "2 3"}}, "could be run"),
        (Rewrite("Neg(Cast{to=FLOAT}(x))", "Neg(x)"), {"types": {"x": ir.DataType.INT32}}, "invalid model|is int32"),
        (Rewrite("Neg(Exp(x))", "Neg(Exp(x))", shared=True), {}, "never end"),
    ],
)
def test_a_wrong_rule_is_caught(rule, options, message):
    with pytest.raises((AssertionError, GraphoptError), match=message):
        fuzz(rule, **options)
