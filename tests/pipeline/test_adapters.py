"""Foreign transformations used as passes, and a user's own pass in ten lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
import pytest

import graphopt as go
from graphopt.ir import count_nodes


def model() -> ir.Model:
    return ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 17]> g (float[2, 3] x) => (float[2, 3] y) {
             a = Identity(x) b = Relu(a) c = Relu(b) y = Neg(c)
           }"""
    )


def test_a_users_own_pass():
    @dataclass(frozen=True)
    class DropSecondRelu(go.Pass):
        """Relu(Relu(x)) = Relu(x)."""

        name: ClassVar[str] = "drop-second-relu"
        fidelity: ClassVar[go.Fidelity] = go.Fidelity.EXACT

        def apply(self, model: ir.Model, context: go.Context) -> go.Sites:
            for node in model.graph:
                source = node.inputs[0].producer() if node.inputs else None
                if node.op_type == "Relu" and source is not None and source.op_type == "Relu":
                    yield go.Site(node.name, "removed", lambda n=node: n.outputs[0].replace_all_uses_with(n.inputs[0]))

    result, outcomes = go.PassManager(go.Recipe((DropSecondRelu(),))).run(model())
    assert count_nodes(result) == 3
    assert outcomes.verdict.verdict == "equal"


def test_a_graphsurgeon_function():
    pytest.importorskip("onnx_graphsurgeon")

    def drop_identities(graph):
        for node in [node for node in graph.nodes if node.op == "Identity"]:
            consumer = node.o()
            consumer.inputs[0] = node.inputs[0]
            node.outputs.clear()
        return graph.cleanup()

    result, (outcome,) = go.PassManager(go.Recipe((go.GraphSurgeonPass(drop_identities),))).run(model())
    assert count_nodes(result) == 3
    assert outcome.changed == [("model", "transformed by drop_identities")]


def test_a_graphsurgeon_function_that_breaks_the_model_is_left_out():
    pytest.importorskip("onnx_graphsurgeon")

    def wrong(graph):
        next(node for node in graph.nodes if node.op == "Neg").op = "Abs"

    result, (outcome,) = go.PassManager(go.Recipe((go.GraphSurgeonPass(wrong),))).run(model())
    assert outcome.left_out
    assert any(node.op_type == "Neg" for node in result.graph)


def test_an_onnx_ir_pass():
    from onnx_ir.passes.common import CommonSubexpressionEliminationPass

    twice = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { a = Relu(x) b = Relu(x) y = Add(a, b) }"""
    )
    result, (outcome,) = go.PassManager(go.Recipe((go.IrPass(CommonSubexpressionEliminationPass()),))).run(twice)
    assert count_nodes(result) == 2
    assert "CommonSubexpressionEliminationPass" in outcome.changed[0][1]


def test_an_onnxscript_rule():
    from onnxscript.rewriter import pattern

    rule = pattern.RewriteRule(lambda op, x: op.Relu(op.Relu(x)), lambda op, x: op.Relu(x), name="relu-twice")
    result, (outcome,) = go.PassManager(go.Recipe((go.RulePass(rule),))).run(model())
    assert count_nodes(result) == 3
    assert "relu-twice" in str(outcome.changed)
    again, (second,) = go.PassManager(go.Recipe((go.RulePass(rule),))).run(result)
    assert second.kept == [("model", "nothing to change")]
    assert count_nodes(again) == 3


def test_an_own_rewrite_rule():
    rule = go.Rewrite("Relu(Relu(x))", "Relu(x)")
    result, (outcome,) = go.PassManager(go.Recipe((go.RewritePass((rule,)),))).run(model())
    assert count_nodes(result) == 3
    assert len(outcome.changed) == 1
