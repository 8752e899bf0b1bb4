from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import graphopt as go
from graphopt.errors import GraphoptError
from graphopt.execute.compare import Tolerance
from graphopt.flows.verify import verify
from graphopt.models.builders import mlp


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    go.save(mlp(), path)
    return path


def changed(path: Path, name: str, factor: float) -> Path:
    """The model with its first weight of two dimensions multiplied."""
    model = go.load(path)
    for value in model.graph.initializers.values():
        if value.const_value is not None and len(value.const_value.shape) == 2:
            value.const_value = ir.tensor(value.const_value.numpy() * np.float32(factor), name=value.name)
            break
    go.save(model, path.with_name(name))
    return path.with_name(name)


def test_a_model_equals_itself(model: Path) -> None:
    found = verify(model, model)
    assert found.ok and found.verdict.verdict == "equal"
    assert found.divergence is None
    assert found.feeds == "2 random feeds, seed 0"


def test_the_first_tensor_that_differs_is_found(model: Path) -> None:
    found = verify(model, changed(model, "b.onnx", 1.5))
    assert not found.ok
    assert found.divergence is not None
    first = next(node for node in go.load(model).graph if node.op_type in ("MatMul", "Gemm"))
    assert found.divergence.tensor == first.outputs[0].name
    assert found.as_json()["first_difference"]["tensor"] == first.outputs[0].name


def test_a_given_tolerance_overrides_the_derived_one(model: Path) -> None:
    other = changed(model, "b.onnx", 1.001)
    assert not verify(model, other, tolerance=Tolerance(rtol=1e-9)).ok
    assert verify(model, other, tolerance=Tolerance(atol=10.0)).ok


def test_a_second_model_that_does_not_load_is_different_and_not_searched(model: Path, tmp_path: Path) -> None:
    (tmp_path / "b.onnx").write_bytes(b"nothing like a model")
    found = verify(model, tmp_path / "b.onnx")
    assert not found.ok and found.divergence is None and found.verdict.problems


def test_feeds_of_another_model_are_refused(model: Path) -> None:
    with pytest.raises(GraphoptError, match="no input 'nobody'"):
        verify(model, model, [{"nobody": np.zeros(1, np.float32)}])


IMAGES = """<ir_version: 8, opset_import: ["": 17]> g (float[N, 2, 4, 5] x) => (float[N, 2, 4, 5] y)
    <float[2, 2, 1, 1] w = {1, 2, 3, 4}> { a = Relu(x) b = Conv(a, w) y = Sigmoid(b) }"""


def images(tmp_path: Path, recipe: str) -> tuple[Path, Path]:
    """A small model on images, and what a recipe makes of it."""
    before, after = tmp_path / "a.onnx", tmp_path / "b.onnx"
    go.save(ir.from_onnx_text(IMAGES), before)
    go.save(go.PassManager(recipe, strict=True).run(before)[0], after)
    return before, after


def test_axes_in_another_order_are_put_in_place(tmp_path: Path) -> None:
    before, after = images(tmp_path, 'set-io-layout{inputs="nhwc", outputs="nhwc"}, place-transposes')
    found = verify(before, after)
    assert found.verdict.verdict == "equal"
    assert found.verdict.notes == (
        "input 'x' has the original's axes in the order 0, 2, 3, 1: compared through a Transpose",
        "output 'y' has the original's axes in the order 0, 2, 3, 1: compared through a Transpose",
    )
    assert verify(after, before).verdict.verdict == "equal"


def test_a_difference_behind_transposed_inputs_is_found(tmp_path: Path) -> None:
    before, after = images(tmp_path, 'set-io-layout{inputs="nhwc", outputs="nhwc"}')
    model = go.load(after)
    weight = model.graph.initializers["w"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * 2, name="w")
    go.save(model, after)
    found = verify(before, after)
    assert not found.ok and found.divergence is not None and "Conv" in found.divergence.where


@pytest.mark.parametrize("to", ["float16", "bfloat16"])
def test_floating_types_of_another_width_are_compared_through_casts(tmp_path: Path, to: str) -> None:
    before, after = images(tmp_path, f"convert-opset{{version=22}}, convert-precision{{to={to}, keep_io=false}}")
    model = go.load(after)
    assert model.graph.inputs[0].dtype != ir.DataType.FLOAT
    strict = verify(before, after)
    assert strict.verdict.verdict == "different" and not strict.verdict.problems
    assert f"input 'x' is {to} instead of float: compared through a Cast" in strict.verdict.notes
    assert any(f"computes in {to}" in note for note in strict.verdict.notes)
    given = verify(before, after, tolerance=Tolerance(sqnr_db=25.0))
    assert given.verdict.verdict == "within tolerance"
    assert not any("computes in" in note for note in given.verdict.notes)


def test_another_kind_of_input_is_still_a_problem(tmp_path: Path) -> None:
    before, after = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for path, kind in ((before, "float"), (after, "int32")):
        text = f'<ir_version: 8, opset_import: ["": 17]> g ({kind}[2] x) => (float[2] y) {{ y = Cast<to = 1>(x) }}'
        go.save(ir.from_onnx_text(text), path)
    assert verify(before, after).verdict.problems == ("input 'x' is int32 instead of float",)
