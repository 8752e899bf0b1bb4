from __future__ import annotations

import onnx_ir as ir
import pytest

from graphopt.ir import array, constant, infer, known_ints, same_shape, scalar, static_dims


def parse(text: str) -> ir.Model:
    return ir.from_onnx_text('<ir_version: 8, opset_import: ["": 17]> ' + text)


def value(model: ir.Model, name: str) -> ir.Value:
    return ir.convenience.create_value_mapping(model.graph)[name]


def test_an_initialiser_is_constant_and_the_default_of_an_input_is_not():
    model = parse(
        "g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}, float[2] b = {3, 4}> { y = Sum(x, w, b) }"
    )
    assert constant(value(model, "w")) is None
    assert array(value(model, "b")).tolist() == [3, 4]
    assert constant(None) is None


@pytest.mark.parametrize(
    ("attribute", "elements"),
    [
        ("value = float[2] {1, 2}", [1, 2]),
        ("value_float = 1.5", 1.5),
        ("value_int = 3", 3),
        ("value_ints = [3, 4]", [3, 4]),
        ('value_string = "a"', b"a"),
    ],
)
def test_every_form_of_constant_node_is_read(attribute, elements):
    model = parse(f"g () => (y) {{ y = Constant<{attribute}>() }}")
    found = array(model.graph.outputs[0]).tolist()
    assert found == elements or found == elements.decode()


def test_reading_a_constant_does_not_rename_its_tensor():
    """onnx_ir's own reader does, in every model that shares the tensor."""
    model = parse("g () => (float[1] y) { y = Constant<value = float[1] {1}>() }")
    before = ir.to_proto(model).SerializeToString()
    constant(model.graph.outputs[0])
    assert ir.to_proto(model).SerializeToString() == before


def test_elements_beyond_the_limit_are_not_read():
    model = parse("g (float[3] x) => (float[3] y) <float[3] w = {1, 2, 3}> { y = Add(x, w) }")
    assert array(value(model, "w"), 2) is None
    assert scalar(value(model, "w")) is None


def test_what_inference_proves_is_known_but_no_constant():
    model = parse("g (float[N, 3] x) => (int64[1] d) <int64[1] one = {1}> { s = Shape(x) d = Gather(s, one) }")
    infer(model)
    assert known_ints(value(model, "d")) == (3,)
    assert constant(value(model, "d")) is None
    assert known_ints(value(model, "s")) is None


def test_symbols_are_equal_by_name_and_unknown_sizes_never():
    model = parse("g (float[N, 3] x, float[N, 3] z, float[M, 3] q) => (y) { y = Sum(x, z) }")
    assert same_shape(value(model, "x"), value(model, "z"))
    assert not same_shape(value(model, "x"), value(model, "q"))
    assert static_dims(value(model, "x")) is None
