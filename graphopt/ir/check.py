"""Is a model valid? graphopt's own invariants, and ONNX's checker on request.

The invariants are those that passes could break: names, scopes, order, produced outputs, data behind every
initialiser, an opset import for every domain (``structure.py`` has the walk). They need no shapes and take
time linear in nodes and edges. ``onnx.checker`` adds what belongs to single operators: known names,
attributes, number of inputs.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError

from .facts import where
from .files import placed
from .protos import views as proto_views
from .reading import read_proto, require_versions
from .references import validate
from .serial import serialize
from .structure import Findings, Named, Root, Step, View, examine
from .walk import bodies, subgraphs


def check(model: ir.Model | str | os.PathLike[str], *, full: bool = False) -> None:
    """Raise on the first thing that makes a model invalid.

    Args:
        model: a model in memory, or a file, which is then checked as it is written: also what ``load`` would
        put right.
        full: run ``onnx.checker`` too, by path, without weights; it is native code, which a hostile file
        might crash.

    Raises:
        GraphoptError: names the node and the tensor.
    """
    if not isinstance(model, ir.Model):
        with placed(model):
            proto = read_proto(model)
            require_versions(proto)
            _refuse(examine(proto_views(proto)))
            validate(proto, model)
            if full:
                _run_checker(model)
        return
    _refuse(examine(_views(model)))
    if full:
        with tempfile.TemporaryDirectory(prefix="graphopt-check-") as folder:
            proto, layout = serialize(model, "weights", outside=True)
            path = Path(folder, "model.onnx")
            path.write_bytes(proto.SerializeToString())
            if layout:
                with open(Path(folder, "weights"), "wb") as file:
                    layout.reserve(file)
            _run_checker(path)


def _refuse(findings: Findings) -> None:
    for error in findings:
        raise error


def _run_checker(path: str | os.PathLike[str]) -> None:
    try:
        onnx.checker.check_model(os.fspath(path))
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        context = next((line for line in lines if line.startswith("==> Context: ")), "==> Context: the model")
        what = f"onnx.checker: {lines[0] if lines else error}"
        raise GraphoptError(
            what, context.removeprefix("==> Context: "), "the model breaks the ONNX standard"
        ) from error


def _views(model: ir.Model) -> Iterator[Root]:
    for body in bodies(model):
        opsets = {"" if domain == "ai.onnx" else domain: version for domain, version in body.opsets.items()}
        if body.function is None:
            yield Root(_view(body.graph, "the main graph"), opsets)
        else:
            key = body.function.identifier()
            yield Root(_view(body.graph, f"function {key[0]}::{key[1]}"), opsets, key)


def _view(graph: ir.Graph, place: str) -> View:
    for name, value in graph.initializers.items():
        if value.const_value is None:
            raise GraphoptError("an initializer has no data", f"initializer '{name}' of {place}", "give it a tensor")
    return View(
        place,
        [(value.name, value) for value in graph.inputs],
        [(value.name, value) for value in graph.initializers.values()],
        lambda: map(_step, graph),
        [(value.name, value) for value in graph.outputs],
    )


def _step(node: ir.Node) -> Step:
    reads: list[Named] = []
    for value in node.inputs:
        if value is None:
            continue
        if not value.name:
            raise GraphoptError("a tensor that is used has no name", where(node), "name it")
        reads.append((value.name, value))
    bodies: list[View] = []
    if node.attributes:
        bodies = [_view(graph, f"graph '{graph.name}' of {where(node)}") for graph in subgraphs(node)]
    writes: list[Named] = [(value.name, value) for value in node.outputs]
    return Step(partial(where, node), node.domain, reads, writes, bodies, node.op_identifier())
