from __future__ import annotations

from pathlib import Path

import pytest

import graphopt as go
from graphopt.errors import GraphoptError
from graphopt.flows.bench import bench
from graphopt.models.builders import mlp


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    go.save(mlp(), path)
    return path


def test_the_first_is_the_measure_of_the_others(model: Path) -> None:
    found = bench([model, model], seconds=0.1, target="x86-64")
    first, second = found.measurements
    assert (first.name, second.name) == (str(model), f"{model} (2)")
    assert first.ratio == 1.0
    assert second.ratio_low <= second.ratio <= second.ratio_high
    assert first.provider == "CPUExecutionProvider"
    assert min(first.load_s, first.peak_bytes, first.file_bytes) > 0


def test_a_provider_that_is_not_here_is_an_error_and_no_fall_back(model: Path) -> None:
    with pytest.raises(GraphoptError, match="CUDAExecutionProvider"):
        bench([model], target="cuda")


def test_wrong_calls_are_told_before_anything_runs(model: Path, tmp_path: Path) -> None:
    for models, threads in (([], 1), ([tmp_path / "none.onnx"], 1), ([model], -1)):
        with pytest.raises(GraphoptError) as caught:
            bench(models, threads=threads)
        assert caught.value.usage


def test_models_that_take_other_inputs_are_refused_by_name(model: Path, tmp_path: Path) -> None:
    other = go.load(model)
    other.graph.inputs[0].name = "another"
    go.save(other, tmp_path / "other.onnx")
    with pytest.raises(GraphoptError, match="input 'another' is new") as caught:
        bench([model, tmp_path / "other.onnx"])
    assert caught.value.where == str(tmp_path / "other.onnx")
