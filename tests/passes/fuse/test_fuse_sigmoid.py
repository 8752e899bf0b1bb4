"""fuse-sigmoid: each dialect in each element type, and what is kept."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_sigmoid import RULES, FuseSigmoid
from graphopt.pipeline import Context
from graphopt.rewrite.fuzz import fuzz
from graphopt.target import targets

NUMBERS = "float one = {1}, float minus = {-1}, float half = {0.5}, float[1] two = {2}"


def model(body: str, names: str = NUMBERS, opset: int = 17) -> str:
    names = f"<{names}>" if names else ""
    return f'<ir_version: 8, opset_import: ["": {opset}]> g (float[N, 4] x) => (float[?, ?] y) {names} {{ {body} }}'


DIALECTS = {
    "CNTK": "a = Neg(x) b = Exp(a) c = Add(one, b) y = Reciprocal(c)",
    "numpy": "a = Mul(x, minus) b = Exp(a) c = Add(b, one) y = Div(one, c)",
    "logistic": "b = Exp(x) c = Add(b, one) y = Div(b, c)",
    "recurrent cell": "a = Mul(half, x) b = Tanh(a) c = Mul(b, half) y = Add(half, c)",
    "recurrent cell, summed first": "a = Mul(x, half) b = Tanh(a) c = Add(b, one) y = Mul(half, c)",
    "divided": "a = Div(x, two) b = Tanh(a) c = Add(b, one) y = Div(c, two)",
}


@pytest.mark.parametrize("opset", [7, 13, 17])
@pytest.mark.parametrize("body", DIALECTS.values(), ids=DIALECTS)
def test_each_dialect_is_one_operator(rewrites, body, opset):
    rewrites(FuseSigmoid(), model(body, opset=opset), model("y = Sigmoid(x)", "", opset))


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.DOUBLE], ids=lambda dtype: dtype.name)
def test_other_element_types(rewrites, in_type, dtype):
    before, after = (in_type(model(body, names), dtype) for body, names in
                     ((DIALECTS["CNTK"], NUMBERS), ("y = Sigmoid(x)", "")))  # fmt: skip
    rewrites(FuseSigmoid(), before, after)


def test_a_swish(rewrites):
    body = "a = Neg(x) b = Exp(a) c = Add(b, one) y = Div(x, c)"
    rewrites(FuseSigmoid(), model(body), model("s = Sigmoid(x) y = Mul(x, s)", ""))


@pytest.mark.parametrize(
    "body",
    [
        "a = Neg(x) b = Exp(a) c = Add(two, b) y = Reciprocal(c)",
        "b = Exp(x) c = Add(one, b) y = Reciprocal(c)",
        "a = Mul(x, half) b = Tanh(a) c = Mul(b, half) y = Add(one, c)",
        "b = Tanh(x) c = Mul(b, half) y = Add(half, c)",
    ],
)
def test_others_are_no_candidates(keeps, body):
    keeps(FuseSigmoid(), model(body))


def test_bfloat16_is_kept(keeps, in_type):
    keeps(FuseSigmoid(), in_type(model(DIALECTS["CNTK"]), ir.DataType.BFLOAT16), reason="bfloat16", runs=False)


def test_a_result_that_is_used_elsewhere_is_kept(keeps):
    body = "a = Neg(x) b = Exp(a) c = Add(one, b) d = Reciprocal(c) y = Add(c, d)"
    keeps(FuseSigmoid(), model(body), reason="used elsewhere")


def test_a_target_without_the_operator_keeps_it(keeps):
    context = Context(target=dataclasses.replace(targets()["onnx"], lacks=frozenset({"Sigmoid"})))
    keeps(FuseSigmoid(), model(DIALECTS["CNTK"]), context=context, reason="has no Sigmoid")


@pytest.mark.parametrize("rule", RULES.rules, ids=lambda rule: rule.pattern)
def test_each_rule_holds_on_random_shapes(rule):
    fuzz(rule, dtypes=(ir.DataType.FLOAT, ir.DataType.DOUBLE), ulps=32)
