from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.ir import nodes
from graphopt.passes.clean.lift_constants import LiftConstants
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive


def test_every_form_of_constant_becomes_an_initialiser():
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y, int64[2] z) {
             a = Constant<value = float[2] {1, 2}>()
             b = Constant<value_float = 3.0>()
             c = Constant<value_ints = [4, 5]>()
             d = Add(x, a)
             y = Mul(d, b)
             z = Abs(c)
           }"""
    )
    drive(LiftConstants(), model, Context())
    assert not [node for node in nodes(model) if node.op_type == "Constant"]
    values = [value.const_value.numpy().tolist() for value in model.graph.initializers.values()]
    assert values == [[1, 2], 3.0, [4, 5]]
    assert [value.dtype.name for value in model.graph.initializers.values()] == ["FLOAT", "FLOAT", "INT64"]


def test_a_constant_that_is_an_output_stays(keeps):
    keeps(LiftConstants(), "g () => (float[2] y) { y = Constant<value = float[2] {1, 2}>() }", reason="graph output")


def test_a_local_function_keeps_its_constants(keeps):
    keeps(
        LiftConstants(),
        """<ir_version: 8, opset_import: ["": 17, "local": 1]>
           g (float[2] x) => (float[2] y) { y = local.f(x) }
           <domain: "local", opset_import: ["": 17]> f (a) => (c) { b = Constant<value = float {2}>() c = Mul(a, b) }""",
        reason="local function",
    )


def test_a_branch_gets_initialisers_of_its_own(rewrites):
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 17]> g (bool p, float[2] x) => (float[2] y) {
             y = If (p) <then_branch = t () => (float[2] u) { c = Constant<value = float {2}>() u = Mul(x, c) },
                         else_branch = e () => (float[2] v) { c = Constant<value = float {3}>() v = Mul(x, c) }>
           }"""
    )
    copy = model.clone()
    drive(LiftConstants(), copy, Context())
    branches = [graph for graph in copy.graphs() if graph is not copy.graph]
    numbers = [
        np.asarray(value.const_value.numpy()).item() for graph in branches for value in graph.initializers.values()
    ]
    assert sorted(numbers) == [2.0, 3.0]
