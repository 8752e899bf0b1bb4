"""What a Pad pads, in all its opset versions, and what is known of the sign of its input."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import onnx_ir as ir

from graphopt import ir as gir

from ._affine import Refusal

_NEVER_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs", "Exp")
_MOVES = ("Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout")
_KEEPS_SIGN = (*_MOVES, "MaxPool", "AveragePool")
_UNSIGNED = frozenset((ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64))
_LOWEST = {ir.DataType.INT8: -128, ir.DataType.UINT8: 0}


@dataclass(frozen=True, eq=False)
class Padding:
    """Constant padding.

    Attributes:
        source: the tensor that is padded.
        value: what with.
        begins: how much before each axis; negative axes count from the end.
        ends: how much behind.
        lowest: no element of the tensor's integer type is below the value.
    """

    source: ir.Value
    value: float
    begins: dict[int, int]
    ends: dict[int, int]
    lowest: bool

    def spatial(self, count: int) -> tuple[int, ...]:
        """The pads of the last ``count`` of ``count + 2`` axes: all begins, then all ends.

        Raises:
            Refusal: batch or channels are padded, or something is cut off.
        """
        rank = count + 2
        pads = [0] * (2 * rank)
        for offset, sizes in ((0, self.begins), (rank, self.ends)):
            for axis, size in sizes.items():
                if not -rank <= axis < rank:
                    raise Refusal(f"it has no axis {axis}")
                pads[offset + axis % rank] = size
        if min(pads) < 0:
            raise Refusal("it cuts off elements (negative pads)")
        if any(pads[:2]) or any(pads[rank : rank + 2]):
            raise Refusal("it pads the batch or the channels")
        return (*pads[2:rank], *pads[rank + 2 :])


def padding(node: ir.Node, version: int) -> Padding:
    """What a Pad does.

    Raises:
        Refusal: it is not known, or no constant padding.
    """
    if gir.has_reference(node):
        raise Refusal("an attribute of it is a parameter of the function")
    mode = gir.attribute(node, "mode", "constant")
    if mode != "constant":
        raise Refusal(f"it pads by {mode}, not with a constant")
    source = node.inputs[0]
    assert source is not None
    inputs = (*node.inputs, None, None, None)
    axes = None
    if version < 11:
        pads = gir.attribute(node, "pads" if version >= 2 else "paddings")
        value: float | None = gir.attribute(node, "value", 0.0)
    else:
        pads = gir.known_ints(inputs[1])
        value = 0.0 if inputs[2] is None else gir.scalar(inputs[2])
        if inputs[3] is not None:
            axes = gir.known_ints(inputs[3])
            if axes is None:
                raise Refusal("its axes are not known")
    if pads is None:
        raise Refusal("how much it pads is not known")
    if value is None:
        raise Refusal("what it pads with is not known")
    half = len(pads) // 2
    axes = tuple(range(half)) if axes is None else axes
    if len(axes) != half:
        raise Refusal("its pads and axes do not match")
    lowest = source.dtype is not None and _LOWEST.get(source.dtype) == value
    begins, ends = dict(zip(axes, pads[:half], strict=True)), dict(zip(axes, pads[half:], strict=True))
    return Padding(source, value, begins, ends, lowest)


def is_never_negative(value: ir.Value) -> bool:
    """True when the operators before a value leave nothing below zero; looks at most eight nodes back."""
    for _ in range(8):
        if value.dtype in _UNSIGNED:
            return True
        node = value.producer()
        if node is None or value is not node.outputs[0]:
            return False
        if gir.is_op(node, *_NEVER_NEGATIVE):
            return True
        if gir.is_op(node, "Clip"):
            return not gir.has_reference(node) and _clip_low(node) >= 0
        source = node.inputs[0] if node.inputs else None
        if not gir.is_op(node, *_KEEPS_SIGN) or source is None:
            return False
        value = source
    return False


def _clip_low(node: ir.Node) -> float:
    """The lower bound of a Clip, as attribute (before opset 11) or input."""
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        bound = gir.scalar(node.inputs[1])
        return -inf if bound is None else bound
    return float(gir.attribute(node, "min", -inf))
