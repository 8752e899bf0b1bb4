"""A 16-bit floating-point model simulated in float32, because ONNX Runtime's CPU provider does not compute in 16 bits.

    node(x, W) -> y : float16    becomes    y = r(node(x, W)) : float32,    r: Cast to float16 and back

and the same for bfloat16. Every number of such a model is one that the type holds; only inside a node does it compute
in float32, as GPUs and CPUs with such instructions do.

The CPU provider has next to no kernels for bfloat16. Nodes in float16 it wraps in casts to float32, and pairs of those
it drops, so that a chain of them is never rounded and never overflows: it proves nothing of the model.
"""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import onnx_ir as ir

from graphopt.ir import copy_model, graphs, is_op

NARROW = frozenset((ir.DataType.BFLOAT16, ir.DataType.FLOAT16))
WIDE = ir.DataType.FLOAT


def widened(model: ir.Model, kinds: Set[ir.DataType] = NARROW) -> ir.Model:
    """A copy that computes in float32 and rounds where the model holds 16 bits; itself where it holds none.

    Inputs and outputs of the model keep their types.

    Args:
        model: with the types of its tensors known; is not changed.
        kinds: which of the 16-bit types.
    """
    if not any(_is_one_of(kinds, value) for graph in graphs(model) for node in graph for value in node.outputs):
        return model
    copy = copy_model(model)
    given = {value for value in copy.graph.inputs if not value.is_initializer()}
    for graph in graphs(copy):
        for value in (*graph.inputs, *graph.initializers.values()):
            if value.const_value is not None and value.const_value.dtype in kinds:
                value.const_value = _wide(value.const_value)
            if _is_one_of(kinds, value) and value in given:
                _widen_input(copy.graph, value)
            elif _is_one_of(kinds, value):
                value.type = ir.TensorType(WIDE)
        for node in tuple(graph):
            _widen(graph, node, kinds, is_main=graph is copy.graph)
    return copy


def _widen_input(graph: ir.Graph, value: ir.Value) -> None:
    users = tuple(value.uses())
    wide = ir.node("Cast", [value], {"to": WIDE}, name=f"{value.name}.graphopt.widen")
    wide.outputs[0].name, wide.outputs[0].type = f"{value.name}.graphopt.wide", ir.TensorType(WIDE)
    for user, index in users:
        user.replace_input_with(index, wide.outputs[0])
    graph.insert_before(graph[0], wide)


def _widen(graph: ir.Graph, node: ir.Node, kinds: Set[ir.DataType], *, is_main: bool) -> None:
    for attribute in tuple(node.attributes.values()):
        if not attribute.is_ref() and attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            if tensor.dtype in kinds:
                node.attributes.add(ir.AttrTensor(attribute.name, _wide(tensor)))
    if is_op(node, "Cast") and node.attributes["to"].as_int() in kinds:
        node.attributes.add(ir.AttrInt64("to", WIDE))
    for value in node.outputs:
        if _is_one_of(kinds, value):
            narrow = ir.TensorType(value.dtype or WIDE)
            value.type = ir.TensorType(WIDE)
            if not is_op(node, "Constant") and (value.uses() or value.is_graph_output()):
                _round(graph, node, value, narrow, is_main=is_main)


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value, kind: ir.TensorType, *, is_main: bool) -> None:
    """Round a value for all that use it; an output of the model gives out the 16-bit number itself."""
    users, is_output, name = tuple(value.uses()), value.is_graph_output(), value.name
    there = ir.node("Cast", [value], {"to": kind.dtype}, name=f"{name}.graphopt.round")
    back = ir.node("Cast", there.outputs, {"to": WIDE}, name=f"{name}.graphopt.widen")
    narrow, wide = there.outputs[0], back.outputs[0]
    value.name, narrow.name, wide.name = f"{name}.graphopt.exact", f"{name}.graphopt.rounded", f"{name}.graphopt.wide"
    narrow.type, wide.type, narrow.shape, wide.shape = (
        kind,
        ir.TensorType(WIDE),
        value.shape,
        value.shape,
    )
    graph.insert_after(node, (there, back))
    for user, index in users:
        user.replace_input_with(index, wide)
    if is_output:
        given = narrow if is_main else wide
        given.name = name
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[index] = given


def _wide(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)


def _is_one_of(kinds: Set[ir.DataType], value: ir.Value) -> bool:
    return isinstance(value.type, ir.TensorType) and value.dtype in kinds
