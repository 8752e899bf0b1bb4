"""fold-fake-quant: what training tools leave becomes stored codes, bit for bit but for the biases."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.execute.session import Session
from graphopt.passes.quantize.fold_fake_quant import FoldFakeQuant
from graphopt.pipeline import PassManager, Recipe

EXACT = FoldFakeQuant(biases=False)

# torch.ao FakeQuantize: the weight is rounded at each run
WEIGHT = """g (float[n,2] x) => (float[n,2] y) <float[2,2] w = {0.6, -3.2, 0.25, 9}, float s = {0.5}, int8 z = {0}>
{ q = QuantizeLinear(w, s, z)  d = DequantizeLinear(q, s, z)  y = MatMul(x, d) }"""
STORED = """g (float[n,2] x) => (float[n,2] y) <int8[2,2] w = {1, -6, 0, 18}, float s = {0.5}, int8 z = {0}>
{ d = DequantizeLinear(w, s, z)  y = MatMul(x, d) }"""


def same(before: ir.Model, after: ir.Model, shape: tuple[int, ...]) -> None:
    """Bit for bit on numbers at and between the codes."""
    x = (np.random.default_rng(0).integers(-40, 40, size=shape) / 8).astype(np.float32)
    left, right = Session(before, optimized=False).run({"x": x}), Session(after, optimized=False).run({"x": x})
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def test_a_weight_becomes_codes(rewrites):
    rewrites(EXACT, WEIGHT, STORED)


def test_a_weight_with_a_scale_for_each_channel_and_a_narrow_range(rewrites):
    before = """g (float[n,2] x) => (float[n,2] y)
    <float[2,2] w = {0.6, -300, 0.25, 9}, float[2] s = {0.5, 1}, int8[2] z = {0, 0}, int8 l = {-127}, int8 h = {127}>
    { q = QuantizeLinear <axis=1> (w, s, z)  c = Clip(q, l, h)  d = DequantizeLinear <axis=1> (c, s, z)  y = MatMul(x, d) }"""
    expected = """g (float[n,2] x) => (float[n,2] y)
    <int8[2,2] w = {1, -127, 0, 9}, float[2] s = {0.5, 1}, int8[2] z = {0, 0}>
    { d = DequantizeLinear <axis=1> (w, s, z)  y = MatMul(x, d) }"""
    rewrites(EXACT, before, expected)


def test_a_weight_behind_identity_and_transpose(rewrites):
    before = WEIGHT.replace("w = {0.6, -3.2, 0.25, 9}", "v = {0.6, 0.25, -3.2, 9}").replace(
        "{ q", "{ i = Identity(v)  w = Transpose <perm=[1,0]> (i)  q"
    )
    rewrites(EXACT, before, STORED)


def test_inside_a_branch(rewrites):
    before = """g (bool c, float[n] x) => (float[n] y) <float w = {1.2}, float s = {0.5}, int8 z = {0}>
    { y = If (c) <then_branch = a () => (float[n] p)
        { q = QuantizeLinear(w, s, z)  d = DequantizeLinear(q, s, z)  p = Mul(x, d) },
      else_branch = b () => (float[n] r) { r = Neg(x) }> }"""
    expected = """g (bool c, float[n] x) => (float[n] y) <float s = {0.5}, int8 z = {0}>
    { y = If (c) <then_branch = a () => (float[n] p)
        <int8 w = {2}> { d = DequantizeLinear(w, s, z)  p = Mul(x, d) },
      else_branch = b () => (float[n] r) { r = Neg(x) }> }"""
    rewrites(EXACT, before, expected)


ACTIVATION = """g (float[n,2] x) => (float[n,2] y) <float[2,2] w = {1, -2, 3, 4}, float s = {0.5}, %s z = {%s}, float l = {%s}, float h = {%s}>
{ m = MatMul(x, w)  q = QuantizeLinear(m, s, z)  d = DequantizeLinear(q, s, z)  y = %s }"""
BEHIND = """g (float[n,2] x) => (float[n,2] y) <float[2,2] w = {1, -2, 3, 4}, float s = {0.5}, %s z = {%s}, float l = {%s}, float h = {%s}>
{ m = MatMul(x, w)  r = %s  q = QuantizeLinear(r, s, z)  y = DequantizeLinear(q, s, z) }"""


@pytest.mark.parametrize(
    ("kind", "zero", "low", "high", "act"),
    [("uint8", 100, 0, 1, "Relu(%s)"), ("int8", -3, 0, 1, "Relu(%s)"), ("uint8", 100, 0, 6, "Clip(%s, l, h)")],
)
def test_codes_between_a_product_and_its_activation_move_behind_it(rewrites, kind, zero, low, high, act):
    ends = kind, zero, low, high
    before, after = ACTIVATION % (*ends, act % "d"), BEHIND % (*ends, act % "m")
    rewrites(EXACT, before, after)
    same(*(ir.from_onnx_text('<ir_version: 8, opset_import: ["": 17]>' + text) for text in (before, after)), (30, 2))


def test_an_end_between_two_codes_stays(keeps):
    keeps(EXACT, ACTIVATION % ("uint8", 100, 0, 6.3, "Clip(d, l, h)"), reason="between two codes")


def test_codes_that_something_else_reads_stay(keeps):
    text = """g (float[n,2] x) => (float[n,2] y, float[n,2] v) <float[2,2] w = {1, -2, 3, 4}, float s = {0.5}, int8 z = {0}>
    { m = MatMul(x, w)  q = QuantizeLinear(m, s, z)  d = DequantizeLinear(q, s, z)  y = Relu(d)  v = Neg(d) }"""
    keeps(EXACT, text, reason="also used elsewhere")


def test_codes_of_codes_with_the_same_scale_are_those_codes(rewrites):
    before = """g (float[n,2] x) => (float[n,2] y) <float s = {0.3}, uint8 z = {7}>
    { q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
      p = QuantizeLinear(d, s, z)  y = DequantizeLinear(p, s, z) }"""
    expected = """g (float[n,2] x) => (float[n,2] y) <float s = {0.3}, uint8 z = {7}>
    { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }"""
    rewrites(EXACT, before, expected)


BIAS = """g (float[1,1,3] x) => (float[1,2,3] y)
<int8[2,1,1] w = {10, -20}, float[2] sw = {0.5, 0.25}, int8[2] zw = {0, 0}, float s = {0.5}, uint8 z = {7}, float[2] b = %s>
{ q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  e = DequantizeLinear <axis=0> (w, sw, zw)  y = Conv(d, e, b) }"""


def test_a_bias_becomes_int32_in_the_scale_of_the_product():
    model = ir.from_onnx_text('<ir_version: 8, opset_import: ["": 17]>' + BIAS % "{1.3, -2.05}")
    result, outcomes = PassManager(Recipe((FoldFakeQuant(),)), verify="end", strict=True).run(model)
    assert outcomes.verdict is not None and outcomes.verdict.ok
    stored = result.graph.initializers["b_quantized"].const_value
    assert stored.dtype is ir.DataType.INT32 and stored.numpy().tolist() == [5, -16]
    assert result.graph.initializers["b_scale"].const_value.numpy().tolist() == [0.25, 0.125]
    _, again = PassManager(Recipe((FoldFakeQuant(),)), verify="off").run(result)
    assert not again[0].changed


def test_a_bias_that_32_bits_do_not_hold_stays(keeps):
    keeps(FoldFakeQuant(), BIAS % "{3e9, 1}", reason="32 bits do not hold")


def test_computed_scales_and_float8_stay(keeps):
    text = """g (float[n,2] x, float s) => (float[n,2] y) <float[2,2] w = {0.6, -3.2, 0.25, 9}, int8 z = {0}>
    { q = QuantizeLinear(w, s, z)  d = DequantizeLinear(q, s, z)  y = MatMul(x, d) }"""
    keeps(EXACT, text, reason="no float32 constant")
