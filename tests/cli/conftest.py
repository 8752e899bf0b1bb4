"""The command as a user calls it: in a process of its own, or (faster) as a function call."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

RECIPE = "lift-constants, eliminate-identity, fold-constants, eliminate-noop"


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def graphopt(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Calls the command inside this process."""
    from graphopt.cli import main

    def run(*words: str) -> Done:
        capsys.readouterr()
        code = main(words)
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return run


def command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "graphopt", *words]


@pytest.fixture
def process(folder: Path) -> Callable[..., Done]:
    """Calls the command in a process of its own, as a shell does."""

    def run(*words: str, before: Callable[[], None] | None = None) -> Done:
        done = subprocess.run(
            command(words),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            preexec_fn=before,
            env={**os.environ, "COLUMNS": "80"},
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


def contents(folder: Path) -> dict[str, str]:
    """The digest of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto] = (),
    outputs: Sequence[onnx.ValueInfoProto] = (),
    weights: dict[str, np.ndarray] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """A model with float ``x`` and ``y`` of shape [2, 4] unless told otherwise."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "g", list(inputs or [x]), list(outputs or [y]), initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def plain_model(rows: int = 4) -> onnx.ModelProto:
    """y = Relu(Identity(x) @ w): one thing to remove."""
    weights = {"w": np.random.default_rng(0).standard_normal((4, rows)).astype(np.float32)}
    nodes = [
        helper.make_node("Identity", ["x"], ["i"], "copy"),
        helper.make_node("MatMul", ["i", "w"], ["m"], "product"),
        helper.make_node("Relu", ["m"], ["y"], "relu"),
    ]
    return build(nodes, weights=weights)


@pytest.fixture
def model(folder: Path) -> Path:
    """A small valid model."""
    path = folder / "model.onnx"
    onnx.save(plain_model(), path)
    return path
