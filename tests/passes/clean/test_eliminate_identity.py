from __future__ import annotations

import onnx_ir as ir

from graphopt.ir import count_nodes
from graphopt.passes.clean.eliminate_identity import EliminateIdentity


def test_a_chain_of_identities_vanishes(rewrites):
    rewrites(
        EliminateIdentity(),
        "g (float[N, 3] x) => (float[N, 3] y) { a = Identity(x) b = Identity(a) c = Relu(b) y = Identity(c) }",
        "g (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }",
    )


def test_an_output_keeps_its_name():
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17]> g (float[3] x) => (float[3] y) { a = Relu(x) y = Identity(a) }'
    )
    for site in EliminateIdentity().apply(model, None):  # type: ignore[arg-type]
        site.edit()
    assert model.graph.outputs[0].name == "y"
    assert model.graph.outputs[0].producer().op_type == "Relu"


def test_an_input_that_is_an_output_keeps_its_identity(keeps):
    keeps(EliminateIdentity(), "g (float[3] x) => (float[3] y) { y = Identity(x) }", reason="names a graph output")


def test_two_outputs_of_one_value_stay_two(keeps):
    keeps(
        EliminateIdentity(),
        "g (float[3] x) => (float[3] c, float[3] s) { c = Relu(x) s = Identity(c) }",
        reason="names a graph output",
    )


def test_a_scan_body_keeps_one_name_for_each_output(keeps):
    keeps(
        EliminateIdentity(),
        """g (float[2] state, float[5, 2] x) => (float[2] last, float[5, 2] all) {
             last, all = Scan <num_scan_inputs = 1, body = b (float[2] i, float[2] e) => (float[2] c, float[2] s) {
               c = Add(i, e)
               s = Identity(c)
             }> (state, x)
           }""",
        reason="names a graph output",
    )


def test_an_if_branch_that_returns_an_outer_value_keeps_its_identity(keeps):
    keeps(
        EliminateIdentity(),
        """g (bool p, float[2] x) => (float[2] y) {
             a = Relu(x)
             y = If (p) <then_branch = t () => (float[2] u) { u = Identity(a) },
                         else_branch = e () => (float[2] v) { v = Neg(a) }>
           }""",
        reason="names a graph output",
    )


def test_inside_a_branch_it_vanishes(rewrites):
    rewrites(
        EliminateIdentity(),
        """g (bool p, float[2] x) => (float[2] y) {
             y = If (p) <then_branch = t () => (float[2] u) { a = Identity(x) u = Relu(a) },
                         else_branch = e () => (float[2] v) { v = Neg(x) }>
           }""",
        """g (bool p, float[2] x) => (float[2] y) {
             y = If (p) <then_branch = t () => (float[2] u) { u = Relu(x) },
                         else_branch = e () => (float[2] v) { v = Neg(x) }>
           }""",
    )


def test_inside_a_local_function_it_vanishes(rewrites):
    def text(body: str) -> str:
        return f"""<ir_version: 8, opset_import: ["": 17, "local": 1]>
            g (float[2] x) => (float[2] y) {{ y = local.f(x) }}
            <domain: "local", opset_import: ["": 17]> f (a) => (c) {{ {body} }}"""

    rewrites(EliminateIdentity(), text("b = Identity(a) c = Relu(b)"), text("c = Relu(a)"))


def test_a_value_used_only_inside_a_branch_survives():
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 17]> g (bool p, float[2] x) => (float[2] y) {
             a = Relu(x)
             b = Identity(a)
             y = If (p) <then_branch = t () => (float[2] u) { u = Neg(b) },
                         else_branch = e () => (float[2] v) { v = Abs(b) }>
           }"""
    )
    for site in EliminateIdentity().apply(model, None):  # type: ignore[arg-type]
        site.edit()
    assert [node.op_type for node in model.graph if node.outputs[0].uses()] == ["Relu"]
    assert count_nodes(model) == 5  # the Identity itself is left to the sweep
