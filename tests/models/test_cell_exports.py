"""Recurrent cells that are called step by step are found in what both of torch's exporters write."""

from __future__ import annotations

from pathlib import Path

import pytest

import graphopt as go
from graphopt.ir import nodes
from graphopt.models.export import export
from graphopt.pipeline import PassManager, Recipe

pytest.importorskip("torch", reason="torch is not installed (pip install 'graphopt[torch]')")

MODULES = Path(__file__).with_name("cell_modules.py")
LSTMS = (
    "lstm",
    "lstm_batch_first",
    "lstm_backwards",
    "lstm_last",
    "lstm_stacked",
    "lstm_whole",
    "lstm_joined",
    "lstm_one",
)
GRUS = ("gru", "gru_batch_first", "gru_backwards", "gru_last", "gru_one")


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("name", [*LSTMS, *GRUS])
def test_cells_become_one_operator_for_each_layer(name: str, exporter, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export(f"{MODULES}:make", path, exporter=exporter, args={"name": name, "dynamic": True})
    result, outcomes = PassManager(Recipe.parse("clean, fuse-lstm, fuse-gru")).run(go.load(path))
    assert outcomes.verdict is not None
    assert outcomes.verdict.ok
    assert not any(step.failed or step.left_out for step in outcomes)
    found = [node.op_type for node in nodes(result)]
    expected = "LSTM" if name in LSTMS else "GRU"
    assert found.count(expected) == (2 if name == "lstm_stacked" else 1)
    assert "Sigmoid" not in found
    assert "Tanh" not in found
