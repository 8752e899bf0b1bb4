"""The linear operator before or after a value, where nothing else uses what lies between."""

from __future__ import annotations

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.rewrite.uses import use_count

from ._affine import FLOATS, Refusal
from ._linear import OPERATORS, Linear


def linear(node: ir.Node, version: int) -> Linear | None:
    """A node as a linear operator without its bias' Add; None when it is none, or a product of two variables.

    Raises:
        Refusal: it is one, but its weights cannot be changed.
    """
    if not gir.is_op(node, *OPERATORS) or len(node.inputs) < 2:
        return None
    name = gir.where(node)
    weights = gir.constant(node.inputs[1])
    if weights is None:
        if node.op_type == "MatMul":
            return None
        value = node.inputs[1]
        also_input = value is not None and value.is_initializer()
        why = "also an input of the model, which a caller may override" if also_input else "not constant"
        raise Refusal(f"the weights of {name} are {why}")
    if gir.has_reference(node):
        raise Refusal(f"{name} has an attribute that is a parameter of the function")
    if weights.dtype not in FLOATS:
        raise Refusal(f"the weights of {name} are {weights.dtype.name}")
    if node.op_type == "Gemm" and version < 7:
        raise Refusal("the Gemm of operator sets below 7 broadcasts by attribute")
    elements = weights.numpy()
    rank = elements.ndim
    if rank != 2 if node.op_type in ("Gemm", "MatMul") else rank < 3:
        raise Refusal(f"the weights of {name} have {rank} dimensions")
    groups = int(gir.attribute(node, "group", 1)) if node.op_type.startswith("Conv") else 1
    if groups < 1 or elements.shape[0] % groups:
        raise Refusal(f"the weights of {name} do not divide into {groups} groups")
    return Linear(node, node, elements, groups)


def only_user(value: ir.Value) -> ir.Node | None:
    """The only reader of a value, which reads it once and in the same graph; None also for an output."""
    if use_count(value) != 1 or value.is_graph_output():
        return None
    ((user, _),) = value.uses()
    producer = value.producer()
    return user if producer is not None and user.graph is producer.graph else None


def producing(value: ir.Value, version: int) -> Linear | None:
    """The linear operator, with its bias, that computes a value; None when another operator does.

    Raises:
        Refusal: see ``linear``.
    """
    node = value.producer()
    if node is None:
        return None
    if gir.is_op(node, "Add") and version >= 7:
        for operand, other in (node.inputs, reversed(tuple(node.inputs))):
            before = operand.producer() if operand is not None else None
            if before is None or not gir.is_op(before, "MatMul") or only_user(before.outputs[0]) is not node:
                continue
            found = linear(before, version)
            if found is None or gir.constant(other) is None:
                continue
            with_bias = Linear(before, node, found.weights, 1)
            with_bias.bias()
            return with_bias
        return None
    return linear(node, version)


def consuming(value: ir.Value, version: int) -> Linear | None:
    """The linear operator that is the only reader of a value and reads it as data, with its bias; or None.

    Raises:
        Refusal: see ``linear``.
    """
    node = only_user(value)
    if node is None or not gir.is_op(node, *OPERATORS) or node.inputs[0] is not value:
        return None
    found = linear(node, version)
    if found is None or node.op_type != "MatMul":
        return found
    add = only_user(node.outputs[0])
    if add is None or not gir.is_op(add, "Add") or version < 7:
        return found
    whole = None
    try:
        whole = producing(add.outputs[0], version)
    except Refusal:
        return found  # what is added is no bias
    return whole or found
