"""to-qoperator: Before and Expected for each operator, a whole network, and what stays between its pairs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibrate import CalibrationData
from graphopt.execute.session import Session
from graphopt.ir import nodes
from graphopt.passes.quantize.insert_qdq import InsertQdq
from graphopt.passes.quantize.to_qoperator import ToQoperator
from graphopt.pipeline import Context, PassManager, Recipe
from graphopt.target import targets

X86 = Context(target=targets()["x86-64"])
HEADER = '<ir_version: 8, opset_import: ["": 17]>\n'
MICROSOFT = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>\n'

CONV = """g (float[1,1,3] x) => (float[1,2,3] y)
<int8[2,1,1] w = {10, -20}, float[2] sw = {0.5, 0.25}, int8[2] zw = {0, 0}, float s = {0.5}, uint8 z = {7},
 int32[2] b = {5, -16}, float[2] sb = {0.25, 0.125}, float t = {0.75}, uint8 u = {100}>"""
CONV_BEFORE = (
    CONV
    + """{ q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  e = DequantizeLinear <axis=0> (w, sw, zw)
  f = DequantizeLinear <axis=0> (b, sb)  c = Conv(d, e, f)  p = QuantizeLinear(c, t, u)  y = DequantizeLinear(p, t, u) }"""
)
CONV_AFTER = (
    CONV
    + """{ q = QuantizeLinear(x, s, z)  p = QLinearConv(q, s, z, w, sw, zw, t, u, b)
  y = DequantizeLinear(p, t, u) }"""
)

PAIR = """g (float[2,4] x) => (float[2,%s] y)
<float s = {0.5}, uint8 z = {7}, float t = {0.75}, uint8 u = {100}, int8[4,2] w = {1,-2,3,-4,5,6,-7,8}, float v = {0.125}, int8 k = {0}>"""


def decibels(before: ir.Model, after: ir.Model) -> float:
    shape = before.graph.inputs[0].shape
    assert shape is not None
    signal = noise = 0.0
    rng = np.random.default_rng(0)
    left, right = Session(before, optimized=False), Session(after, optimized=False)
    for _ in range(5):
        x = rng.normal(size=[dim if isinstance(dim, int) else 2 for dim in shape]).astype(np.float32) * 5
        (truth,), (found,) = left.run({"x": x}).values(), right.run({"x": x}).values()
        signal, noise = signal + float(np.sum(truth**2)), noise + float(np.sum((truth - found) ** 2))
    return 10 * np.log10(signal / max(noise, 1e-30))


def test_a_convolution_with_a_bias(rewrites):
    rewrites(ToQoperator(), CONV_BEFORE, CONV_AFTER, runs=False)
    models = [ir.from_onnx_text(HEADER + text) for text in (CONV_BEFORE, CONV_AFTER)]
    assert decibels(*models) > 40


@pytest.mark.parametrize(
    ("width", "float_form", "integer_form"),
    [
        (2, "e = DequantizeLinear(w, v, k)  c = MatMul(d, e)", "p = QLinearMatMul(q, s, z, w, v, k, t, u)"),
        (4, "c = Add(d, d)", "p = com.microsoft.QLinearAdd(q, s, z, q, s, z, t, u)"),
        (4, "c = Mul(d, d)", "p = com.microsoft.QLinearMul(q, s, z, q, s, z, t, u)"),
        (4, "c = Sigmoid(d)", "p = com.microsoft.QLinearSigmoid(q, s, z, t, u)"),
        (4, "c = LeakyRelu <alpha=0.2> (d)", "p = com.microsoft.QLinearLeakyRelu <alpha=0.2> (q, s, z, t, u)"),
        (8, "c = Concat <axis=1> (d, d)", "p = com.microsoft.QLinearConcat <axis=1> (t, u, q, s, z, q, s, z)"),
        (
            2,
            "e = DequantizeLinear(w, v, k)  c = Gemm <alpha=0.5> (d, e)",
            "p = com.microsoft.QGemm <alpha=0.5> (q, s, z, w, v, k, , t, u)",
        ),
    ],
)
def test_each_operator(rewrites, width, float_form, integer_form):
    head = PAIR % width + "{ q = QuantizeLinear(x, s, z)  "
    before = f"{head} d = DequantizeLinear(q, s, z)  {float_form}  p = QuantizeLinear(c, t, u)  y = DequantizeLinear(p, t, u) }}"
    after = f"{head} {integer_form}  y = DequantizeLinear(p, t, u) }}"
    rewrites(ToQoperator(), HEADER + before, MICROSOFT + after, context=X86, runs=False)
    least = 20 if "Sigmoid" in float_form else 35
    assert decibels(ir.from_onnx_text(HEADER + before), ir.from_onnx_text(MICROSOFT + after)) > least


def test_what_moves_numbers_moves_codes(rewrites):
    head = PAIR % 4 + "{ q = QuantizeLinear(x, s, z)  "
    before = (
        head
        + "d = DequantizeLinear(q, s, z)  c = Transpose <perm=[1,0]> (d)  p = QuantizeLinear(c, s, z)  r = DequantizeLinear(p, s, z)  y = Transpose <perm=[1,0]> (r) }"
    )
    after = head + "p = Transpose <perm=[1,0]> (q)  r = DequantizeLinear(p, s, z)  y = Transpose <perm=[1,0]> (r) }"
    rewrites(ToQoperator(), before, after, runs=False)


def test_a_whole_network_becomes_integer():
    text = (
        HEADER
        + """g (float[n,3,8,8] x) => (float[n,5] y)
    { a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w1, b1)  r = Relu(a)
      c = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group=4> (r, w2, b2)  s = Add(c, r)
      m = GlobalAveragePool(s)  f = Flatten(m)  y = Gemm <transB=1> (f, w3, b3) }"""
    )
    model = ir.from_onnx_text(text)
    rng = np.random.default_rng(0)
    shapes = {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (4, 1, 3, 3), "b2": (4,), "w3": (5, 4), "b3": (5,)}
    used = {value.name: value for node in model.graph for value in node.inputs if value is not None}
    for name, shape in shapes.items():
        used[name].const_value = ir.tensor(rng.normal(size=shape).astype(np.float32), name=name)
        model.graph.initializers.add(used[name])
    samples = [{"x": rng.normal(size=(2, 3, 8, 8)).astype(np.float32)} for _ in range(4)]
    context = replace(X86, data=CalibrationData.open(samples).for_model(model))
    pairs, _ = PassManager(Recipe((InsertQdq(),)), verify="off").run(model, context)
    result, _ = PassManager(Recipe((ToQoperator(),)), verify="end", strict=True).run(pairs, context)
    found = Counter(node.op_type for node in nodes(result))
    # the last product gives floats, so that it stays between its pairs
    assert (found["QLinearConv"], found["QLinearAdd"], found["QLinearGlobalAveragePool"], found["Flatten"]) == (
        2,
        1,
        1,
        1,
    )
    assert (found["Conv"], found["Add"], found["QuantizeLinear"], found["Gemm"]) == (0, 0, 1, 1)
    assert decibels(pairs, result) > 30


def test_the_standard_target_gets_standard_operators_only(keeps):
    text = (
        PAIR % 4
        + """{ q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  c = Add(d, d)
    p = QuantizeLinear(c, t, u)  y = DequantizeLinear(p, t, u) }"""
    )
    keeps(ToQoperator(), text, reason="takes no operators of com.microsoft")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("p = QuantizeLinear(c, t, u)  y = DequantizeLinear(p, t, u)", "y = Neg(c)", "its result is not quantised"),
        ("f = DequantizeLinear <axis=0> (b, sb)", "f = Cast <to=1> (b)", "its bias is stored in floats"),
        ("float[2] sb = {0.25, 0.125}", "float[2] sb = {0.25, 0.25}", "another scale than s_x s_w"),
        ("e = DequantizeLinear <axis=0> (w, sw, zw)", "e = Cast <to=1> (w)", "does not come from codes"),
    ],
)
def test_what_stays_has_a_reason(keeps, old, new, reason):
    assert old in CONV_BEFORE
    keeps(ToQoperator(), CONV_BEFORE.replace(old, new), reason=reason)


def test_a_result_that_floats_are_needed_of_stays(keeps):
    text = CONV_BEFORE.replace("=> (float[1,2,3] y)", "=> (float[1,2,3] y, float[1,2,3] c)")
    keeps(ToQoperator(), text, reason="also used as floats")


def test_inside_a_branch(rewrites):
    inner = CONV_BEFORE[CONV_BEFORE.index("{ q") + 1 : CONV_BEFORE.rindex("}")]
    outer = CONV.replace("(float[1,1,3] x)", "(bool o, float[1,1,3] x)")
    swap = " else_branch = eb () => (float[1,2,3] yy) { cc = Concat <axis=1> (x, x)  yy = Neg(cc) }"
    before = f"{outer} {{ y = If (o) <then_branch = tb () => (float[1,2,3] y1) {{ {inner.replace('y =', 'y1 =')} }},{swap}> }}"
    after_inner = CONV_AFTER[CONV_AFTER.index("{ q") + 1 : CONV_AFTER.rindex("}")].replace("y =", "y1 =")
    after = f"{outer} {{ y = If (o) <then_branch = tb () => (float[1,2,3] y1) {{ {after_inner} }},{swap}> }}"
    rewrites(ToQoperator(), before, after, runs=False)
