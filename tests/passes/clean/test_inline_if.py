from __future__ import annotations

import onnx
import onnx.parser
import onnx_ir as ir

from graphopt.ir import check, count_nodes, load, save
from graphopt.passes.clean.inline_if import InlineIf
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive


def test_the_taken_branch_stands_where_the_if_stood(rewrites):
    rewrites(
        InlineIf(),
        """g (float[3] x) => (float[3] y) <bool c = {1}> {
             a = Relu(x)
             b = If (c) <
               then_branch = t () => (float[3] p) { q = Neg(a) p = Exp(q) },
               else_branch = e () => (float[3] r) { r = Abs(a) }>
             y = Neg(b)
           }""",
        "g (float[3] x) => (float[3] y) { a = Relu(x) q = Neg(a) p = Exp(q) y = Neg(p) }",
    )


def test_a_false_condition_takes_the_else_branch(rewrites):
    rewrites(
        InlineIf(),
        """g (float[3] x) => (float[3] y) {
             c = Constant<value = bool {0}>()
             y = If (c) <
               then_branch = t () => (float[3] p) { p = Neg(x) },
               else_branch = e () => (float[3] r) { r = Abs(x) }>
           }""",
        "g (float[3] x) => (float[3] y) { y = Abs(x) }",
    )


def test_initialisers_of_the_branch_move_up_and_equal_names_do_not_collide(rewrites):
    rewrites(
        InlineIf(),
        """g (float[2] x) => (float[2] y) <bool c = {1}, float[2] w = {1, 2}> {
             a = Add(x, w)
             b = If (c) <
               then_branch = t () => (float[2] p) <float[2] w1 = {3, 4}> { h = Mul(a, w1) p = Neg(h) },
               else_branch = e () => (float[2] r) { r = Abs(x) }>
             d = If (c) <
               then_branch = t () => (float[2] p) <float[2] w1 = {5, 6}> { h = Mul(b, w1) p = Neg(h) },
               else_branch = e () => (float[2] r) { r = Abs(x) }>
             y = Neg(d)
           }""",
        """g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] u = {3, 4}, float[2] v = {5, 6}> {
             a = Add(x, w) h = Mul(a, u) p = Neg(h) i = Mul(p, v) q = Neg(i) y = Neg(q)
           }""",
    )


def test_nested_ifs_go_in_one_application(rewrites):
    rewrites(
        InlineIf(),
        """g (float[3] x) => (float[3] y) <bool c = {1}, bool d = {0}> {
             y = If (c) <
               then_branch = t () => (float[3] p) {
                 a = Relu(x)
                 p = If (d) <
                   then_branch = tt () => (float[3] q) { q = Neg(a) },
                   else_branch = ee () => (float[3] r) { r = Exp(a) }>
               },
               else_branch = e () => (float[3] s) { s = Abs(x) }>
           }""",
        "g (float[3] x) => (float[3] y) { a = Relu(x) y = Exp(a) }",
    )


def test_an_if_inside_a_loop_body_and_in_a_branch_that_stays(rewrites):
    rewrites(
        InlineIf(),
        """g (float[3] x, bool k) => (float[3] y) <int64 m = {3}, bool c = {1}> {
             z = If (k) <
               then_branch = t () => (float[3] a) {
                 a = If (c) <
                   then_branch = tt () => (float[3] q) { q = Neg(x) },
                   else_branch = ee () => (float[3] r) { r = Exp(x) }>
               },
               else_branch = e () => (float[3] s) { s = Abs(x) }>
             y = Loop (m, c, z) <body = b (int64 i, bool go, float[3] v) => (bool stay, float[3] w) {
               stay = Identity(go)
               w = If (c) <
                 then_branch = tt () => (float[3] q) { q = Add(v, x) },
                 else_branch = ee () => (float[3] r) { r = Exp(v) }>
             }>
           }""",
        """g (float[3] x, bool k) => (float[3] y) <int64 m = {3}, bool c = {1}> {
             z = If (k) <
               then_branch = t () => (float[3] a) { a = Neg(x) },
               else_branch = e () => (float[3] s) { s = Abs(x) }>
             y = Loop (m, c, z) <body = b (int64 i, bool go, float[3] v) => (bool stay, float[3] w) {
               stay = Identity(go)
               w = Add(v, x)
             }>
           }""",
    )


def test_an_if_inside_a_local_function(rewrites):
    rewrites(
        InlineIf(),
        """<ir_version: 8, opset_import: ["": 17, "local": 1]>
           g (float[3] x) => (float[3] y) { y = local.f(x) }
           <domain: "local", opset_import: ["": 17]>
           f (a) => (b) {
             c = Constant<value = bool {1}>()
             b = If (c) <
               then_branch = t () => (p) { two = Constant<value = float {2}>() p = Mul(a, two) },
               else_branch = e () => (r) { r = Abs(a) }>
           }""",
        """<ir_version: 8, opset_import: ["": 17, "local": 1]>
           g (float[3] x) => (float[3] y) { y = local.f(x) }
           <domain: "local", opset_import: ["": 17]>
           f (a) => (b) { two = Constant<value = float {2}>() b = Mul(a, two) }""",
    )


