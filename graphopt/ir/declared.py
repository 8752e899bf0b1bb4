"""What a model file says of shapes, and what inference has said of them: put aside, let go, given back.

A shape or type that a file declares is a hint, often stale. ``drop`` puts aside what has to come back, in the values'
and graphs' own ``meta``, and lets go of the rest; ``forget`` gives it back and erases what was inferred.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
from onnx_shape_inference import SYM_DATA_KEY

from .facts import is_op
from .recall import Memory
from .walk import Body, bodies, graphs, subgraphs

_SHAPE = "graphopt.declared_shape"
_TYPE = "graphopt.declared_type"
_OUTPUTS = "graphopt.declared_output_shapes"


def forget(model: ir.Model) -> None:
    """Drop all shapes but those of graph inputs and of constants, and the inferred elements.

    The inputs of subgraphs and the outputs of a Scan's body get back what the file declares: ONNX Runtime asks for it.
    Element types stay: a runtime refuses a file in which they are wrong.
    """
    Memory.erase(model)
    drop(model)
    for graph in graphs(model):
        for value in graph.inputs:
            if _SHAPE in value.meta:
                value.shape = value.meta.pop(_SHAPE)
        for value, shape in zip(graph.outputs, graph.meta.pop(_OUTPUTS, ()), strict=False):
            value.shape = value.shape if value.shape is not None else shape
    for value in _of_functions(model):
        if _TYPE in value.meta:
            value.type = value.meta.pop(_TYPE)


def drop(model: ir.Model, memory: Memory | None = None) -> None:
    """Let go of what is declared and of what was inferred; a node that is remembered does so when it is looked at."""
    for body in bodies(model):
        for graph in body.graphs():
            _drop_in(graph, memory, is_inner=graph is not model.graph)
    for value in _of_functions(model):
        value.meta.setdefault(_TYPE, value.type)
        value.type = value.meta[_TYPE]


def _drop_in(graph: ir.Graph, memory: Memory | None, *, is_inner: bool) -> None:
    for node in graph:
        if node.op_type == "Scan" and is_op(node, "Scan"):
            for inner in subgraphs(node):
                inner.meta.setdefault(_OUTPUTS, [value.shape for value in inner.outputs])
        if memory is None or not memory.has(node):
            for value in node.outputs:
                let_go(value)
    for value in graph.outputs:
        let_go(value)
    if is_inner:
        for value in graph.inputs:
            value.meta.setdefault(_SHAPE, value.shape)
            let_go(value)
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and not value.is_graph_input():
            if value.shape is None or value.shape.dims != tensor.shape.dims:
                value.shape = ir.Shape(tensor.shape.numpy())
            value.type = value.type or ir.TensorType(tensor.dtype)


def declared_shape(value: ir.Value) -> ir.Shape | None:
    """What the file says of an input of an inner graph; None when it says nothing."""
    return value.meta.get(_SHAPE)


def _of_functions(model: ir.Model) -> Iterator[ir.Value]:
    """Inputs and results of local functions: their types follow from the calls, and a file declares few of them."""
    for body in bodies(model):
        if body.function is not None:
            yield from _typed_by_calls(body)


def _typed_by_calls(body: Body) -> Iterator[ir.Value]:
    yield from body.graph.inputs
    for node in body.nodes():
        yield from node.outputs


def unbind(body: Body) -> None:
    """Let go of what another call of a local function has left behind."""
    for value in _typed_by_calls(body):
        let_go(value)
        value.type = value.meta.get(_TYPE)


def let_go(value: ir.Value) -> None:
    """Nothing is known of a value; an initialiser stays what it is."""
    if value.is_initializer():
        return
    value.shape = None
    if value.producer() is not None:
        value.const_value = None
    if SYM_DATA_KEY in value.metadata_props:
        del value.metadata_props[SYM_DATA_KEY]


@contextmanager
def defaults_hidden(body: Body) -> Iterator[None]:
    """The default of an overridable input is no fact: without their tensors while it lasts."""
    hidden = [
        (value, value.const_value)
        for value in body.graph.initializers.values()
        if value.is_graph_input() and value.const_value is not None
    ]
    for value, _ in hidden:
        value.const_value = None
    try:
        yield
    finally:
        for value, tensor in hidden:
            value.const_value = tensor
