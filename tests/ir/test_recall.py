"""What is remembered between two inferences holds still."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx_shape_inference import registry

from graphopt.ir import copy_model, dims, forget, infer, known_ints, new_initializer, nodes, replace

HEAD = '<ir_version: 8, opset_import: ["": 17]> '


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operators whose rules are asked."""
    found: list[str] = []
    get = registry.get

    def noted(domain: str, op_type: str, version: int):
        found.append(op_type)
        return get(domain, op_type, version=version)

    monkeypatch.setattr(registry, "get", noted)
    return found


def values(model: ir.Model) -> dict[str, ir.Value]:
    found = {value.name or "": value for node in nodes(model) for value in node.outputs}
    return found | {value.name or "": value for value in (*model.graph.inputs, *model.graph.initializers.values())}


def inferred(text: str) -> tuple[ir.Model, dict[str, ir.Value]]:
    model = ir.from_onnx_text(HEAD + text)
    infer(model)
    return model, values(model)


CHAIN = "g (float[N, 4] x) => (d) { a = Relu(x) b = Transpose(a) c = Sqrt(b) d = Neg(c) }"


def test_nothing_is_asked_again_when_nothing_has_changed(asked: list[str]):
    model, found = inferred(CHAIN)
    before = {name: dims(value) for name, value in found.items()}
    asked.clear()
    infer(model)
    assert asked == []
    assert {name: dims(value) for name, value in found.items()} == before


def test_only_what_stands_behind_an_edit_is_asked_again(asked: list[str]):
    model, found = inferred(CHAIN)
    asked.clear()
    replace(found["b"], found["a"])
    infer(model)
    assert asked == ["Sqrt", "Neg"]
    assert dims(found["d"]) == ("N", 4)


def test_an_edit_that_leaves_the_facts_alone_ends_there(asked: list[str]):
    model, found = inferred(CHAIN)
    asked.clear()
    relu = found["a"].producer()
    assert relu is not None
    relu.op_type = "Tanh"
    infer(model)
    assert asked == ["Tanh"]


def test_a_changed_attribute_is_seen():
    model, found = inferred("g (float[2, 3, 4] x) => (y) { y = Transpose<perm = [0, 2, 1]>(x) }")
    producer = found["y"].producer()
    assert producer is not None
    producer.attributes.add(ir.AttrInt64s("perm", [2, 1, 0]))
    infer(model)
    assert dims(found["y"]) == (4, 3, 2)


@pytest.mark.parametrize("large", [False, True])
def test_a_changed_constant_is_seen(large: bool):
    model, found = inferred("g (float[128] x) => (y) <int64[2] s = {8, 16}> { y = Reshape(x, s) }")
    assert dims(found["y"]) == (8, 16)
    wanted = [1] * 100 + [128] if large else [16, 8]
    replace(found["s"], new_initializer(model.graph, np.array(wanted, dtype=np.int64), "t"))
    infer(model)
    assert dims(found["y"]) == tuple(wanted)


def test_a_constant_of_the_same_content_changes_nothing(asked: list[str]):
    model, found = inferred("g (float[128] x) => (y) <int64[2] s = {8, 16}> { y = Reshape(x, s) }")
    asked.clear()
    replace(found["s"], new_initializer(model.graph, np.array([8, 16], dtype=np.int64), "t"))
    infer(model)
    assert asked == []
    assert dims(found["y"]) == (8, 16)


def test_a_changed_constant_node_is_seen():
    model, found = inferred("g (float[128] x) => (y) { s = Constant<value_ints = [8, 16]>() y = Reshape(x, s) }")
    producer = found["s"].producer()
    assert producer is not None
    producer.attributes.add(ir.AttrInt64s("value_ints", [16, 8]))
    infer(model)
    assert dims(found["y"]) == (16, 8)


def test_a_changed_type_of_an_input_is_seen():
    model, found = inferred("g (float[4] x) => (y) { y = Relu(x) }")
    found["x"].type = ir.TensorType(ir.DataType.DOUBLE)
    infer(model)
    assert found["y"].dtype == ir.DataType.DOUBLE


def test_a_changed_opset_is_seen(asked: list[str]):
    model, _ = inferred(CHAIN)
    asked.clear()
    model.graph.opset_imports[""] = 18
    infer(model)
    assert asked == ["Relu", "Transpose", "Sqrt", "Neg"]


def test_elements_of_shapes_are_known_again():
    model, found = inferred("g (float[2, 3] x) => (y) { s = Shape(x) y = Identity(s) }")
    infer(model)
    assert known_ints(found["y"]) == (2, 3)


TWO = "g (float[N] a, float[N] b) => (x, y) { x = NonZero(a) y = NonZero(b) }"


def test_unknown_sizes_of_two_nodes_stay_two_whatever_is_exchanged():
    model, found = inferred(TWO)
    first, second = found["x"].producer(), found["y"].producer()
    assert first is not None and second is not None
    for _ in range(3):
        assert dims(found["x"])[1] != dims(found["y"])[1]  # pyright: ignore[reportOptionalSubscript]
        first.replace_input_with(0, second.inputs[0])
        second.replace_input_with(0, first.inputs[0])
        infer(model)


def test_a_new_unknown_size_never_gets_a_name_that_is_in_use():
    model, found = inferred("g (float[N] a) => (x) { x = NonZero(a) }")
    node = ir.node("NonZero", [model.graph.inputs[0]])
    node.outputs[0].name = "y"
    model.graph.append(node)
    model.graph.outputs.append(node.outputs[0])
    infer(model)
    assert dims(found["x"])[1] != dims(node.outputs[0])[1]  # pyright: ignore[reportOptionalSubscript]


def test_two_calls_of_a_function_have_unknown_sizes_of_their_own_each_time():
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17, "f": 1]> '
        "g (float[4] a, float[4] b) => (x, y) { x = f.pick(a) y = f.pick(b) } "
        '<domain: "f", opset_import: ["": 17]> pick (v) => (w) { w = NonZero(v) }'
    )
    found = values(model)
    for _ in range(3):
        infer(model)
        assert dims(found["x"])[1] != dims(found["y"])[1]  # pyright: ignore[reportOptionalSubscript]


def test_a_loop_that_is_refuted_stays_refuted():
    model, found = inferred(
        """g (int64 n, bool c, float[2] x) => (y) {
             y = Loop (n, c, x) <body = b (int64 i, bool k, float[2] v) => (bool k2, float[2] w) {
               k2 = Identity(k)
               r = Relu(v)
               w = Concat<axis = 0>(r, r)
             }>
           }"""
    )
    for _ in range(2):
        infer(model)
        assert found["y"].shape is None
        assert dims(found["r"]) is None


def test_a_copy_remembers_nothing_of_the_original(asked: list[str]):
    model, _ = inferred(CHAIN)
    asked.clear()
    infer(copy_model(model))
    assert asked == ["Relu", "Transpose", "Sqrt", "Neg"]
    asked.clear()
    infer(model)
    assert asked == []


def test_after_forget_everything_is_asked_again(asked: list[str]):
    model, found = inferred(CHAIN)
    forget(model)
    assert dims(found["d"]) is None
    asked.clear()
    infer(model)
    assert asked == ["Relu", "Transpose", "Sqrt", "Neg"]


def test_a_node_whose_rule_fails_is_reported_each_time():
    model = ir.from_onnx_text(HEAD + "g (float[2, 3] x, float[4, 5] w) => (y) { z = Relu(x) y = Conv(z, w) }")
    conv = [node for node in nodes(model) if node.op_type == "Conv"]
    assert infer(model) == conv
    assert infer(model) == conv
