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
