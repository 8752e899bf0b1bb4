"""fuse-rms-norm: every dialect, scales behind it, half types, and what is kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_rms_norm import RULES, FuseRmsNorm
from graphopt.pipeline import Context
from graphopt.rewrite.fuzz import fuzz
from graphopt.target import targets

NUMBERS = "float two = {2}, float e = {0.001}, float o = {1}, float half = {0.5}, float neg = {-0.5}"
WEIGHTS = "float[4] w = {1, 2, -3, 0.5}"
HALF = "float16[4] w = {15360, 16384, 49664, 14336}"  # the bits of the same
MEAN = "p = Pow(x, two) q = ReduceMean(p, l) v = Add(q, e)"
NORM = f"{MEAN} r = Sqrt(v) i = Reciprocal(r) n = Mul(x, i)"
ATTRIBUTES = "<axis = -1, epsilon = 0.001>"


def model(
    body: str,
    names: str = "",
    *,
    x: str = "float[N, 3, 4] x",
    y: str = "float[?, ?, ?] y",
    opset: int = 23,
    axes: str = "int64[1] l = {-1}",
):
    names = f"<{names}{', ' + axes if NUMBERS in names else ''}>" if names else ""
    return f'<ir_version: 10, opset_import: ["": {opset}]> g ({x}) => ({y}) {names} {{ {body} }}'


def fused(scale: str = "{1, 1, 1, 1}", **options):
    return model(f"y = RMSNormalization {ATTRIBUTES} (x, s)", f"float[4] s = {scale}", **options)


DIALECTS = {
    "dynamo": f"{MEAN} r = Sqrt(v) i = Reciprocal(r) y = Mul(x, i)",
    "TorchScript": f"{MEAN} r = Sqrt(v) i = Div(o, r) y = Mul(x, i)",
    "a quotient": f"{MEAN} r = Sqrt(v) y = Div(x, r)",
    "a product for the square": "p = Mul(x, x) q = ReduceMean(p, l) v = Add(e, q) r = Sqrt(v) y = Div(x, r)",
    "a power of -0.5": f"{MEAN} i = Pow(v, neg) y = Mul(i, x)",
    "a power of 0.5": f"{MEAN} r = Pow(v, half) y = Div(x, r)",
}


@pytest.mark.parametrize("body", DIALECTS.values(), ids=DIALECTS)
def test_each_dialect_becomes_one_operator(rewrites, body):
    rewrites(FuseRmsNorm(), model(body, NUMBERS), fused())


@pytest.mark.parametrize(
    ("body", "scale"),
    [
        ("y = Mul(w, n)", "{1, 2, -3, 0.5}"),
        ("y = Mul(n, w)", "{1, 2, -3, 0.5}"),
        ("m = Mul(w, n) y = Mul(m, two)", "{2, 4, -6, 1}"),  # the last norm of T5 and the scale of its logits
        ("m = Mul(w, n) y = Div(m, two)", "{0.5, 1, -1.5, 0.25}"),
    ],
)
def test_scales_go_into_it(rewrites, body, scale):
    rewrites(FuseRmsNorm(), model(f"{NORM} {body}", f"{NUMBERS}, {WEIGHTS}"), fused(scale))


def test_two_axes(rewrites):
    body = f"{NORM} y = Identity(n)"
    after = "n = RMSNormalization <axis = -2, epsilon = 0.001> (x, s) y = Identity(n)"
    ones = "float[3, 4] s = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}"
    rewrites(FuseRmsNorm(), model(body, NUMBERS, axes="int64[2] l = {2, 1}"), model(after, ones))


def test_a_bias_stays_behind_it(rewrites):
    after = f"m = RMSNormalization {ATTRIBUTES} (x, w) y = Add(m, h)"
    names = f"{WEIGHTS}, float[4] h = {{1, 0, 1, 0}}"
    rewrites(FuseRmsNorm(), model(f"{NORM} m = Mul(n, w) y = Add(m, h)", f"{NUMBERS}, {names}"), model(after, names))


HALVES = {"x": "float16[N, 3, 4] a", "y": "float16[?, ?, ?] y"}


def test_casts_around_it_go(rewrites):
    """As Llama in float16 writes it."""
    before = model(f"x = Cast<to = 1>(a) {NORM} m = Cast<to = 10>(n) y = Mul(w, m)", f"{NUMBERS}, {HALF}", **HALVES)
    rewrites(FuseRmsNorm(), before, model(f"y = RMSNormalization {ATTRIBUTES} (a, w)", HALF, **HALVES))


def test_casts_around_what_is_scaled_in_float_stay(rewrites):
    """As Gemma writes it: the product is rounded once."""
    body = f"x = Cast<to = 1>(a) {NORM} m = Mul(n, w) y = Cast<to = 10>(m)"
    after = f"x = Cast<to = 1>(a) m = RMSNormalization {ATTRIBUTES} (x, w) y = Cast<to = 10>(m)"
    expected = model(after, WEIGHTS, **HALVES)
    rewrites(FuseRmsNorm(), model(body, f"{NUMBERS}, {WEIGHTS}", **HALVES), expected)
    assert any("applied in float" in text for _, text in rewrites(FuseRmsNorm(), expected, expected).kept)


def test_a_cast_to_another_type_stays(rewrites):
    types = {"x": "float16[N, 3, 4] a", "y": "bfloat16[?, ?, ?] y"}
    body = f"x = Cast<to = 1>(a) {NORM} y = Cast<to = 16>(n)"
    after = f"x = Cast<to = 1>(a) n = RMSNormalization {ATTRIBUTES} (x, s) y = Cast<to = 16>(n)"
    ones = "float[4] s = {1, 1, 1, 1}"
    rewrites(FuseRmsNorm(), model(body, NUMBERS, **types), model(after, ones, **types), runs=False)


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_half_types_are_computed_in_float_by_the_operator(rewrites, in_type, dtype):
    before = in_type(model(f"{NORM} y = Mul(n, w)", f"{NUMBERS}, {WEIGHTS}"), dtype)
    expected = in_type(fused("{1, 2, -3, 0.5}"), dtype)
    (norm,) = expected.graph
    norm.attributes["epsilon"] = ir.AttrFloat32("epsilon", float(np.asarray(0.001, dtype.numpy())))
    rewrites(FuseRmsNorm(), before, expected, runs=dtype == ir.DataType.FLOAT16)


def test_double_would_lose_bits(keeps, in_type):
    text = in_type(model(f"{NORM} y = Mul(n, w)", f"{NUMBERS}, {WEIGHTS}"), ir.DataType.DOUBLE)
    keeps(FuseRmsNorm(), text, reason="less exactly than double")


@pytest.mark.parametrize("opset", [18, 20, 22])
def test_below_opset_23_there_is_no_such_operator(keeps, opset):
    text = model(f"{NORM} y = Mul(n, w)", f"{NUMBERS}, {WEIGHTS}", opset=opset)
    keeps(FuseRmsNorm(), text, reason=f"needs opset 23, this graph has {opset}")


@pytest.mark.parametrize(
    ("body", "options", "reason"),
    [
        (f"{NORM} y = Identity(n)", {"x": "float[N, 3, K] x"}, "the size of what it normalises is not known"),
        (f"{NORM} y = Identity(n)", {"axes": "int64[1] l = {1}"}, "not the last ones"),
        (f"{NORM} y = Add(n, p)", {}, "is used elsewhere too"),
        (f"{NORM} y = Identity(n)", {"y": "float[?, ?, ?] y, float[?, ?, ?] r"}, "is an output of the graph"),
        (NORM.replace("Add(q, e)", "Add(q, neg)") + " y = Identity(n)", {}, "its epsilon is -0.5"),
        (f"s = Shape(x) l = Slice(s, o1, o2) {NORM} y = Identity(n)", {"axes": "int64[1] o1 = {0}, int64[1] o2 = {1}"},
         "the axes of a mean are not constant"),
    ],
)  # fmt: skip
def test_what_is_kept_has_a_reason(keeps, body, options, reason):
    keeps(FuseRmsNorm(), model(body, NUMBERS, **options), reason=reason, runs="Slice" not in body)


def test_a_square_of_something_else_is_no_candidate(keeps):
    body = "z = Neg(x) " + NORM.replace("Pow(x", "Pow(z") + " y = Identity(n)"
    assert not keeps(FuseRmsNorm(), model(body, NUMBERS)).kept


def test_the_target_may_lack_it(keeps):
    context = Context(target=dataclasses.replace(targets()["onnx"], lacks=frozenset({"RMSNormalization"})))
    keeps(FuseRmsNorm(), model(f"{NORM} y = Identity(n)", NUMBERS), context=context, reason="has no RMSNormalization")


def test_inside_a_loop(rewrites):
    def text(body: str, names: str) -> str:
        return f"""<ir_version: 10, opset_import: ["": 23]>
            g (int64 k, float[2, 4] x) => (float[?, ?] y) <{names}> {{
              c = Constant<value = bool {{1}}>()
              y = Loop (k, c, x) <body = b (int64 j, bool p, float[2, 4] z) => (bool q, float[2, 4] u) {{
                q = Identity(p) {body} }}> }}"""

    inner = "s = Constant<value = float[4] {1, 2, -3, 0.5}>() u = RMSNormalization <axis = -1, epsilon = 0.001> (z, s)"
    body = "a = Pow(z, two) d = ReduceMean(a, l) v = Add(d, e) r = Sqrt(v) n = Div(z, r) u = Mul(n, w)"
    before = text(body, f"{NUMBERS}, {WEIGHTS}, int64[1] l = {{-1}}")
    expected = ir.from_onnx_text(text(inner, "float o = {1}"))
    loop = list(expected.graph)[1].attributes["body"].as_graph()
    constant = next(node for node in loop if node.op_type == "Constant")
    tensor = constant.attributes["value"].as_tensor()
    scale = ir.Value(name="scale", type=ir.TensorType(tensor.dtype), shape=ir.Shape([4]), const_value=tensor)
    loop.initializers.add(scale)
    for user, index in tuple(constant.outputs[0].uses()):
        user.replace_input_with(index, scale)
    loop.remove(constant)
    expected.graph.initializers.clear()
    rewrites(FuseRmsNorm(), before, expected, runs=False)


@pytest.mark.parametrize("rule", [rule for rule in RULES.rules if "Cast" not in rule.pattern], ids=lambda r: r.pattern)
def test_each_rule_holds_on_random_shapes(rule):
    fuzz(
        rule,
        opset=23,
        trials=6,
        shapes={"x": "n s m", "eps": "", "b": "1"},
        types={"b": ir.DataType.INT64},
        values={"b": lambda rng, shape: np.full(shape, -1), "eps": lambda rng, shape: np.array(1e-3)},
        constants=["b"],
    )
