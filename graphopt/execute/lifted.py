"""Tensors inside If, Loop and Scan made tensors of the main graph, on a copy.

Each node around the tensor gets one more output:

- If: the tensor, or an empty vector when the other branch was taken;
- Loop, Scan: the tensors of all trips, stacked along a new first axis; all must have one shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import copy_model, infer, is_op, subgraphs, where


def inner_tensors(model: ir.Model) -> dict[str, ir.Value]:
    """Tensors computed inside the subgraphs of the main graph, by names that occur once."""
    found: dict[str, list[ir.Value]] = {}
    for graph in _nested(model.graph):
        for node in graph:
            for value in node.outputs:
                if value.name:
                    found.setdefault(value.name, []).append(value)
    own = {value.name for node in model.graph for value in node.outputs}
    return {name: values[0] for name, values in found.items() if len(values) == 1 and name not in own}


def lifted(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy in which inner tensors are, under their own names, tensors of the main graph.

    Raises:
        GraphoptError: a tensor is inside a node other than If, Loop and Scan, or its type is not known.
    """
    copy = copy_model(model)
    infer(copy)
    owners = {
        graph: node for around in (copy.graph, *_nested(copy.graph)) for node in around for graph in subgraphs(node)
    }
    inner = inner_tensors(copy)
    for name in names:
        value = inner[name]
        value.name = f"{name}_inside"
        while value.graph is not copy.graph:
            assert value.graph is not None
            value = _hand_out(owners[value.graph], value.graph, value)
        value.name = name
    return copy


def _nested(graph: ir.Graph) -> Iterator[ir.Graph]:
    for node in graph:
        for inner in subgraphs(node):
            yield inner
            yield from _nested(inner)


def _hand_out(node: ir.Node, graph: ir.Graph, value: ir.Value) -> ir.Value:
    """One more output of the node: the tensor of its subgraph."""
    if not is_op(node, "If", "Loop", "Scan"):
        raise GraphoptError(
            f"'{value.name}' is inside {where(node)}", "taps", "only If, Loop and Scan can be looked into"
        )
    if value.dtype is None or not isinstance(value.type, ir.TensorType):
        raise GraphoptError(f"the type of '{value.name}' is not known", "taps", "only tensors can be tapped")
    given = ir.node("Identity", [value])  # the tensor itself may be an output already
    given.outputs[0].type = value.type
    given.outputs[0].name = f"{value.name}_given"
    graph.append(given)
    graph.outputs.append(given.outputs[0])
    if is_op(node, "If"):
        for branch in subgraphs(node):
            if branch is not graph:
                nothing = ir.node(
                    "Constant", [], {"value": ir.tensor(np.zeros(0, value.dtype.numpy()), dtype=value.dtype)}
                )
                nothing.outputs[0].type = value.type
                nothing.outputs[0].name = f"{value.name}_absent"
                branch.append(nothing)
                branch.outputs.append(nothing.outputs[0])
    for attribute in ("scan_output_axes", "scan_output_directions"):
        if attribute in node.attributes:
            axes = (*node.attributes[attribute].as_ints(), 0)
            node.attributes.add(ir.AttrInt64s(attribute, axes))
    node.resize_outputs(len(node.outputs) + 1)
    result = node.outputs[-1]
    result.name, result.type = f"{value.name}_out", value.type
    return result
