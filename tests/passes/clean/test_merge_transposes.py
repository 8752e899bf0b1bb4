from __future__ import annotations

import time

import onnx_ir as ir
import pytest

from graphopt.ir import count_nodes
from graphopt.passes.clean.merge_transposes import MergeTransposes
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        ("<perm = [1, 2, 0]>", "<perm = [1, 0, 2]>", "<perm = [2, 1, 0]>"),
        ("", "<perm = [1, 0, 2]>", "<perm = [1, 2, 0]>"),
        ("<perm = [1, 2, 0]>", "", "<perm = [0, 2, 1]>"),
    ],
)
def test_two_become_one(rewrites, first, second, merged):
    rewrites(
        MergeTransposes(),
        f"g (float[2, 3, 4] x) => (y) {{ a = Transpose{first}(x) b = Transpose{second}(a) y = Relu(b) }}",
        f"g (float[2, 3, 4] x) => (y) {{ b = Transpose{merged}(x) y = Relu(b) }}",
    )


@pytest.mark.parametrize(
    ("first", "second"), [("<perm = [1, 2, 0]>", "<perm = [2, 0, 1]>"), ("", ""), ("", "<perm = [2, 1, 0]>")]
)
def test_two_cancel(rewrites, first, second):
    rewrites(
        MergeTransposes(),
        f"g (float[2, 3, 4] x) => (y) {{ r = Relu(x) a = Transpose{first}(r) b = Transpose{second}(a) y = Neg(b) }}",
        "g (float[2, 3, 4] x) => (y) { r = Relu(x) y = Neg(r) }",
    )


def test_a_chain_shrinks_to_one(rewrites):
    rewrites(
        MergeTransposes(),
        """g (float[2, 3, 4] x) => (y) {
             a = Transpose<perm = [1, 0, 2]>(x) b = Transpose<perm = [0, 2, 1]>(a) c = Transpose<perm = [0, 2, 1]>(b)
             d = Transpose<perm = [2, 0, 1]>(c) y = Relu(d) }""",
        "g (float[2, 3, 4] x) => (y) { d = Transpose<perm = [2, 1, 0]>(x) y = Relu(d) }",
    )


def test_the_first_stays_while_it_is_used(rewrites):
    rewrites(
        MergeTransposes(),
        """g (float[2, 3, 4] x) => (y, z) {
             a = Transpose<perm = [1, 2, 0]>(x) z = Exp(a) b = Transpose<perm = [1, 0, 2]>(a) y = Relu(b) }""",
        """g (float[2, 3, 4] x) => (y, z) {
             a = Transpose<perm = [1, 2, 0]>(x) z = Exp(a) b = Transpose<perm = [2, 1, 0]>(x) y = Relu(b) }""",
    )


def test_public_outputs_keep_their_names(rewrites):
    rewrites(
        MergeTransposes(),
        """g (float[2, 3] x) => (y, z, w) {
             r = Relu(x) a = Transpose(r) y = Transpose(a) z = Transpose(a) b = Transpose(x) w = Transpose(b) }""",
        "g (float[2, 3] x) => (y, z, w) { y = Relu(x) z = Identity(y) w = Identity(x) }",
    )


def test_in_a_branch_a_loop_and_a_function(rewrites):
    rewrites(
        MergeTransposes(),
        """<ir_version: 8, opset_import: ["": 17, "local": 1]>
           g (float[2, 3] x, bool k) => (float[2, 3] y) <int64 m = {2}, bool c = {1}> {
             a = Transpose(x)
             b = If (k) <
               then_branch = t () => (float[2, 3] p) { q = Transpose(a) p = Neg(q) },
               else_branch = e () => (float[2, 3] r) { r = local.f(x) }>
             y = Loop (m, c, b) <body = b (int64 i, bool go, float[2, 3] v) => (bool stay, float[2, 3] w) {
               stay = Identity(go) s = Transpose(v) t = Transpose(s) w = Abs(t) }>
           }
           <domain: "local", opset_import: ["": 17]>
           f (a) => (b) { s = Transpose(a) t = Transpose(s) b = Exp(t) }""",
        """<ir_version: 8, opset_import: ["": 17, "local": 1]>
           g (float[2, 3] x, bool k) => (float[2, 3] y) <int64 m = {2}, bool c = {1}> {
             b = If (k) <
               then_branch = t () => (float[2, 3] p) { p = Neg(x) },
               else_branch = e () => (float[2, 3] r) { r = local.f(x) }>
             y = Loop (m, c, b) <body = b (int64 i, bool go, float[2, 3] v) => (bool stay, float[2, 3] w) {
               stay = Identity(go) w = Abs(v) }>
           }
           <domain: "local", opset_import: ["": 17]>
           f (a) => (b) { b = Exp(a) }""",
    )


def test_a_parameter_of_a_function_is_kept(keeps):
    keeps(
        MergeTransposes(),
        """<ir_version: 9, opset_import: ["": 17, "local": 1]>
           g (float[2, 3] x) => (float[2, 3] y) { y = local.f<p = [1, 0]>(x) }
           <domain: "local", opset_import: ["": 17]>
           f <p> (a) => (b) { s = Transpose<perm: ints = @p>(a) b = Transpose<perm = [1, 0]>(s) }""",
        reason="a parameter of the function",
    )


def test_a_chain_of_20_000_takes_seconds():
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2, 3, 4]))
    nodes = [ir.node("Transpose", [x], {"perm": [1, 2, 0]})]
    for _ in range(20_000):
        nodes.append(ir.node("Transpose", nodes[-1].outputs, {"perm": [1, 2, 0]}))
    nodes[-1].outputs[0].name = "y"
    model = ir.Model(ir.Graph([x], nodes[-1].outputs, nodes=nodes, opset_imports={"": 17}, name="chain"), ir_version=8)
    start = time.process_time()
    drive(MergeTransposes(), model, Context())
    assert count_nodes(model) == 1
    assert time.process_time() - start < 10  # 1 s here
