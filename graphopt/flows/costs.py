"""What a model with sizes for all its inputs computes and holds: operations and activations, by operator and node.

Shapes are inferred, never taken from the file. What is in a Loop or Scan counts once for each trip where their
number is known; both branches of an If count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from ..ir import copy_model, infer, is_op, scalar, static_dims, subgraphs, where
from ..pipeline import PassManager, Recipe
from .flops import flops, is_counted

_MOST_TRIPS = 1_000_000


@dataclass
class OperatorCost:
    """All nodes of one operator together: operations, and bytes of what they give."""

    flops: int = 0
    activations: int = 0


@dataclass
class Costs:
    """A model's costs for certain sizes.

    Attributes:
        operators: by operator (``domain::Operator`` outside the standard domain).
        nodes: ``(where, flops, bytes of outputs)`` of each node.
        peak: the most bytes of inputs and activations alive at once when the main graph runs in its order.
        unknown_shapes: nodes left out because a shape depends on the data.
        unknown_operators: operators nothing is known of.
        unknown_trips: loops counted once because their number of trips is not known.
        cleaned: the shapes were known only after the recipe ``clean``, so the costs are those of the cleaned model.
    """

    operators: dict[str, OperatorCost] = field(default_factory=dict)
    nodes: list[tuple[str, int, int]] = field(default_factory=list)
    peak: int = 0
    unknown_shapes: int = 0
    unknown_operators: set[str] = field(default_factory=set)
    unknown_trips: int = 0
    cleaned: bool = False


def costs(model: ir.Model, sizes: Mapping[tuple[str, int], int]) -> Costs:
    """Count. Where shapes stay unknown, what the recipe ``clean`` makes of the model for these sizes is counted.

    Args:
        model: it is changed and must not be used afterwards.
        sizes: of each open dimension, by input and axis.
    """
    for value in model.graph.inputs:
        if value.shape is not None:
            dims = [
                dim if isinstance(dim, int) and dim >= 0 else sizes.get((value.name or "", axis), 1)
                for axis, dim in enumerate(value.shape.dims)
            ]
            value.shape = ir.Shape(dims)
    if model.functions:
        model = InlinePass()(model).model
    found = _costs_as_written(copy_model(model))
    if found.unknown_shapes:
        cleaned, _ = PassManager(Recipe.parse("clean"), verify="off").run(model)
        better = _costs_as_written(cleaned)
        if better.unknown_shapes < found.unknown_shapes:
            better.cleaned = True
            return better
    return found


def _costs_as_written(model: ir.Model) -> Costs:
    infer(model)
    found = Costs()
    _count(model.graph, 1, found)
    found.peak = _peak(model.graph)
    found.nodes.sort(key=lambda item: (-item[1], -item[2]))
    return found


def operator_name(node: ir.Node) -> str:
    """``Conv``; ``domain::Operator`` outside the standard domain."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def _count(graph: ir.Graph, trips: int, found: Costs) -> None:
    for node in graph:
        if is_op(node, "Constant"):
            continue
        name = operator_name(node)
        cost = found.operators.setdefault(name, OperatorCost())
        inner = _trips(node)
        if inner is None:
            found.unknown_trips += 1
        for body in subgraphs(node):
            _count(body, trips * (inner or 1), found)
        sizes = [value_bytes(value) for value in node.outputs if value.name]
        given = sum(size for size in sizes if size is not None)
        cost.activations += given
        operations = flops(node) if is_counted(node) else None
        if not is_counted(node):
            found.unknown_operators.add(name)
        elif operations is None or None in sizes:
            found.unknown_shapes += 1
        cost.flops += trips * (operations or 0)
        found.nodes.append((where(node), trips * (operations or 0), given))


def _trips(node: ir.Node) -> int | None:
    """How often the subgraphs of a node run; 1 for a node that is no loop, None when it depends on the data."""
    if is_op(node, "Loop"):
        limit = scalar(node.inputs[0])
        return limit if isinstance(limit, int) and 0 <= limit <= _MOST_TRIPS else None
    if is_op(node, "Scan"):
        shape = static_dims(node.inputs[-1])
        return shape[0] if shape else None
    return 1


def value_bytes(value: ir.Value) -> int | None:
    """The bytes of a value with a known shape and element type; None of any other."""
    shape = static_dims(value)
    if shape is None or value.dtype is None or value.dtype == ir.DataType.STRING:
        return None
    return math.ceil(math.prod(shape) * value.dtype.bitwidth / 8)


def _peak(graph: ir.Graph) -> int:
    """The most bytes alive at once, values kept from where they are made to their last reader."""
    nodes = [node for node in graph if not is_op(node, "Constant")]
    last: dict[ir.Value, int] = {value: -1 for value in graph.inputs if not value.is_initializer()}
    for index, node in enumerate(nodes):
        last.update(dict.fromkeys(node.outputs, index))
        last.update({value: index for value in _read(node) if value in last})
    last.update({value: len(nodes) for value in graph.outputs if value in last})
    ending: dict[int, list[ir.Value]] = {}
    for value, index in last.items():
        ending.setdefault(index, []).append(value)
    alive = sum(value_bytes(value) or 0 for value in graph.inputs if value in last)
    peak = alive
    for index, node in enumerate(nodes):
        alive += sum(value_bytes(value) or 0 for value in node.outputs)
        peak = max(peak, alive)
        alive -= sum(value_bytes(value) or 0 for value in ending.get(index, ()))
    return peak


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, in its subgraphs too."""
    yield from (value for value in node.inputs if value is not None)
    for graph in subgraphs(node):
        yield from (value for value in graph.outputs)
        for inner in graph:
            yield from _read(inner)
