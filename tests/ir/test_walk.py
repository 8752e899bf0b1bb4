from __future__ import annotations

import onnx_ir as ir

from graphopt.ir import bodies, count_nodes, graphs, nodes, remove, replace, where

NESTED = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (bool p, float[2] x) => (float[2] y) {
      c = Constant<value = float {1}>()
      a = local.f(x)
      y = If (p) <
        then_branch = t () => (float[2] u) {
          u = If (p) <then_branch = t2 () => (float[2] u2) { u2 = Neg(a) }, else_branch = e2 () => (float[2] v2) { v2 = Add(a, c) }>
        },
        else_branch = e () => (float[2] v) { v = Abs(a) }>
    }
    <domain: "local", opset_import: ["": 15]> f (s) => (r) { r = Relu(s) }"""


def test_every_node_is_visited_a_node_before_those_inside_it():
    model = ir.from_onnx_text(NESTED)
    names = [node.op_type for node in nodes(model)]
    assert sorted(names) == sorted(["Constant", "f", "If", "If", "Neg", "Add", "Abs", "Relu"])
    assert names.index("If") < names.index("Neg")


def test_graphs_are_the_main_one_the_nested_ones_and_the_functions():
    assert sorted(str(graph.name) for graph in graphs(ir.from_onnx_text(NESTED)) if graph.name) == [
        "e",
        "e2",
        "g",
        "t",
        "t2",
    ]
    assert len(list(graphs(ir.from_onnx_text(NESTED)))) == 6


def test_a_function_has_opsets_of_its_own():
    main, function = bodies(ir.from_onnx_text(NESTED))
    assert (main.version(), function.version()) == (17, 15)
    assert main.version("local") == 1 and main.version("nowhere") == 0


def test_constants_do_not_count_as_nodes():
    assert count_nodes(ir.from_onnx_text(NESTED)) == 7


def test_nodes_may_be_removed_on_the_way():
    model = ir.from_onnx_text(NESTED)
    seen = []
    for node in nodes(model):
        seen.append(node.op_type)
        if node.op_type == "If" and node.graph is model.graph:
            replace(node.outputs[0], next(value for value in node.graph.inputs if value.name == "x"))
            remove(node)
    assert seen.count("If") == 1 and "Neg" not in seen


def test_places_are_named_by_operator_and_name():
    model = ir.from_onnx_text(NESTED)
    call = next(node for node in nodes(model) if node.op_type == "f")
    assert where(call) == "local::f 'a'"
    assert where(call.outputs[0]) == "tensor 'a'"
