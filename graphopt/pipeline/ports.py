"""Running a model in the place of one whose inputs and outputs have another order of axes, or another width.

What a port of the result is in the original is undone around the result: a Transpose or a Cast before an input, its
inverse behind an output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from ..ir import copy_model
from ..ir.orders import Order, between, read


@dataclass(frozen=True)
class Change:
    """How a port of the original became one of the result.

    Attributes:
        operator: what leads from one to the other.
        there: its attributes from the original's port to the result's.
        back: the other way round.
        type, shape: of the port in the original; None for what it does not declare.
        text: in words.
    """

    operator: str
    there: Mapping[str, Any]
    back: Mapping[str, Any]
    type: ir.TypeProtocol | None
    shape: ir.Shape | None
    text: str


Ask = Callable[[ir.Value], Change | None]
"""What became of the port that is this input or output of the result."""


def in_orders_of(original: ir.Model, result: ir.Model) -> ir.Model:
    """The result with the original's orders of axes (``graphopt.ir.orders``); itself where it has those."""
    return _surrounded(result, _orders(original, result))


def in_types_of(original: ir.Model, result: ir.Model) -> ir.Model:
    """The result with the floating-point types of the original's ports; itself where it has those."""
    return _surrounded(result, _types(original))


def changes(original: ir.Model, result: ir.Model) -> list[str]:
    """What sets the ports of the result apart from the original's and is undone around it, in words."""
    found: list[str] = []
    for ask in (_orders(original, result), _types(original)):
        for kind, values in (("input", result.graph.inputs), ("output", result.graph.outputs)):
            asked = ((value.name, ask(value)) for value in values)
            found += [
                f"{kind} '{name}' {change.text}: compared through a {change.operator}"
                for name, change in asked
                if change is not None
            ]
    return found


def _orders(original: ir.Model, result: ir.Model) -> Ask:
    turned = between(read(original), read(result))

    def ask(value: ir.Value) -> Change | None:
        order = turned.get(value.name or "")
        if order is None:
            return None
        inverse = tuple(order.index(axis) for axis in range(len(order)))
        shape = _permuted(value.shape, inverse)
        text = f"has the original's axes in the order {', '.join(map(str, order))}"
        return Change("Transpose", {"perm": list(order)}, {"perm": list(inverse)}, value.type, shape, text)

    return ask


def _permuted(shape: ir.Shape | None, order: Order) -> ir.Shape | None:
    if shape is None or len(shape) != len(order):
        return None
    return ir.Shape([shape.dims[axis] for axis in order])


def _types(original: ir.Model) -> Ask:
    declared = {value.name: value for value in (*original.graph.inputs, *original.graph.outputs)}

    def ask(value: ir.Value) -> Change | None:
        before = declared.get(value.name)
        if before is None or value.is_initializer() or not _differ(before, value):
            return None
        assert before.dtype is not None and value.dtype is not None
        text = f"is {value.dtype.name.lower()} instead of {before.dtype.name.lower()}"
        return Change("Cast", {"to": value.dtype}, {"to": before.dtype}, before.type, value.shape, text)

    return ask


def _differ(before: ir.Value, after: ir.Value) -> bool:
    """True for two tensors of floating-point numbers of other types."""
    if not isinstance(before.type, ir.TensorType) or not isinstance(after.type, ir.TensorType):
        return False
    both = before.type.dtype, after.type.dtype
    return both[0] != both[1] and all(dtype.is_floating_point() for dtype in both)


def _surrounded(model: ir.Model, ask: Ask) -> ir.Model:
    """A copy with the nodes that undo what became of its ports; the model itself where nothing did."""
    if not any(ask(value) for value in (*model.graph.inputs, *model.graph.outputs)):
        return model
    copy = copy_model(model)
    graph = copy.graph
    outside: set[ir.Value] = set()
    for index, inner in enumerate(graph.inputs):
        change, name = ask(inner), inner.name
        if change is None:
            continue
        outer = ir.Value(name=name, type=change.type, shape=change.shape)
        node = ir.node(change.operator, [outer], dict(change.there))
        graph.inputs[index] = outer
        inner.name = f"{name}.graphopt.before"
        node.outputs[0].name, node.outputs[0].type = f"{name}.graphopt.inner", inner.type
        for user, position in tuple(inner.uses()):
            user.replace_input_with(position, node.outputs[0])
        outside.add(outer)
        for position, output in enumerate(graph.outputs):
            if output is inner:  # an output that is an input stays that
                graph.outputs[position] = outer
        if len(graph):
            graph.insert_before(graph[0], node)
        else:
            graph.append(node)
    for index, inner in enumerate(graph.outputs):
        change, name = ask(inner), inner.name
        if change is None or inner in outside:
            continue
        inner.name = f"{name}.graphopt.inner"
        node = ir.node(change.operator, [inner], dict(change.back))
        outer = node.outputs[0]
        outer.name, outer.type, outer.shape = name, change.type, change.shape
        graph.append(node)
        graph.outputs[index] = outer
    return copy
