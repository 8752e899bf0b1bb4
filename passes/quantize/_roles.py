"""What each operand of a node is when the node is computed on integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.integers import Integers

FLOAT = ir.DataType.FLOAT

MAX_SUM = (2**31 - 1) // (255 * 127)
"""How many products of a uint8 and an int8 code a sum of 32 bits surely holds."""


@dataclass(frozen=True, eq=False)
class Roles:
    """A node as integers would compute it.

    Attributes:
        node: the node.
        kind: ``product`` (has weights), ``computing`` or ``moving`` (see ``graphopt.integers``).
        activations: operands that change from run to run, by index.
        constants: constant operands that are quantised like activations.
        weight: index of the weight; None without.
        axis: of the weight's output channels.
        bias: index of a bias that becomes int32; None without.
        depth: how many products one sum adds up.
        needs_result: it is computed on integers only when its result is quantised too.
        dynamic: the weight is an activation: a product of two of them.
    """

    node: ir.Node
    kind: str
    activations: tuple[int, ...] = ()
    constants: tuple[int, ...] = ()
    weight: int | None = None
    axis: int | None = None
    bias: int | None = None
    depth: int = 1
    needs_result: bool = True


def roles(node: ir.Node, integers: Integers) -> Roles | str | None:
    """The roles of a node's operands; a reason when something about it speaks against; None when its operator does.

    Args:
        node: of the main graph, with shapes and types known as far as inference goes.
        integers: of the target.
    """
    if node.domain not in gir.STANDARD_DOMAINS:
        return None
    if node.op_type in integers.products:
        return _product(node, integers)
    first = next((value for value in node.inputs if value is not None), None)
    if first is None or first.dtype != FLOAT:
        return None
    if node.op_type in integers.computing:
        return _computing(node)
    if node.op_type in integers.moving and gir.constant(node.inputs[0]) is None:
        return Roles(node, "moving", activations=(0,))
    return None


def _product(node: ir.Node, integers: Integers) -> Roles | str:
    source, weight = node.inputs[0], node.inputs[1]
    needs_result = integers.products[node.op_type] == "quantised"
    if source is None or weight is None or source.dtype != FLOAT:
        kind = source.dtype.name if source is not None and source.dtype is not None else "not known"
        return f"its element type is {kind}"
    tensor = gir.constant(weight)
    if tensor is None:
        if gir.constant(source) is not None:
            return "its first operand is the constant one"
        if not integers.products_of_activations or node.op_type != "MatMul":
            return "both operands are activations"
        return Roles(node, "product", activations=(0, 1), needs_result=needs_result)
    if gir.constant(source) is not None:
        return "both operands are constants"
    if tensor.dtype != FLOAT:
        return f"its weight is {tensor.dtype.name}"
    elements = tensor.numpy()
    if elements.ndim < 2 or not elements.size:
        return f"its weight has the shape {list(elements.shape)}"
    if not np.isfinite(elements).all():
        return f"the weight '{weight.name}' holds NaN or infinities"
    axis = channel_axis(node, elements.ndim)
    depth = elements.size // elements.shape[axis]
    if node.op_type == "ConvTranspose":
        depth = int(np.prod(elements.shape[2:])) * elements.shape[0] // gir.attribute(node, "group", 1)
    if depth > MAX_SUM:
        return f"a sum of {depth:,} products may overflow 32 bits"
    if node.op_type == "Gemm" and gir.attribute(node, "transA", 0):
        return "its first operand is transposed"
    bias = 2 if len(node.inputs) > 2 and node.inputs[2] is not None else None
    if bias is not None:
        reason = _bias_refusal(node, elements.shape[axis])
        if reason:
            return reason
    if node.op_type == "Gemm" and gir.attribute(node, "alpha", 1.0) != 1.0:
        return "alpha is not 1"
    return Roles(node, "product", (0,), (), 1, axis, bias, depth, needs_result)


def _bias_refusal(node: ir.Node, channels: int) -> str:
    tensor = gir.constant(node.inputs[2])
    if tensor is None:
        return "its bias is no constant"
    if tensor.size != channels or (node.op_type == "Gemm" and gir.attribute(node, "beta", 1.0) != 1.0):
        return "its bias is not one number for each channel"
    if not np.isfinite(tensor.numpy()).all():
        return "its bias holds NaN or infinities"
    return ""


def _computing(node: ir.Node) -> Roles | str:
    activations, constants = [], []
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype != FLOAT:
            if node.op_type == "Where" and index == 0:
                continue
            return "an operand is missing or is no float tensor"
        tensor = gir.constant(value)
        if tensor is None:
            activations.append(index)
        elif not np.isfinite(tensor.numpy()).all():
            return f"the constant '{value.name}' holds NaN or infinities"
        else:
            constants.append(index)
    if not activations:
        return "all operands are constants"
    return Roles(node, "computing", tuple(activations), tuple(constants))


def channel_axis(node: ir.Node, rank: int) -> int:
    """The axis of a product's weight along which its output channels lie.

    Of a grouped ConvTranspose the axis holds the channels of one group.
    """
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        return 0 if gir.attribute(node, "transB", 0) else 1
    return rank - 1
