"""Products outside the main graph are named, with the reason; codes narrower where the target's processor saturates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from graphopt.calibrate import CalibrationData
from graphopt.events import Site
from graphopt.integers import ORT_CPU
from graphopt.passes.quantize._inner import inner_products
from graphopt.passes.quantize._saturation import saturates
from graphopt.passes.quantize.insert_qdq import InsertQdq
from graphopt.pipeline import Context, PassManager
from graphopt.target import targets

BRANCHES = """<ir_version: 8, opset_import: ["": 17]> g (float[n,2] x, bool c) => (float[n,2] y)
<float[2,2] w = {1.0, 2.0, 3.0, 4.0}>
{ h = MatMul(x, w)
  y = If (c) <then_branch = t () => (float[n,2] p) { p = MatMul(h, w) },
              else_branch = e () => (float[n,2] q) { u = Transpose(h) v = MatMul(h, u) q = MatMul(v, h) }> }"""

FUNCTION = """<ir_version: 9, opset_import: ["": 17, "own": 1]> g (float[n,2] x) => (float[n,2] y)
<float[2,2] w = {1.0, 2.0, 3.0, 4.0}>
{ h = MatMul(x, w) y = own.layer(h) }
<domain: "own", opset_import: ["": 17]> layer (a) => (b)
{ k = Constant <value = float[2,2] {1.0, 2.0, 3.0, 4.0}> () r = Relu(a) b = MatMul(r, k) }"""


def named(text: str) -> list[Site]:
    return list(inner_products(ir.from_onnx_text(text), ORT_CPU))


def test_a_product_with_a_weight_in_a_branch_is_named_one_of_two_activations_is_not():
    (site,) = named(BRANCHES)
    assert site.where == "MatMul of 'p'" or "MatMul" in site.where
    assert site.text == "kept as it is: it lies in a subgraph, where nothing is measured"
    assert site.edit is None


def test_a_product_in_a_local_function_is_named():
    (site,) = named(FUNCTION)
    assert "a local function" in site.text


def test_the_pass_says_so_and_quantises_the_main_graph():
    for text in (BRANCHES, FUNCTION):
        model = ir.from_onnx_text(text)
        feeds = [{"x": np.array([[1, -2]], np.float32), "c": np.array(at > 2)} for at in range(4)]
        names = {str(value.name) for value in model.graph.inputs}
        data = CalibrationData.open([{key: sample[key] for key in names} for sample in feeds]).for_model(model)
        context = Context(target=targets()["x86-64"], data=data)
        result, (outcome, *_) = PassManager(InsertQdq(), strict=True).run(model, context)
        assert len(outcome.changed) == 1
        assert [reason for _, reason in outcome.kept if "nothing is measured" in reason]
        assert any(node.op_type == "QuantizeLinear" for node in result.graph)


def test_x86_without_vnni_saturates_and_nothing_else_does():
    x86 = targets()["x86-64"]
    assert not saturates(x86)  # of a processor that is not known nothing is said
    assert saturates(replace(x86, isa=frozenset({"avx2", "fma"})))
    assert saturates(replace(x86, isa=frozenset({"avx2", "avx512f"})))
    for vnni in ("avx512_vnni", "avx_vnni", "amx_int8"):
        assert not saturates(replace(x86, isa=frozenset({"avx2", vnni})))
    assert not saturates(replace(targets()["arm64"], isa=frozenset({"asimd"})))
