from __future__ import annotations

import time

import onnx_ir as ir
import pytest

from graphopt.ir import count_nodes
from graphopt.passes.clean.merge_concats import MergeConcats
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive


def graph(body: str) -> str:
    return f"g (float[2, 3] x, float[2, 3] z) => (y) {{ {body} y = Relu(b) }}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a = Concat<axis = 1>(x, z) b = Concat<axis = 1>(z, a, x)", "b = Concat<axis = 1>(z, x, z, x)"),
        ("a = Concat<axis = -1>(x, z) b = Concat<axis = 1>(a, x)", "b = Concat<axis = 1>(x, z, x)"),
        (
            "a = Concat<axis = 0>(x, z) c = Concat<axis = 0>(a, x) d = Concat<axis = 0>(z) b = Concat<axis = 0>(c, d)",
            "b = Concat<axis = 0>(x, z, x, z)",
        ),
    ],
)
def test_a_tree_becomes_one(rewrites, before, after):
    rewrites(MergeConcats(), graph(before), graph(after))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("a = Concat<axis = 1>(x, z) c = Concat<axis = 1>(a, x) d = ReduceSum(a) b = Add(c, d)", "used elsewhere"),
        ("a = Concat<axis = 1>(x, z) b = Concat<axis = 1>(a, a)", "used elsewhere"),
        ("a = Concat<axis = 1>(x, z) c = Concat<axis = 1>(z, x) b = Concat<axis = 0>(a, c)", "joins another axis"),
    ],
)
def test_other_axes_and_shared_parts_are_kept(keeps, body, reason):
    keeps(MergeConcats(), graph(body), reason=reason)


def test_some_parts_merge_while_others_stay(rewrites):
    rewrites(
        MergeConcats(),
        graph(
            "a = Concat<axis = 1>(x, z) c = Concat<axis = 1>(z, x) d = Concat<axis = 1>(a, c) e = Exp(a)"
            " b = Concat<axis = 1>(d, e)"
        ),
        graph("a = Concat<axis = 1>(x, z) e = Exp(a) b = Concat<axis = 1>(a, z, x, e)"),
    )


def test_public_parts_are_kept(keeps):
    keeps(
        MergeConcats(),
        "g (float[2] x, float[2] z) => (y, a) { a = Concat<axis = 0>(x, z) y = Concat<axis = 0>(a, x) }",
        reason="used elsewhere",
    )


def test_a_part_from_outside_a_loop_is_kept(keeps):
    """Taking it in would join the parts anew in every trip."""
    keeps(
        MergeConcats(),
        """g (float[2] x, float[2] z) => (y) <int64 m = {2}, bool c = {1}> {
             a = Concat<axis = 0>(x, z)
             y = Loop (m, c) <body = b (int64 i, bool go) => (bool stay, float[6] w) {
               stay = Identity(go) w = Concat<axis = 0>(a, x) }> }""",
        reason="used elsewhere",
    )


def test_in_a_branch_and_a_function(rewrites):
    model = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[2] x, bool k) => (y) {{
          y = If (k) <
            then_branch = t () => (float[6] b) {{ {body} }},
            else_branch = e () => (float[6] r) {{ r = local.f(x) }}>
        }}
        <domain: "local", opset_import: ["": 17]>
        f (x) => (b) {{ {body} }}"""
    rewrites(
        MergeConcats(),
        model.format(body="a = Concat<axis = 0>(x, x) b = Concat<axis = 0>(x, a)"),
        model.format(body="b = Concat<axis = 0>(x, x, x)"),
    )


def test_a_chain_of_10_000_takes_seconds():
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2]))
    nodes = [ir.node("Concat", [x, x], {"axis": 0})]
    for _ in range(10_000):
        nodes.append(ir.node("Concat", [nodes[-1].outputs[0], x], {"axis": 0}))
    nodes[-1].outputs[0].name = "y"
    model = ir.Model(ir.Graph([x], nodes[-1].outputs, nodes=nodes, opset_imports={"": 17}, name="chain"), ir_version=8)
    start = time.process_time()
    drive(MergeConcats(), model, Context())
    assert count_nodes(model) == 1
    assert time.process_time() - start < 10  # 0.3 s here
