from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.ir import (
    array,
    check,
    copy_model,
    count_nodes,
    erase_if_dead,
    new_initializer,
    nodes,
    remove,
    replace,
    replace_node,
    sweep,
    tidy,
)


def parse(text: str) -> ir.Model:
    return ir.from_onnx_text('<ir_version: 8, opset_import: ["": 17]> ' + text)


def values(model: ir.Model) -> dict[str, ir.Value]:
    return dict(ir.convenience.create_value_mapping(model.graph))


def finished(model: ir.Model) -> ir.Model:
    sweep(model)
    tidy(model)
    check(model)
    return model


def test_a_replaced_output_keeps_name_and_place():
    model = parse("g (float[2] x) => (float[2] y, float[2] z) { a = Relu(x) y = Neg(a) z = Abs(x) }")
    replace(values(model)["y"], values(model)["a"])
    finished(model)
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    assert model.graph.outputs[0].producer().op_type == "Relu"


@pytest.mark.parametrize("stand_in", ["x", "w", "z"])
def test_what_cannot_take_over_an_output_gets_an_identity(stand_in):
    """An input, an initialiser and another output."""
    model = parse("g (float[2] x) => (float[2] y, float[2] z) <float[2] w = {1, 2}> { y = Add(x, w) z = Abs(w) }")
    replace(values(model)["y"], values(model)[stand_in])
    finished(model)
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    assert model.graph.outputs[0].producer().op_type == "Identity"
    assert len({id(value) for value in model.graph.outputs}) == 2


def test_uses_inside_branches_follow():
    model = parse(
        """g (bool p, float[2] x) => (float[2] y) { a = Relu(x) b = Neg(x)
           y = If (p) <then_branch = t () => (float[2] u) { u = Abs(a) }, else_branch = e () => (float[2] v) { v = Exp(b) }> }"""
    )
    replace(values(model)["a"], values(model)["b"])
    finished(model)
    assert [node.op_type for node in model.graph] == ["Neg", "If"]


def test_a_dead_if_lets_go_of_what_its_branches_read():
    model = parse(
        """g (bool p, float[2] x) => (float[2] y) { a = Relu(x)
           b = If (p) <then_branch = t () => (float[2] u) { u = Abs(a) }, else_branch = e () => (float[2] v) { v = Exp(a) }>
           y = Neg(x) }"""
    )
    erase_if_dead(next(node for node in model.graph if node.op_type == "If"))
    assert [node.op_type for node in finished(model).graph] == ["Neg"]


def test_removing_what_is_used_is_refused():
    model = parse("g (float[2] x) => (float[2] y) { a = Relu(x) y = Neg(a) }")
    with pytest.raises(AssertionError, match="still used"):
        remove(model.graph[0])


def test_new_constants_get_names_of_their_own():
    model = parse("g (float[1] x) => (float[1] y) <float[1] w = {1}> { y = Add(x, w) }")
    first = new_initializer(model.graph, np.float32(3) * np.ones(1, np.float32), "w")
    second = new_initializer(model.graph, np.float32(4), "w")
    assert len({"w", first.name, second.name}) == 3
    assert array(second).shape == ()


def test_a_constant_lent_to_another_model_keeps_its_name():
    model = parse("g (float[1] x) => (float[1] y) <float[1] w = {1}> { y = Add(x, w) }")
    before = ir.to_proto(model).SerializeToString()
    copy = copy_model(model)
    new_initializer(copy.graph, copy.graph.initializers["w"].const_value, "other")
    copy.graph.initializers["w"].name = "renamed"
    assert ir.to_proto(model).SerializeToString() == before


def test_replace_node_puts_new_nodes_where_the_old_one_was():
    model = parse("g (float[2] x) => (float[2] y) { a = Relu(x) b = Exp(a) y = Neg(b) }")
    old = model.graph[1]
    new = ir.node("Sqrt", [old.inputs[0]])
    replace_node(old, [new], [new.outputs[0]])
    finished(model)
    assert [node.op_type for node in model.graph] == ["Relu", "Sqrt", "Neg"]


def test_tidy_tells_apart_names_of_two_branches_that_meet():
    model = parse(
        """g (bool p, float[2] x) => (float[2] y) {
           y = If (p) <then_branch = t () => (float[2] u) { a = Relu(x) u = Neg(a) },
                       else_branch = e () => (float[2] v) { a = Exp(x) v = Neg(a) }> }"""
    )
    tidy(model)
    names = [output.name for node in nodes(model) for output in node.outputs]
    assert len(set(names)) == len(names)
    assert model.graph.outputs[0].name == "y"
    check(model)


def test_tidy_tells_apart_names_of_nodes():
    """Those of inlined nodes come along; ONNX Runtime refuses two nodes of one name."""
    model = parse("g (float[2] x) => (float[2] y) { a = Relu(x) b = Exp(a) c = Abs(b) y = Neg(c) }")
    for node, name in zip(model.graph, ("n", "n", "n_0", "n"), strict=True):
        node.name = name
    tidy(model)
    assert [node.name for node in model.graph] == ["n", "n_1", "n_0", "n_2"]


def test_tidy_writes_constants_of_a_function_as_nodes():
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 17, "local": 1]> g (float[1] x) => (float[1] y) { y = local.f(x) }
           <domain: "local", opset_import: ["": 17]> f (a) => (c) { c = Neg(a) }"""
    )
    (function,) = model.functions.values()
    constant = new_initializer(function.graph, np.ones(1, np.float32), "k")
    product = ir.node("Mul", [function.inputs[0], constant])
    function.graph.insert_before(function.graph[0], product)
    function.graph[1].replace_input_with(0, product.outputs[0])
    tidy(model)
    assert [node.op_type for node in function] == ["Constant", "Mul", "Neg"]
    assert not function.graph.initializers
    check(model)


def test_the_sweep_takes_dead_chains_and_weights_but_no_unknown_side_effect():
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 17, "my.domain": 1]>
           g (float[2] x, float[2] k) => (float[2] y) <float[2] w = {1, 2}, float[2] k = {1, 2}, float[2] u = {3, 4}> {
             a = Add(x, w) b = Neg(a) c = my.domain.Log(x) y = Relu(x) }"""
    )
    assert sweep(model) == 4
    assert [node.op_type for node in model.graph] == ["Log", "Relu"]
    assert list(model.graph.initializers) == ["k"]  # the default of an input
    assert count_nodes(model) == 2