def test_public_outputs_keep_values_of_their_own(rewrites):
    """A branch that returns one tensor twice, an input and an initialiser: [c, s] must not become [s, s]."""
    rewrites(
        InlineIf(),
        """g (float[2] x) => (float[2] y1, float[2] y2, float[2] y3, float[2] y4) <bool c = {1}, float[2] w = {1, 2}> {
             y1, y2, y3, y4 = If (c) <
               then_branch = t () => (float[2] p, float[2] q, float[2] r, float[2] s) {
                 p = Neg(x) q = Identity(p) r = Identity(x) s = Identity(w)
               },
               else_branch = e () => (float[2] p2, float[2] q2, float[2] r2, float[2] s2) {
                 p2 = Abs(x) q2 = Abs(x) r2 = Abs(x) s2 = Abs(x)
               }>
           }""",
        """g (float[2] x) => (float[2] y1, float[2] y2, float[2] y3, float[2] y4) <float[2] w = {1, 2}> {
             y1 = Neg(x) y2 = Identity(y1) y3 = Identity(x) y4 = Identity(w)
           }""",
    )


def test_a_branch_that_returns_outer_values_directly(rewrites):
    """ONNX forbids it on paper, and files do it: onnx_ir's own pass raises here."""
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 17]>
           g (float[2] x) => (float[2] y, float[2] z) <bool c = {1}> {
             a = Relu(x)
             y, z = If (c) <
               then_branch = t () => (float[2] p, float[2] q) { p = Neg(x) q = Neg(x) },
               else_branch = e () => (float[2] r, float[2] s) { r = Abs(x) s = Abs(x) }>
             u = Exp(a)
           }"""
    )
    relu, branching = model.graph[0], model.graph[1]
    branch = branching.attributes["then_branch"].as_graph()
    branch.outputs[1] = branch.outputs[0]
    relu_model = drive(InlineIf(), model, Context())
    assert relu_model.changed
    assert [node.op_type for node in model.graph] == ["Neg", "Identity"]
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    check(model)
    assert relu.graph is None


def test_an_unknown_condition_is_kept_with_the_reason(keeps):
    keeps(
        InlineIf(),
        """g (float[3] x, bool c) => (float[3] y) {
             y = If (c) <
               then_branch = t () => (float[3] p) { p = Neg(x) },
               else_branch = e () => (float[3] r) { r = Abs(x) }>
           }""",
        reason="its condition is not known before the run",
    )


def test_the_default_of_an_input_is_no_condition_to_rely_on(keeps):
    keeps(
        InlineIf(),
        """g (float[3] x, bool c = {1}) => (float[3] y) {
             y = If (c) <
               then_branch = t () => (float[3] p) { p = Neg(x) },
               else_branch = e () => (float[3] r) { r = Abs(x) }>
           }""",
        reason="its condition is not known before the run",
    )


def test_a_model_of_ir_version_3_keeps_its_initialisers_among_the_inputs(tmp_path):
    text = """<ir_version: 3, opset_import: ["": 8]>
        g (float[2] x, bool c) => (float[2] y) <bool c = {1}> {
          y = If (c) <
            then_branch = t () => (float[2] p) <float[2] w = {1, 2}> { p = Add(x, w) },
            else_branch = e () => (float[2] r) { r = Abs(x) }>
        }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "old.onnx")
    model = load(tmp_path / "old.onnx")
    assert drive(InlineIf(), model, Context()).changed
    save(model, tmp_path / "new.onnx")
    proto = onnx.load(tmp_path / "new.onnx")
    assert [node.op_type for node in proto.graph.node] == ["Add"]
    assert {item.name for item in proto.graph.initializer} < {item.name for item in proto.graph.input}


def test_deeply_nested_ifs_are_inlined_in_one_go():
    depth = 20
    inner = "p0 = Neg(x)"
    for level in range(1, depth):
        inner = f"""p{level} = If (c) <
            then_branch = t{level} () => (float[3] p{level - 1}) {{ {inner} }},
            else_branch = e{level} () => (float[3] r{level}) {{ r{level} = Abs(x) }}>"""
    head = f'<ir_version: 8, opset_import: ["": 17]> g (float[3] x) => (float[3] p{depth - 1}) <bool c = {{1}}>'
    model = ir.from_onnx_text(f"{head} {{ {inner} }}")
    assert len(drive(InlineIf(), model, Context()).changed) == depth - 1
    assert count_nodes(model) == 1
    check(model)
