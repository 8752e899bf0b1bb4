"""settle-weights: weights behind nodes become constants, once each, wherever they stand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.calibrate import CalibrationData
from graphopt.passes.quantize.insert_qdq import InsertQdq
from graphopt.passes.quantize.settle_weights import SettleWeights
from graphopt.pipeline import Context, PassManager, Recipe
from graphopt.target import targets


def test_behind_identity_transpose_and_cast(rewrites):
    # the text has the bits of a float16: these are 1 to 6
    before = """g (float[n,2] x) => (float[n,3] y) <float16[3,2] w = {15360, 16384, 16896, 17408, 17664, 17920}>
    { i = Identity(w)  c = Cast <to=1> (i)  t = Transpose(c)  y = MatMul(x, t) }"""
    expected = """g (float[n,2] x) => (float[n,3] y) <float[2,3] w = {1, 3, 5, 2, 4, 6}> { y = MatMul(x, w) }"""
    rewrites(SettleWeights(), before, expected)


def test_one_constant_for_two_readers_and_the_node_stays_for_others(rewrites):
    before = """g (float[n,2] x) => (float[n,2] y, float[2,2] z) <float[2,2] w = {1, 2, 3, 4}>
    { t = Transpose(w)  a = MatMul(x, t)  y = MatMul(a, t)  z = Neg(t) }"""
    expected = """g (float[n,2] x) => (float[n,2] y, float[2,2] z) <float[2,2] w = {1, 2, 3, 4}, float[2,2] v = {1, 3, 2, 4}>
    { t = Transpose(w)  a = MatMul(x, v)  y = MatMul(a, v)  z = Neg(t) }"""
    rewrites(SettleWeights(), before, expected)


def test_inside_a_branch(rewrites):
    before = """g (bool c, float[n,2] x) => (float[n,2] y) <float[2,2] w = {1, 2, 3, 4}>
    { y = If (c) <then_branch = a () => (float[n,2] p) { t = Transpose(w)  p = MatMul(x, t) },
                  else_branch = e () => (float[n,2] q) { q = Neg(x) }> }"""
    expected = """g (bool c, float[n,2] x) => (float[n,2] y)
    { y = If (c) <then_branch = a () => (float[n,2] p) <float[2,2] v = {1, 3, 2, 4}> { p = MatMul(x, v) },
                  else_branch = e () => (float[n,2] q) { q = Neg(x) }> }"""
    rewrites(SettleWeights(), before, expected)


def test_what_changes_from_run_to_run_and_other_operands_are_no_sites(keeps):
    keeps(SettleWeights(), "g (float[2,2] x) => (float[2,2] y) { t = Transpose(x)  y = MatMul(x, t) }")
    text = "g (float[2,2] x) => (float[2,2] y) <float[2,2] w = {1, 2, 3, 4}> { t = Transpose(w)  y = Add(x, t) }"
    assert not keeps(SettleWeights(), text).kept


def test_insert_qdq_sees_them_then():
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[n,8] x) => (float[n,4] y)
    { i = Identity(w)  c = Cast <to=1> (i)  y = MatMul(x, c) }"""
    model = ir.from_onnx_text(text)
    rng = np.random.default_rng(0)
    value = model.graph[0].inputs[0]
    value.const_value = ir.tensor(rng.normal(size=(8, 4)).astype(np.float16), name="w")
    model.graph.initializers.add(value)
    samples = [{"x": rng.normal(size=(5, 8)).astype(np.float32)} for _ in range(3)]
    context = Context(target=targets()["x86-64"], data=CalibrationData.open(samples).for_model(model))
    _, without = PassManager(Recipe((InsertQdq(),)), verify="off").run(model, context)
    result, _ = PassManager(Recipe((SettleWeights(), InsertQdq())), verify="end", strict=True).run(model, context)
    assert not without[0].changed
    assert [node.op_type for node in result.graph].count("DequantizeLinear") == 2
    assert {tensor.const_value.dtype for tensor in result.graph.initializers.values()} >= {ir.DataType.INT8}
