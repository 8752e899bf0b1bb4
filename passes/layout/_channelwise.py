"""Operators that treat each channel by itself, and what grows in them when there are more channels.

A channel of zeros, and what becomes of it, has to stay finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

# f(0) is finite
_UNARY = frozenset(
    (
        *("Abs", "Cast", "Ceil", "Celu", "Clip", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish"),
        *("Identity", "LeakyRelu", "Mish", "Neg", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign"),
        *("Sqrt", "Swish", "Tanh", "ThresholdedRelu"),
    )
)
_POOLS = frozenset(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"))
_BINARY = {"Add": 0.0, "Div": 1.0, "Max": 0.0, "Min": 0.0, "Mul": 0.0, "PRelu": 0.0, "Sub": 0.0}  # what constants get
_NORMS = {"BatchNormalization": (0.0, 0.0, 0.0, 1.0), "InstanceNormalization": (0.0, 0.0)}


@dataclass(frozen=True)
class Growth:
    """A constant operand that gets more entries along an axis."""

    node: ir.Node
    index: int
    axis: int
    fill: float = 0.0


Operands = tuple[list[int], list[Growth]]


def operands(node: ir.Node, channels: int, version: int) -> Operands | None:
    """Which operands have the channels, and what grows with them; None when there cannot be more."""
    if node.op_type in _UNARY or node.op_type in _POOLS:
        return [0], []
    if node.op_type == "Conv":  # depthwise
        return [0], [Growth(node, index, 0) for index in range(1, len(node.inputs)) if node.inputs[index] is not None]
    if node.op_type in _NORMS:
        return _norm(node, channels, _NORMS[node.op_type])
    if node.op_type in _BINARY:
        return _binary(node, channels)
    keeps = _KEEPS.get(node.op_type)
    return ([0], []) if keeps is not None and keeps(node, version) else None


def _norm(node: ir.Node, channels: int, fills: tuple[float, ...]) -> Operands | None:
    growths: list[Growth] = []
    for index, fill in enumerate(fills, start=1):
        tensor = gir.constant(node.inputs[index]) if index < len(node.inputs) else None
        if tensor is None or list(tensor.shape.numpy()) != [channels]:
            return None
        growths.append(Growth(node, index, 0, fill))
    return None if gir.attribute(node, "training_mode", 0) else ([0], growths)


def _binary(node: ir.Node, channels: int) -> Operands | None:
    """Operands with one channel are broadcast, those with as many as the chain grow or belong to it."""
    ranks = [gir.rank(value) for value in node.inputs]
    if None in ranks or channels == 1:  # one channel would be broadcast to those of the other operand
        return None
    rank = max(item for item in ranks if item is not None)
    inside: list[int] = []
    growths: list[Growth] = []
    for index, value in enumerate(node.inputs):
        shape = gir.dims(value)
        assert shape is not None
        is_constant = gir.constant(value) is not None
        divides = index == 1 and node.op_type == "Div"
        axis = 1 - (rank - len(shape))
        size = shape[axis] if axis >= 0 else 1
        if size != 1 and size != channels:
            return None
        if size == 1:
            if divides and not is_constant:
                return None  # 0 / 0
        elif is_constant:
            growths.append(Growth(node, index, axis, _BINARY[node.op_type]))
        elif divides or len(shape) != rank or (index == 1 and node.op_type == "PRelu"):
            return None
        else:
            inside.append(index)
    return (inside, growths) if inside else None


def _pad_keeps(node: ir.Node, version: int) -> bool:
    pads = gir.attribute(node, "pads") if version < 11 else gir.known_ints(node.inputs[1])
    if pads is None or (len(node.inputs) > 3 and node.inputs[3] is not None):
        return False
    if gir.attribute(node, "mode", "constant") == "constant":
        filled = gir.attribute(node, "value", 0.0) if version < 11 else _filled(node)
        if filled is None or not np.isfinite(filled):
            return False
    return pads[1] == 0 and pads[1 + len(pads) // 2] == 0


def _filled(node: ir.Node) -> float | None:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    return 0.0 if value is None else gir.scalar(value)


def _resize_keeps(node: ir.Node, version: int) -> bool:
    if version < 11 or "axes" in node.attributes or (len(node.inputs) > 3 and node.inputs[3] is not None):
        return False
    scales = gir.array(node.inputs[2], max_elements=8) if len(node.inputs) > 2 else None
    mode = gir.attribute(node, "coordinate_transformation_mode", "half_pixel")
    return scales is not None and scales.size > 1 and scales.reshape(-1)[1] == 1 and mode != "tf_crop_and_resize"


def _reduction_keeps(node: ir.Node, version: int) -> bool:
    given = node.inputs[1] if len(node.inputs) > 1 else None
    axes = gir.attribute(node, "axes") if version < 18 else gir.known_ints(given)
    rank = gir.rank(node.inputs[0])
    if not axes or rank is None or not gir.attribute(node, "keepdims", 1):
        return False
    return all(axis % rank != 1 for axis in axes)


_KEEPS: dict[str, Callable[[ir.Node, int], bool]] = {
    "Pad": _pad_keeps,
    "ReduceMax": _reduction_keeps,
    "ReduceMean": _reduction_keeps,
    "Resize": _resize_keeps,
}
