from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

import graphopt as go
from graphopt.errors import GraphoptError
from graphopt.flows.costs import costs
from graphopt.flows.inspect import inspect
from graphopt.models.builders import BUILDERS, external, small_cnn


def counted(text: str) -> tuple[int, int, int]:
    """FLOPs, bytes of activations and their peak of a model in ONNX's text format."""
    found = costs(ir.from_onnx_text(f'<ir_version: 8, opset_import: ["": 17]>\n{text}'), {})
    assert not found.unknown_shapes and not found.unknown_operators
    operators = found.operators.values()
    return sum(item.flops for item in operators), sum(item.activations for item in operators), found.peak


@pytest.mark.parametrize(
    ("text", "flops"),
    [
        ("g (float[2,3] x, float[3,5] w) => (float y) { y = MatMul(x, w) }", 2 * 2 * 3 * 5),
        ("g (float[7,2,3] x, float[3,5] w) => (float y) { y = MatMul(x, w) }", 7 * 2 * 2 * 3 * 5),
        ("g (float[3,2] x, float[3,5] w) => (float y) { y = Gemm <transA = 1> (x, w) }", 2 * 2 * 3 * 5),
        (
            "g (float[1,4,8,8] x, float[6,2,3,3] w) => (float y) { y = Conv <group = 2, pads = [1,1,1,1]> (x, w) }",
            2 * 6 * 64 * 2 * 9,
        ),
        (
            "g (float[1,4,8,8] x, float[4,6,2,2] w) => (float y) { y = ConvTranspose <strides = [2,2]> (x, w) }",
            2 * 4 * 64 * 6 * 4,
        ),
        ('g (float[2,3,4] x, float[2,4,5] w) => (float y) { y = Einsum <equation = "bij,bjk->bik"> (x, w) }', 240),
        ('g (float[2,3,4] x) => (float y) { y = Einsum <equation = "...ij->...ji"> (x) }', 24),
        ("g (float[2,3] x) => (float y) { y = Relu(x) }", 6),
        ("g (float[2,3] x) => (float y) { y = Softmax(x) }", 24),
        ("g (float[2,3] x) => (float y) { y = ReduceMean <axes = [1]> (x) }", 6),
        ("g (float[1,2,4,4] x) => (float y) { y = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x) }", 2 * 4 * 4),
        (
            "g (float[5,2,3] x, float[1,16,3] w, float[1,16,4] r) => (float y) "
            "{ y = LSTM <hidden_size = 4> (x, w, r) }",
            2 * 5 * 2 * 4 * 4 * (3 + 4),
        ),
        ("g (float[2,3] x) => (float y) { y = Transpose(x) }", 0),
    ],
)
def test_operations_are_counted_by_definition(text: str, flops: int) -> None:
    assert counted(text)[0] == flops


def test_activations_are_outputs_and_the_peak_is_what_lives_together() -> None:
    text = "g (float[10] x) => (float y) { a = Relu(x) b = Abs(a) c = Neg(b) y = Add(c, x) }"
    assert counted(text)[1:] == (4 * 40, 3 * 40)  # x, and two neighbours of the chain


def test_loops_count_for_each_trip() -> None:
    text = """g (float[2] x) => (float y)
        <int64 n = {5}, bool go = {1}>
        { y = Loop (n, go, x) <body = b (int64 i, bool c, float s) => (bool c2, float t)
            { c2 = Identity(c) t = Relu(s) }> }"""
    assert counted(text)[0] == 5 * 2


def test_sizes_of_open_dimensions_scale_the_costs(tmp_path: Path) -> None:
    go.save(small_cnn(), tmp_path / "m.onnx")
    name = inspect(tmp_path / "m.onnx").open_dims[0].name
    one, four = (inspect(tmp_path / "m.onnx", {name: size}) for size in (1, 4))
    assert four.sizes_from == "as given"
    assert four.flops == 4 * one.flops
    assert four.activations == pytest.approx(4 * one.activations, rel=1e-3)  # shape tensors stay as they are


def test_sizes_that_are_not_given_are_searched_and_said_to_be(tmp_path: Path) -> None:
    go.save(small_cnn(), tmp_path / "m.onnx")
    found = inspect(tmp_path / "m.onnx")
    assert found.open_dims and found.sizes_from.startswith("found by trying")


def test_a_dimension_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    go.save(small_cnn(), tmp_path / "m.onnx")
    with pytest.raises(GraphoptError, match="no input has an open dimension 'Q'"):
        inspect(tmp_path / "m.onnx", {"Q": 2})


@pytest.mark.parametrize("name", ["nested", "function_model", "transformer", "stale_shapes", "ir3_model"])
def test_models_of_every_kind_are_inspected(name: str, tmp_path: Path) -> None:
    model = BUILDERS[name]()
    go.save(model, tmp_path / "m.onnx")
    found = inspect(tmp_path / "m.onnx")
    assert sum(row.nodes for row in found.operators) == found.stats.nodes
    assert len(found.inputs) >= 1


def test_external_data_are_counted_and_named(tmp_path: Path) -> None:
    path = external(tmp_path / "m.onnx", 0.002, width=64)
    found = inspect(path)
    assert found.external
    assert found.file_bytes > found.stats.bytes >= 2_000_000
    assert found.largest_weights[0].external
