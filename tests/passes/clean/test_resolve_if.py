from __future__ import annotations

import onnx_ir as ir
import pytest

from graphopt.ir import count_nodes, nodes
from graphopt.passes.clean.resolve_if import ResolveIf
from graphopt.pipeline import PassManager, Recipe

SQUEEZE = """
    s = Shape(x)
    d = Gather(s, minus_one)
    p = Equal(d, one)
    q = If (p) <then_branch = t () => (u) { u = Squeeze(x, minus_one) }, else_branch = e () => (v) { v = Identity(x) }>
"""


def model(rest: str) -> ir.Model:
    """``x.squeeze(-1)`` as torch writes it, and what comes after."""
    return ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[2, 3, T] x) => (y)
            <int64[1] minus_one = {{-1}}, int64[1] one = {{1}}, int64[1] zero = {{0}}, float[3, 5] w = {{1, 2, 3, 4, 5, 6, 7,
             8, 9, 10, 11, 12, 13, 14, 15}}> {{ {SQUEEZE} {rest} }}"""
    )


def test_a_branch_whose_rank_a_gemm_excludes_is_dropped():
    source = model("y = Gemm(q, w)")
    result, outcomes = PassManager(Recipe.parse("clean")).run(source)
    assert not [node for node in nodes(result) if node.op_type == "If"]
    assert [node.op_type for node in result.graph] == ["Squeeze", "Gemm"]
    assert outcomes.verdict is not None and outcomes.verdict.ok


def test_the_consequences_are_followed_through_other_branches():
    """The rank decides a second If, and only that one's result reaches the Gemm."""
    source = model(
        """r = Shape(q)
           n = Size(r)
           two = Constant<value = int64 {2}>()
           k = Equal(n, two)
           z = If (k) <then_branch = a () => (g1) { g1 = Identity(q) }, else_branch = b () => (g2) { g2 = Unsqueeze(q, zero) }>
           y = Gemm(z, w)"""
    )
    result, _ = PassManager(Recipe.parse("clean")).run(source)
    assert [node.op_type for node in result.graph] == ["Squeeze", "Gemm"]


@pytest.mark.parametrize("rest", ["y = Relu(q)", "y = Flatten(q)"])
def test_an_operator_that_takes_any_rank_decides_nothing(rest):
    source = model(rest)
    result, outcomes = PassManager(Recipe((ResolveIf(),))).run(source)
    assert outcomes[0].kept == [("If 'q'", "both branches are possible")]
    assert count_nodes(result) == count_nodes(source)
