"""Walking a ``ModelProto``: every graph, every node and every tensor in it, with the place for messages.

Only what must be looked at before ``onnx_ir`` deserialises is looked at here; everything else works on the
IR.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import onnx

from graphopt.errors import GraphoptError

from .structure import Named, Root, Step, View

Graphs = onnx.GraphProto | onnx.FunctionProto


def node_place(node: onnx.NodeProto) -> str:
    """``Conv 'conv1'``: the node's name, or its first output where it has none."""
    operator = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
    return f"{operator} '{node.name or next((name for name in node.output if name), '')}'"


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's own attributes, one level deep."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def graphs(root: Graphs) -> Iterator[Graphs]:
    """A graph or function and the graphs nested in it, outer before inner."""
    pending = [root]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph.node:
            if node.attribute:
                pending.extend(subgraphs(node))


def roots(proto: onnx.ModelProto) -> Iterator[Graphs]:
    """The main graph and the local functions."""
    yield proto.graph
    yield from proto.functions


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor and where it was found.

    Attributes:
        tensor: the tensor itself, not a copy.
        place: ``initializer 'w'`` or ``attribute 'value' of Constant 'c'``.
        dense: false for the values and indices of a sparse tensor.
    """

    tensor: onnx.TensorProto
    place: str
    dense: bool = True


def tensors(root: Graphs) -> Iterator[Held]:
    """Every tensor of a graph or function: initialisers, sparse parts, attributes, nested graphs."""
    for graph in graphs(root):
        if isinstance(graph, onnx.GraphProto):
            for tensor in graph.initializer:
                yield Held(tensor, f"initializer '{tensor.name}'")
            for sparse in graph.sparse_initializer:
                yield from _parts(sparse, f"sparse initializer '{sparse.values.name}'")
        else:
            yield from _of_attributes(graph.attribute_proto, f"function '{graph.name}'")
        for node in graph.node:
            if node.attribute:
                yield from _of_attributes(node.attribute, node)


def _of_attributes(attributes: Sequence[onnx.AttributeProto], owner: onnx.NodeProto | str) -> Iterator[Held]:
    for attribute in attributes:
        kind = attribute.type
        if kind not in _WITH_TENSORS:
            continue
        place = f"attribute '{attribute.name}' of {owner if isinstance(owner, str) else node_place(owner)}"
        if kind == onnx.AttributeProto.TENSOR:
            yield Held(attribute.t, place)
        elif kind == onnx.AttributeProto.TENSORS:
            for tensor in attribute.tensors:
                yield Held(tensor, place)
        elif kind == onnx.AttributeProto.SPARSE_TENSOR:
            yield from _parts(attribute.sparse_tensor, place)
        else:
            for sparse in attribute.sparse_tensors:
                yield from _parts(sparse, place)


_WITH_TENSORS = frozenset(
    (
        onnx.AttributeProto.TENSOR,
        onnx.AttributeProto.TENSORS,
        onnx.AttributeProto.SPARSE_TENSOR,
        onnx.AttributeProto.SPARSE_TENSORS,
    )
)


def _parts(sparse: onnx.SparseTensorProto, place: str) -> Iterator[Held]:
    yield Held(sparse.values, place, dense=False)
    yield Held(sparse.indices, place, dense=False)


def views(proto: onnx.ModelProto) -> Iterator[Root]:
    """The graphs of a parsed file as ``graphopt.ir.structure`` wants them.

    Raises:
        GraphoptError: a node has an attribute twice, or one without a type: ``onnx_ir`` would drop its value.
    """
    yield Root(_view(proto.graph, "the main graph"), _opsets(proto.opset_import))
    for function in proto.functions:
        place = f"function {function.domain}::{function.name}"
        view = View(
            place,
            _names(function.input),
            [],
            lambda nodes=function.node: map(_step, nodes),
            _names(function.output),
        )
        key = (_domain(function.domain), function.name, function.overload)
        yield Root(view, _opsets(function.opset_import), key)


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _opsets(imports: Sequence[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {_domain(entry.domain): entry.version for entry in imports}


def _names(names: Sequence[str]) -> list[Named]:
    return [(name, None) for name in names]


def _view(graph: onnx.GraphProto, place: str) -> View:
    initializers: list[Named] = [(tensor.name, None) for tensor in graph.initializer]
    initializers.extend((sparse.values.name, None) for sparse in graph.sparse_initializer)
    return View(
        place,
        [(info.name, None) for info in graph.input],
        initializers,
        lambda: map(_step, graph.node),
        [(info.name, None) for info in graph.output],
    )


def _step(node: onnx.NodeProto) -> Step:
    bodies: list[View] = []
    attributes = node.attribute
    if attributes:
        names = {attribute.name for attribute in attributes}
        if len(names) != len(attributes):
            raise GraphoptError("a node has one of its attributes twice", node_place(node), "the model is damaged")
        for attribute in attributes:
            if attribute.type == onnx.AttributeProto.UNDEFINED and not attribute.ref_attr_name:
                raise GraphoptError(
                    f"the attribute '{attribute.name}' has no type",
                    node_place(node),
                    "convert the model to IR version 3",
                )
        bodies = [_view(graph, f"graph '{graph.name}' of {node_place(node)}") for graph in subgraphs(node)]
    domain = _domain(node.domain)
    return Step(
        partial(node_place, node),
        domain,
        _names(node.input),
        _names(node.output),
        bodies,
        (domain, node.op_type, node.overload),
    )
