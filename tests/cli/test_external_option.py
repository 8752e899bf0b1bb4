"""graphopt optimize --external-data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from graphopt.cli.arguments import byte_size
from graphopt.errors import GraphoptError


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0), ("4096", 4096), ("100KB", 100_000), ("1 MiB", 2**20), ("2gib", 2**31), ("7B", 7)]
)
def test_sizes_are_read(text: str, expected: int) -> None:
    assert byte_size(text, "--external-data") == expected


@pytest.mark.parametrize("text", ["", "-1", "1.5MB", "ten", "5 apples"])
def test_what_is_no_size_is_a_usage_error(text: str) -> None:
    with pytest.raises(GraphoptError, match="is no size") as caught:
        byte_size(text, "--external-data")
    assert caught.value.usage


def test_weights_go_to_a_file_beside_the_model(graphopt: Callable[..., Any], folder: Path, model: Path) -> None:
    done = graphopt("optimize", model.name, "-o", "out.onnx", "--recipe", "clean", "--external-data", "0")
    assert (done.code, done.err) == (0, "")
    stored = onnx.load(folder / "out.onnx", load_external_data=False).graph.initializer
    assert all(item.data_location == onnx.TensorProto.EXTERNAL for item in stored)
    assert (folder / "out.onnx.data").exists() == bool(stored)
    assert graphopt("verify", model.name, "out.onnx").code == 0


def test_a_wrong_size_writes_nothing(graphopt: Callable[..., Any], folder: Path, model: Path) -> None:
    done = graphopt("optimize", model.name, "-o", "out.onnx", "--external-data", "many")
    assert done.code == 2 and "is no size" in done.err
    assert not (folder / "out.onnx").exists()
