"""Tensors inside If, Loop, Scan and calls of local functions made tensors of the main graph, on a copy.

A tensor is addressed by its name, after the calls it lies in, outermost first: ``y/h`` is ``h`` of the local function
whose call computes ``y`` (a call is named after its first output). Each node around the tensor gets one more output:

- call: the tensor; other calls of the same function get an output that nobody reads;
- If: the tensor, or an empty vector when the other branch was taken;
- Loop, Scan: the tensors of all trips, stacked along a new first axis; all must have one shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import bodies, copy_model, infer, is_op, subgraphs, where


@dataclass(frozen=True)
class Place:
    """A tensor and the calls of local functions around it, outermost first."""

    value: ir.Value
    calls: tuple[ir.Node, ...] = ()


def inner_tensors(model: ir.Model) -> Iterator[str]:
    """The addresses of all tensors that are not the main graph's own, wherever they occur once."""
    own = {value.name for node in model.graph for value in node.outputs}

    def inside(graph: ir.Graph, prefix: str) -> Iterator[str]:
        for name, value in _computed(graph).items():
            if prefix or name not in own:
                yield prefix + name
            called = _called(model, value)
            if called is not None:
                yield from inside(called.graph, f"{prefix}{name}/")

    return inside(model.graph, "")


def find_tensors(model: ir.Model, addresses: Iterable[str]) -> dict[str, Place | None]:
    """The tensors at addresses (see the module), None where there is none."""
    computed_in = cache(_computed)

    def find(graph: ir.Graph, rest: str, calls: tuple[ir.Node, ...]) -> Place | None:
        computed = computed_in(graph)
        if rest in computed:
            return Place(computed[rest], calls)
        for position in (index for index, letter in enumerate(rest) if letter == "/"):
            value = computed.get(rest[:position])
            called = _called(model, value) if value is not None else None
            if value is not None and called is not None:
                call = value.producer()
                assert call is not None
                found = find(called.graph, rest[position + 1 :], (*calls, call))
                if found is not None:
                    return found
        return None

    return {address: find(model.graph, address, ()) for address in addresses}


def lifted(model: ir.Model, addresses: Iterable[str]) -> ir.Model:
    """A copy in which inner tensors are, under their addresses as names, tensors of the main graph.

    Raises:
        GraphoptError: a tensor is inside a node other than If, Loop and Scan, or its type is not known.
        KeyError: there is no tensor at an address.
    """
    copy = copy_model(model)
    infer(copy)
    places = find_tensors(copy, addresses)
    owners = {graph: node for body in bodies(copy) for node in body.nodes() for graph in subgraphs(node)}
    functions = {function.graph: function for function in copy.functions.values()}
    for address, place in places.items():
        if place is None:
            raise KeyError(address)
        value, calls = place.value, list(place.calls)
        if "/" not in address and not calls:
            value.name = f"{address}_inside"
        while value.graph is not copy.graph:
            graph = value.graph
            assert graph is not None
            if graph in owners:
                value = _hand_out(owners[graph], graph, value)
            else:
                value = _return(copy, functions[graph], calls.pop(), value)
        value.name = address
    return copy


def _computed(graph: ir.Graph) -> dict[str, ir.Value]:
    """What the nodes of a graph and of its subgraphs compute, by names that occur once; the graph's own come first."""
    own = {value.name: value for node in graph for value in node.outputs if value.name}
    found: dict[str, list[ir.Value]] = {}
    for nested in _nested(graph):
        for node in nested:
            for value in node.outputs:
                if value.name:
                    found.setdefault(value.name, []).append(value)
    return own | {name: values[0] for name, values in found.items() if len(values) == 1 and name not in own}


def _nested(graph: ir.Graph) -> Iterator[ir.Graph]:
    for node in graph:
        for inner in subgraphs(node):
            yield inner
            yield from _nested(inner)


def _called(model: ir.Model, value: ir.Value) -> ir.Function | None:
    """The local function whose call has this value as its first output."""
    node = value.producer()
    return model.functions.get(node.op_identifier()) if node is not None and value is node.outputs[0] else None


def _return(model: ir.Model, function: ir.Function, call: ir.Node, value: ir.Value) -> ir.Value:
    """One more output of the function: the tensor of its body. Gives that of one call."""
    function.opset_imports.setdefault("", model.opset_imports.get("", 1))
    function.outputs.append(_again(function.graph, value))
    result: ir.Value | None = None
    for body in bodies(model):
        for node in body.nodes():
            if node.op_identifier() == function.identifier():
                # a call may leave out trailing outputs: the new one keeps its place behind them
                node.resize_outputs(len(function.outputs))
                handed = node.outputs[-1]
                handed.name, handed.type = f"{node.outputs[0].name}_gives_{len(node.outputs)}", value.type
                result = handed if node is call else result
    assert result is not None
    return result


def _hand_out(node: ir.Node, graph: ir.Graph, value: ir.Value) -> ir.Value:
    """One more output of the node: the tensor of its subgraph."""
    if not is_op(node, "If", "Loop", "Scan"):
        raise GraphoptError(
            f"'{value.name}' is inside {where(node)}", "taps", "only If, Loop and Scan can be looked into"
        )
    if value.dtype is None or not isinstance(value.type, ir.TensorType):
        raise GraphoptError(f"the type of '{value.name}' is not known", "taps", "only tensors can be tapped")
    graph.outputs.append(_again(graph, value))
    if is_op(node, "If"):
        for branch in subgraphs(node):
            if branch is not graph:
                nothing = ir.node(
                    "Constant", [], {"value": ir.tensor(np.zeros(0, value.dtype.numpy()), dtype=value.dtype)}
                )
                nothing.outputs[0].type = value.type
                nothing.outputs[0].name = f"{value.name}_absent_{len(branch.outputs)}"
                branch.append(nothing)
                branch.outputs.append(nothing.outputs[0])
    for attribute in ("scan_output_axes", "scan_output_directions"):
        if attribute in node.attributes:
            axes = (*node.attributes[attribute].as_ints(), 0)
            node.attributes.add(ir.AttrInt64s(attribute, axes))
    node.resize_outputs(len(node.outputs) + 1)
    result = node.outputs[-1]
    result.name, result.type = f"{value.name}_out_{len(node.outputs)}", value.type
    return result


def _again(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """The tensor under a name of its own: it may be an output already."""
    given = ir.node("Identity", [value])
    given.outputs[0].type = value.type
    given.outputs[0].name = f"{value.name}_given_{len(graph.outputs)}"
    graph.append(given)
    return given.outputs[0]
