"""Exporting torch modules: both exporters, held against torch, whole or not at all, plain errors."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import GraphoptError
from graphopt.models.export import export

FACTORIES = """
import torch


class Small(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.dense = torch.nn.Linear(width, 3)
        self.drop = torch.nn.Dropout(0.9)

    def forward(self, x, scale):
        return {"y": self.drop(self.dense(x)) * scale, "total": x.sum(-1)}


class Noisy(torch.nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


def small(width=4):
    torch.manual_seed(0)
    axes = {"x": {0: "N"}}
    shapes = {"x": {0: torch.export.Dim.DYNAMIC}, "scale": None}
    inputs = {"x": torch.randn(2, width), "scale": torch.ones(3)}
    return Small(width), inputs, {"dynamic_axes": axes, "dynamic_shapes": shapes}


def positional():
    return Small(4), (torch.randn(2, 4), torch.ones(3))


def noisy():
    return Noisy(), torch.zeros(2, 3)


def wrong():
    return "no module"


def misspelt():
    return Noisy(), torch.zeros(2, 3), {"input_name": ["x"]}


def failing():
    raise ValueError("no weights here")


number = 3
"""
torch_is_here = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not torch_is_here, reason="torch is not installed (pip install 'graphopt[torch]')")


@pytest.fixture
def factories(tmp_path: Path) -> str:
    path = tmp_path / "factories.py"
    path.write_text(FACTORIES)
    return str(path)


@pytest.mark.skipif(torch_is_here, reason="torch is installed")
def test_without_torch_the_error_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="needs torch") as caught:
        export("package:factory", tmp_path / "model.onnx")
    assert "graphopt[torch]" in caught.value.hint


def test_an_unknown_exporter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="no exporter called 'onnx'") as caught:
        export("package:factory", tmp_path / "model.onnx", exporter="onnx")  # pyright: ignore[reportArgumentType]
    assert caught.value.usage


@needs_torch
@pytest.mark.parametrize(("exporter", "opset"), [("dynamo", 20), ("torchscript", 17)])
def test_a_module_is_exported_and_runs_with_another_batch(exporter, opset, factories: str, tmp_path: Path) -> None:
    import onnxruntime as ort

    done = export(f"{factories}:small", tmp_path / "out" / "model.onnx", exporter=exporter, args={"width": 5})
    assert (done.exporter, done.opset) == (exporter, opset)
    assert done.max_error < 1e-5
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["model.onnx"]
    session = ort.InferenceSession(str(done.path))
    assert [value.name for value in session.get_inputs()] == ["x", "scale"]
    y, total = session.run(None, {"x": np.ones((7, 5), np.float32), "scale": np.zeros(3, np.float32)})
    assert y.shape == (7, 3)
    assert not y.any()
    assert np.allclose(total, 5)


@needs_torch
def test_inputs_by_position_get_the_names_of_forward(factories: str, tmp_path: Path) -> None:
    import onnxruntime as ort

    done = export(f"{factories}:positional", tmp_path / "model.onnx", exporter="torchscript")
    assert [value.name for value in ort.InferenceSession(str(done.path)).get_inputs()] == ["x", "scale"]


@needs_torch
def test_the_opset_asked_for_is_the_opset_given(factories: str, tmp_path: Path) -> None:
    assert export(f"{factories}:small", tmp_path / "m.onnx", exporter="torchscript", opset=15).opset == 15


@needs_torch
def test_an_export_that_differs_from_torch_does_not_appear(factories: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("the old one")
    with pytest.raises(GraphoptError, match="differs from torch"):
        export(f"{factories}:noisy", tmp_path / "model.onnx", exporter="torchscript")
    assert (tmp_path / "model.onnx").read_text() == "the old one"
    assert sorted(f.name for f in tmp_path.iterdir() if not f.name.startswith("__")) == [
        "factories.py",
        "model.onnx",
    ]


@needs_torch
@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("wrong", "something else than a module"),
        ("misspelt", "unknown option 'input_name'"),
        ("failing", "the factory failed: ValueError: no weights here"),
        ("number", "no callable 'number'"),
        ("absent", "no callable 'absent'"),
    ],
)
def test_a_factory_that_cannot_serve_is_explained(factory, message, factories: str, tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match=message):
        export(f"{factories}:{factory}", tmp_path / "model.onnx")


@needs_torch
@pytest.mark.parametrize("factory", ["no_colon", "not_there_at_all:factory", ":factory", "module:"])
def test_a_factory_that_cannot_be_found_is_explained(factory: str, tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match=r"names no factory|cannot import"):
        export(factory, tmp_path / "model.onnx")
