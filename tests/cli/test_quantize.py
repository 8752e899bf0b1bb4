"""``graphopt quantize``: what it says and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from graphopt.ir import save
from graphopt.models.builders import small_cnn

from .conftest import Done

Command = Callable[..., Done]


def events(done: Done) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.out.splitlines()]


@pytest.fixture
def model(folder: Path) -> Path:
    save(small_cnn(), folder / "model.onnx")
    return folder / "model.onnx"


@pytest.fixture
def feeds(model: Path) -> Path:
    source = small_cnn().graph.inputs[0]
    assert source.shape is not None
    shape = [dim if isinstance(dim, int) else 2 for dim in source.shape]
    name = source.name
    path = model.parent / "feeds.npz"
    rng = np.random.default_rng(0)
    np.savez(path, **{f"{index}|{name}": rng.normal(size=shape).astype(np.float32) for index in range(8)})
    return path


def test_a_model_is_quantised_and_accounted_for(graphopt: Command, model: Path, feeds: Path) -> None:
    done = graphopt("quantize", "model.onnx", "-o", "q.onnx", "--data", "feeds.npz", "--explain")
    assert done.code == 0, done.err
    assert (model.parent / "q.onnx").is_file()
    for word in ("signal to error", "on integers", "latency", "QLinearConv", "which it was calibrated on"):
        assert word in done.out


def test_json_ends_with_the_result(graphopt: Command, model: Path, feeds: Path) -> None:
    done = graphopt("quantize", "model.onnx", "-o", "q.onnx", "--data", "feeds.npz", "--json", "--min-sqnr", "10")
    last = events(done)[-1]
    assert last["event"] == "result"
    assert {"quality", "fused", "measured", "kept", "recipe"} <= set(last)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no data to calibrate on"),
        (["--data", "feeds.npz", "--max-drop", "1%"], "there is no metric"),
        (["--data", "feeds.npz", "--max-drop", "much", "--metric", "math:fsum"], "is no share"),
        (["--data", "feeds.npz", "--scale", "x=a,b"], "is no scale"),
        (["--data", "feeds.npz", "--scheme", "w9"], "there is no scheme"),
        (["--data", "feeds.npz", "--metric", "math"], "names no function"),
    ],
)
def test_what_makes_no_sense_is_refused(
    graphopt: Command, model: Path, feeds: Path, words: list[str], said: str
) -> None:
    done = graphopt("quantize", "model.onnx", "-o", "q.onnx", *words)
    assert done.code == 2
    assert said in done.err
    assert not (model.parent / "q.onnx").exists()


def test_a_quality_out_of_reach_writes_nothing(graphopt: Command, model: Path, feeds: Path) -> None:
    done = graphopt("quantize", "model.onnx", "-o", "q.onnx", "--data", "feeds.npz", "--min-sqnr", "300")
    assert done.code == 1
    assert "the best found is" in done.err
    assert not (model.parent / "q.onnx").exists()
