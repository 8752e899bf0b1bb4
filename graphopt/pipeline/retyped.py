"""Running a model that takes or gives floating-point numbers of another width in the place of the original."""

from __future__ import annotations

import onnx_ir as ir

from ..ir import copy_model


def in_types_of(original: ir.Model, result: ir.Model) -> ir.Model:
    """The result with casts around it that give it the original's floating types; itself where it has them."""
    declared = {value.name: value.dtype for value in (*original.graph.inputs, *original.graph.outputs)}
    ports = (*result.graph.inputs, *result.graph.outputs)
    if all(declared.get(value.name) in (None, value.dtype) or value.dtype is None for value in ports):
        return result
    copy = copy_model(result)
    graph = copy.graph
    for index, inner in enumerate(graph.inputs):
        wanted, name = declared.get(inner.name), inner.name
        if wanted is None or inner.dtype in (None, wanted) or inner.is_initializer():
            continue
        inner.name = f"{name}_narrow"
        outer = ir.Value(name=name, type=ir.TensorType(wanted), shape=inner.shape)
        cast = ir.node("Cast", [outer], {"to": inner.dtype})
        graph.inputs[index] = outer
        cast.outputs[0].name, cast.outputs[0].type = f"{name}_cast", inner.type
        for user, position in tuple(inner.uses()):
            user.replace_input_with(position, cast.outputs[0])
        if len(graph):
            graph.insert_before(graph[0], cast)
        else:
            graph.append(cast)
    for index, inner in enumerate(graph.outputs):
        wanted, name = declared.get(inner.name), inner.name
        if wanted is None or inner.dtype in (None, wanted):
            continue
        inner.name = f"{name}_narrow"
        cast = ir.node("Cast", [inner], {"to": wanted})
        cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = name, ir.TensorType(wanted), inner.shape
        graph.append(cast)
        graph.outputs[index] = cast.outputs[0]
    return copy
