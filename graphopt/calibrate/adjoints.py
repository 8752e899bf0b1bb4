"""What each operator makes of a gradient on its way back: dL/dx of dL/dy, as ONNX nodes.

    y = f(x)              dx = dy f'(x)
    y = x + c, x c, ...   the sum of dy, dy c over what was broadcast

Gradients of activations only, never of weights. Windows (Conv, pools) are in ``adjoint_windows``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from .adjoint_windows import average_pool, conv, conv_transpose, max_pool
from .trail import Rule, Trail


def adjoint(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value | None:
    """The gradient of an operand of a node, from that of its first result; None where no rule knows it."""
    rule = _RULES.get(node.op_type) if node.domain in gir.STANDARD_DOMAINS else None
    return rule(trail, node, gradient, index) if rule is not None else None


def _normalization(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value | None:
    scale, variance = gir.array(node.inputs[1]), gir.array(node.inputs[4])
    if index or scale is None or variance is None:
        return None
    slope = scale / np.sqrt(variance + gir.attribute(node, "epsilon", 1e-5))
    rank = len(trail.shape(node.inputs[0]))
    return trail.op("Mul", [gradient, trail.constant(slope.reshape(-1, *[1] * (rank - 2)))])


def _relu(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value:
    return trail.where(trail.op("Greater", [node.outputs[0], trail.constant(0.0)]), gradient)


def _clip(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value | None:
    if index:
        return None
    same = trail.op("Equal", [node.outputs[0], node.inputs[0]])  # that is, between the ends
    return trail.where(same, gradient)


def _leaky(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value:
    slope = trail.op("Mul", [gradient, trail.constant(gir.attribute(node, "alpha", 0.01))])
    return trail.op("Where", [trail.op("Less", [node.inputs[0], trail.constant(0.0)]), slope, gradient])


def _sigmoid(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value:
    y = node.outputs[0]
    slope = trail.op("Mul", [y, trail.op("Sub", [trail.constant(1.0), y])])
    return trail.op("Mul", [gradient, slope])


def _tanh(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value:
    y = node.outputs[0]
    slope = trail.op("Sub", [trail.constant(1.0), trail.op("Mul", [y, y])])
    return trail.op("Mul", [gradient, slope])


def _hard_sigmoid(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value:
    y = node.outputs[0]
    inside = trail.op(
        "And",
        [trail.op("Greater", [y, trail.constant(0.0)]), trail.op("Less", [y, trail.constant(1.0)])],
    )
    return trail.where(inside, trail.op("Mul", [gradient, trail.constant(gir.attribute(node, "alpha", 0.2))]))


def _hard_swish(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value:
    x = node.inputs[0]
    slope = trail.op("Add", [trail.op("Mul", [x, trail.constant(1 / 3)]), trail.constant(0.5)])
    inside = trail.where(trail.op("Greater", [x, trail.constant(-3.0)]), trail.op("Mul", [gradient, slope]))
    return trail.op("Where", [trail.op("Less", [x, trail.constant(3.0)]), inside, gradient])


def _as_it_is(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value | None:
    return None if index else gradient


def _sum(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value:
    given, wanted = trail.shape(node.outputs[0]), trail.shape(node.inputs[index])
    signed = trail.op("Neg", [gradient]) if node.op_type == "Sub" and index else gradient
    return trail.summed_to(signed, given, wanted)


def _product(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value:
    other = node.inputs[1 - index]
    found = trail.op("Mul", [gradient, other])
    return trail.summed_to(found, trail.shape(node.outputs[0]), trail.shape(node.inputs[index]))


def _quotient(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value:
    found = trail.op("Div", [gradient, node.inputs[1]])
    if index:
        found = trail.op("Neg", [trail.op("Mul", [found, node.outputs[0]])])
    return trail.summed_to(found, trail.shape(node.outputs[0]), trail.shape(node.inputs[index]))


def _mean(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value | None:
    shape = trail.shape(node.inputs[0])
    if index:
        return None
    if node.op_type == "GlobalAveragePool":
        axes: Sequence[int] | None = range(2, len(shape))
    else:
        axes = gir.attribute(node, "axes", None)
        if axes is None and len(node.inputs) > 1:
            axes = trail.ints(node.inputs[1])
        if not axes:
            return None
    reduced = {axis % len(shape) for axis in axes}
    kept = tuple(1 if axis in reduced else size for axis, size in enumerate(shape))
    share = float(np.prod([shape[axis] for axis in reduced])) if node.op_type != "ReduceSum" else 1.0
    each = trail.op("Mul", [trail.reshaped(gradient, kept), trail.constant(1 / share)])
    return trail.op("Expand", [each, trail.constant(shape, np.int64)])


def _other_shape(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value | None:
    return None if index else trail.reshaped(gradient, trail.shape(node.inputs[0]))


def _transpose(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value:
    rank = len(trail.shape(node.inputs[0]))
    order = gir.attribute(node, "perm", list(range(rank))[::-1])
    return trail.op("Transpose", [gradient], perm=[int(axis) for axis in np.argsort(order)])


def _concat(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value:
    shape = trail.shape(node.inputs[index])
    axis = gir.attribute(node, "axis", 0) % len(shape)
    start = sum(trail.shape(value)[axis] for value in node.inputs[:index])
    return _cut(trail, gradient, [start], [start + shape[axis]], [axis])


def _cut(trail: Trail, value: ir.Value, starts: list[int], ends: list[int], axes: list[int]) -> ir.Value:
    operands = [trail.constant(numbers, np.int64) for numbers in (starts, ends, axes)]
    return trail.op("Slice", [value, *operands])


def _pad(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value | None:
    pads = trail.ints(node.inputs[1])
    shape = trail.shape(node.inputs[0])
    axes = trail.ints(node.inputs[3]) if len(node.inputs) > 3 else None
    whole = gir.attribute(node, "mode", "constant") == "constant" and axes is None
    if index or pads is None or not whole or min(pads) < 0:
        return None
    starts = pads[: len(shape)]
    ends = [start + size for start, size in zip(starts, shape, strict=True)]
    return _cut(trail, gradient, starts, ends, list(range(len(shape))))


def _slice(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value | None:
    shape = trail.shape(node.inputs[0])
    if index or len(node.inputs) < 3:
        return None
    starts, ends = trail.ints(node.inputs[1]), trail.ints(node.inputs[2])
    axes = trail.ints(node.inputs[3]) if len(node.inputs) > 3 else None
    steps = trail.ints(node.inputs[4]) if len(node.inputs) > 4 else None
    if starts is None or ends is None or (steps is not None and set(steps) != {1}):
        return None
    before, after = [0] * len(shape), [0] * len(shape)
    for start, end, axis in zip(starts, ends, axes if axes is not None else range(len(starts)), strict=True):
        first, last, _ = slice(start, end).indices(shape[axis])
        before[axis], after[axis] = first, shape[axis] - last
    return trail.op("Pad", [gradient, trail.constant([*before, *after], np.int64)])


def _matrices(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value | None:
    """The left operand of a product with one matrix."""
    weight = gir.array(node.inputs[1])
    if index or weight is None or weight.ndim != 2:
        return None
    if node.op_type == "Gemm":
        if gir.attribute(node, "transA", 0):
            return None
        weight = weight.T if gir.attribute(node, "transB", 0) else weight
        weight = weight * gir.attribute(node, "alpha", 1.0)
    return trail.op("MatMul", [gradient, trail.constant(np.ascontiguousarray(weight.T))])


_RULES: dict[str, Rule] = {
    "Add": _sum,
    "AveragePool": average_pool,
    "BatchNormalization": _normalization,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Div": _quotient,
    "Dropout": _as_it_is,
    "Flatten": _other_shape,
    "Gemm": _matrices,
    "GlobalAveragePool": _mean,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": _as_it_is,
    "LeakyRelu": _leaky,
    "MatMul": _matrices,
    "MaxPool": max_pool,
    "Mul": _product,
    "Pad": _pad,
    "ReduceMean": _mean,
    "ReduceSum": _mean,
    "Relu": _relu,
    "Reshape": _other_shape,
    "Sigmoid": _sigmoid,
    "Slice": _slice,
    "Squeeze": _other_shape,
    "Sub": _sum,
    "Tanh": _tanh,
    "Transpose": _transpose,
    "Unsqueeze": _other_shape,
}
