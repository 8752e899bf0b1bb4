from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.execute.session import Session
from graphopt.ir import infer
from graphopt.passes.fuse.topk_to_argmax import RULES, TopkToArgmax
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive
from graphopt.rewrite.fuzz import fuzz
from graphopt.target import targets


def _text(body: str, opset: int = 17) -> str:
    return f"""<ir_version: 8, opset_import: ["": {opset}]> g (float[N, 4, 5] x) => (int64[A, B, C] y)
        <int64[1] one = {{1}}, int64[1] two = {{2}}> {{ {body} }}"""


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("", "y = ArgMax <axis = 2, keepdims = 1> (x)"),
        ("<axis = 1>", "y = ArgMax <axis = 1, keepdims = 1> (x)"),
        ("<axis = -3, sorted = 0>", "y = ArgMax <axis = 0, keepdims = 1> (x)"),
        ("<axis = 1, largest = 0>", "y = ArgMin <axis = 1, keepdims = 1> (x)"),
    ],
)
def test_the_index_of_the_first_is_the_argument_of_the_maximum(rewrites, attributes, expected):
    rewrites(TopkToArgmax(), _text(f"v, y = TopK {attributes} (x, one)"), _text(expected))


@pytest.mark.parametrize("opset", [10, 11])
def test_in_older_opsets(rewrites, opset):
    expected = _text("y = ArgMax <axis = 2, keepdims = 1> (x)", opset)
    rewrites(TopkToArgmax(), _text("v, y = TopK <axis = -1> (x, one)", opset), expected)


def test_in_the_oldest_opset_the_number_is_an_attribute(rewrites):
    expected = _text("y = ArgMax <axis = 2, keepdims = 1> (x)", 9)
    rewrites(TopkToArgmax(), _text("v, y = TopK <axis = -1, k = 1> (x)", 9), expected)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("v, y = TopK(x, two)", "the first 2 elements"),
        ("v, i = TopK(x, one) c = Cast <to = 7> (v) y = Add(i, c)", "used elsewhere"),
    ],
)
def test_what_is_kept_has_a_reason(keeps, body, reason):
    keeps(TopkToArgmax(), _text(body), reason=reason)


def test_a_number_that_is_fed_is_kept(keeps):
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[3, 4] x, int64[1] k) => (int64[3, K] y) {
        v, y = TopK(x, k) }"""
    keeps(TopkToArgmax(), text, reason="not known before the run", runs=False)


def test_a_value_that_is_an_output_is_kept(keeps):
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[3, 4] x) => (float[3, 1] v, int64[3, 1] y)
        <int64[1] k = {1}> { v, y = TopK(x, k) }"""
    keeps(TopkToArgmax(), text, reason="is an output")


def test_types_without_a_kernel_are_kept(keeps):
    text = """<ir_version: 8, opset_import: ["": 17]> g (int16[3, 4] x) => (int64[3, 1] y)
        <int64[1] k = {1}> { v, y = TopK(x, k) }"""
    keeps(TopkToArgmax(), text, reason="element type int16")


def test_a_target_without_argmax_keeps_it(keeps):
    context = Context(target=dataclasses.replace(targets()["onnx"], lacks=frozenset({"ArgMax"})))
    keeps(TopkToArgmax(), _text("v, y = TopK(x, one)"), reason="has no ArgMax", context=context)


def test_inside_a_branch(rewrites):
    def text(body: str) -> str:
        return f"""<ir_version: 8, opset_import: ["": 17]> g (bool p, float[2, 3] x) => (int64[2, 1] y)
            <int64[1] one = {{1}}> {{
            y = If (p) <then_branch = t () => (int64[2, 1] u) {{ {body} }},
                        else_branch = e () => (int64[2, 1] w) {{ w = ArgMin <axis = 1> (x) }}> }}"""

    rewrites(TopkToArgmax(), text("v, u = TopK(x, one)"), text("u = ArgMax <axis = 1, keepdims = 1> (x)"))


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("dtype", ["float", "float16", "double", "int32", "int64", "int8", "uint8"])
def test_ties_nan_and_infinity_give_the_same_index(dtype, largest):
    text = f"""<ir_version: 8, opset_import: ["": 17]> g ({dtype}[N, M] x) => (int64[N, 1] y) <int64[1] k = {{1}}> {{
        v, y = TopK <largest = {largest}> (x, k) }}"""
    before = ir.from_onnx_text(text)
    after = before.clone()
    infer(after)
    assert drive(TopkToArgmax(), after, Context()).changed
    sessions = [Session(model, optimized=False) for model in (before, after)]
    rng = np.random.default_rng(0)
    kind = before.graph.inputs[0].dtype
    for size in (1, 2, 7, 16, 33, 300):
        x = rng.integers(0, 4, size=(100, size)).astype(kind.numpy())
        if kind.is_floating_point():
            strange = rng.random(x.shape)
            x[strange < 0.1], x[strange > 0.9] = np.nan, np.inf
        wanted, found = (session.run({"x": x})["y"] for session in sessions)
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize(("largest", "operator"), [(1, "ReduceMax"), (0, "ReduceMin")])
@pytest.mark.parametrize("opset", [11, 17, 21])
def test_the_value_of_the_first_is_the_maximum_of_integers(rewrites, dtype, largest, operator, opset):
    def text(body: str, names: str) -> str:
        return f"""<ir_version: 8, opset_import: ["": {opset}]> g ({dtype}[N, 4, 5] x) => ({dtype}[A, B, C] y) {names} {{ {body} }}"""

    axes, names = (
        ("<axes = [1], keepdims = 1> (x)", "") if opset < 18 else ("<keepdims = 1> (x, a)", "<int64[1] a = {1}>")
    )
    before = text(f"y, i = TopK <axis = -2, largest = {largest}> (x, one)", "<int64[1] one = {1}>")
    rewrites(TopkToArgmax(), before, text(f"y = {operator} {axes}", names))


def test_the_value_of_floats_is_kept(keeps):
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[3, 4] x) => (float[3, 1] y) <int64[1] k = {1}> {
        y, i = TopK(x, k) }"""
    keeps(TopkToArgmax(), text, reason="element type float")


@pytest.mark.parametrize("number", [0, 1])
def test_the_rule_holds_on_random_shapes(number):
    fuzz(
        RULES.rules[number],
        dtypes=(ir.DataType.INT64,) if number else (ir.DataType.FLOAT,),
        shapes={"x": "n m", "k": "1"},
        types={"k": ir.DataType.INT64},
        values={"k": lambda rng, shape: np.ones(shape)},
        constants=("k",),
    )
