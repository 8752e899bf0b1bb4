from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from graphopt.flows.stats import stats


def model_of(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(text))


def test_nodes_are_counted_by_operator_most_frequent_first() -> None:
    model = model_of("""<ir_version: 8, opset_import: ["": 17]>
        g (float[N] x) => (float[N] y) { a = Relu(x) b = Abs(a) c = Relu(b) y = Add(c, a) }""")
    found = stats(model)
    assert found.operators == {"Relu": 2, "Abs": 1, "Add": 1}
    assert next(iter(found.operators)) == "Relu"
    assert (found.nodes, found.opset) == (4, 17)
    assert (found.initializers, found.parameters, found.bytes) == (0, 0, 0)


def test_a_constant_node_is_an_initialiser_not_a_node() -> None:
    as_node = model_of("""<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x) => (float[2] y) { c = Constant<value = float[2] {1, 2}>() y = Add(x, c) }""")
    as_initializer = model_of("""<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x) => (float[2] y) <float[2] c = {1, 2}> { y = Add(x, c) }""")
    assert stats(as_node) == stats(as_initializer)
    assert stats(as_node).nodes == 1
    assert (stats(as_node).initializers, stats(as_node).parameters, stats(as_node).bytes) == (1, 2, 8)


def test_constants_in_every_spelling_are_counted() -> None:
    model = model_of("""<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x) => (float[2] y) {
            a = Constant<value_float = 1.0>() b = Constant<value_floats = [1.0, 2.0]>()
            s = Constant<value_strings = ["p", "q"]>() t = Add(x, a) y = Add(t, b) }""")
    found = stats(model)
    assert found.nodes == 2
    assert found.initializers == 3
    assert found.parameters == 5


def test_subgraphs_at_any_depth_are_counted() -> None:
    model = model_of("""<ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[2] x) => (float[2] y) {
            y = If(c) <then_branch = t () => (float[2] a) {
                    a = If(c) <then_branch = u () => (float[2] d) { d = Neg(x) },
                               else_branch = v () => (float[2] e) <float[2] w = {1, 2}> { e = Add(x, w) }> },
                else_branch = f () => (float[2] b) { b = Neg(x) }> }""")
    found = stats(model)
    assert found.operators == {"If": 2, "Neg": 2, "Add": 1}
    assert (found.initializers, found.bytes) == (1, 8)


def test_a_local_function_is_counted_once_with_its_domain_kept_apart() -> None:
    model = model_of("""<ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[2] x) => (float[2] y) { a = mine.Twice(x) y = mine.Twice(a) }
        <domain: "mine", opset_import: ["": 17]> Twice (x) => (y) { y = Add(x, x) }""")
    assert stats(model).operators == {"mine::Twice": 2, "Add": 1}


def test_a_constant_that_only_a_call_decides_is_not_counted() -> None:
    model = model_of("""<ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[2] x) => (float[2] y) { y = mine.Plus<by = 1.0>(x) }
        <domain: "mine", opset_import: ["": 17]>
        Plus <by: float> (x) => (y) { c = Constant<value_float: float = @by>() y = Add(x, c) }""")
    assert stats(model).initializers == 0
    assert stats(model).operators == {"Add": 1, "mine::Plus": 1}


def test_packed_types_count_as_packed() -> None:
    weights = helper.make_tensor("w", TensorProto.INT4, [5], [1, 2, 3, 4, 5])
    graph = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["w", "s"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5])],
        [weights, helper.make_tensor("s", TensorProto.FLOAT, [], [1.0])],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
    found = stats(model)
    assert (found.parameters, found.bytes) == (6, 3 + 4)


def test_no_weight_is_read() -> None:
    class Unreadable(ir.LazyTensor):
        pass

    def fail() -> ir.TensorProtocol:
        raise AssertionError("the weights were read")

    lazy = Unreadable(fail, dtype=ir.DataType.FLOAT, shape=ir.Shape([1000, 1000]))
    value = ir.Value(name="w", const_value=lazy)
    graph = ir.Graph([], [value], nodes=[], initializers=[value], opset_imports={"": 17})
    found = stats(ir.Model(graph, ir_version=8))
    assert (found.parameters, found.bytes) == (1_000_000, 4_000_000)


def test_a_model_without_the_standard_operators_has_no_opset() -> None:
    node = ir.node("Do", [], domain="mine")
    graph = ir.Graph([], list(node.outputs), nodes=[node], opset_imports={"mine": 1})
    found = stats(ir.Model(graph, ir_version=8))
    assert found.opset is None
    assert found.operators == {"mine::Do": 1}


def test_counting_changes_nothing_and_is_json() -> None:
    weight = ir.tensor(np.ones((3, 4), np.float16), name="w")
    value = ir.Value(name="w", const_value=weight)
    graph = ir.Graph([], [value], nodes=[], initializers=[value], opset_imports={"": 17}, name="g")
    model = ir.Model(graph, ir_version=8)
    assert stats(model).as_json() == {
        "nodes": 0, "initializers": 1, "parameters": 12, "bytes": 24, "operators": {}, "opset": 17,
    }  # fmt: skip
    assert value.const_value is weight
