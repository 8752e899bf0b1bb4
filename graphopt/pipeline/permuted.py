"""Running a model that takes or gives tensors in another order of axes in the place of the original."""

from __future__ import annotations

import onnx_ir as ir

from ..ir import copy_model
from ..ir.orders import between, read


def in_orders_of(original: ir.Model, result: ir.Model) -> ir.Model:
    """The result with transpositions around it that give it the original's interface; itself where it has that."""
    turned = between(read(original), read(result))
    if not turned:
        return result
    copy = copy_model(result)
    graph = copy.graph
    for index, inner in enumerate(graph.inputs):
        order, name = turned.get(inner.name or ""), inner.name
        if order is None:
            continue
        outer = ir.Value(name=name, type=inner.type, shape=_back(inner.shape, order))
        node = ir.node("Transpose", [outer], {"perm": list(order)})
        inner.name = f"{name}_before"
        graph.inputs[index] = outer
        node.outputs[0].name, node.outputs[0].type = f"{name}_turned", inner.type
        for user, position in tuple(inner.uses()):
            user.replace_input_with(position, node.outputs[0])
        if len(graph):
            graph.insert_before(graph[0], node)
        else:
            graph.append(node)
    for index, inner in enumerate(graph.outputs):
        order, name = turned.get(inner.name or ""), inner.name
        if order is None:
            continue
        inner.name = f"{name}_before"
        node = ir.node("Transpose", [inner], {"perm": [order.index(axis) for axis in range(len(order))]})
        outer = node.outputs[0]
        outer.name, outer.type, outer.shape = name, inner.type, _back(inner.shape, order)
        graph.append(node)
        graph.outputs[index] = outer
    return copy


def _back(shape: ir.Shape | None, order: tuple[int, ...]) -> ir.Shape | None:
    if shape is None or len(shape) != len(order):
        return None
    return ir.Shape([shape.dims[order.index(axis)] for axis in range(len(order))])
