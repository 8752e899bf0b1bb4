"""The float model that was quantised, kept beside it in memory while a recipe runs: what later passes compare with."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from graphopt.ir import copy_model

_MODEL = "graphopt.float_model"
_OUTPUT = "graphopt.float_output"


def keep_floats(model: ir.Model, products: Iterable[ir.Node]) -> None:
    """Note a model as it is (weights are shared, not copied), and which of its values each product gives."""
    model.meta[_MODEL] = copy_model(model)
    for node in products:
        node.meta[_OUTPUT] = str(node.outputs[0].name)


def kept_floats(model: ir.Model) -> ir.Model | None:
    """The noted model."""
    return model.meta.get(_MODEL)


def float_output(node: ir.Node) -> str | None:
    """The name of what a product gave, in the noted model."""
    return node.meta.get(_OUTPUT)


def drop_floats(model: ir.Model) -> None:
    """Let the noted model go."""
    model.meta.pop(_MODEL, None)
