"""What runs in the child processes of scale.py: a tool on one core, and a look at what it wrote."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx_ir as ir
from tools import Tool
from trial import run_tool

from graphopt.errors import GraphoptError
from graphopt.ir import check, count_nodes, load


def run_on_one_core(tool: Tool, source: Path, output: Path) -> dict[str, Any]:
    """The tool on one core; in a child."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    return run_tool(tool, source, output)


def examine(source: Path, output: Path) -> tuple[int, str]:
    """The result's nodes, and what is wrong with it; in a child."""
    model = load(output)
    try:
        check(model)
    except GraphoptError as error:
        return 0, f"invalid: {error.what}"
    originals = _external(load(source))
    if [_first_bytes(tensor) for tensor in _external(model)] != [_first_bytes(tensor) for tensor in originals]:
        return 0, "its weights are not those of the original"
    if originals and any(Path(tensor.path).samefile(originals[0].path) for tensor in _external(model)):
        return 0, "its weights are still in the file of the original"
    return count_nodes(model), ""


def _first_bytes(tensor: ir.ExternalTensor) -> tuple[str | None, int, bytes]:
    """Name, size and beginning, which is where the weights of ``external`` differ."""
    return tensor.name, tensor.nbytes, tensor.numpy().reshape(-1)[:4096].tobytes()


def _external(model: ir.Model) -> list[ir.ExternalTensor]:
    tensors = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    return [tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor)]
