"""What a mask can hold, by intervals: does it reach the least number of its type, can it be minus infinity?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

FLOATING = frozenset((ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE))

_ORDINARY = 1e30  # what no product, sum or embedding of a network that works comes near
_LARGEST_CONSTANT = 1 << 22
_DEEPEST = 40


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where the elements of a tensor lie.

    Attributes:
        low: no finite element is less.
        high: no finite element is greater.
        infinite: an element may be minus infinity. Infinities that arise only where finite numbers overflow
            (2 * -3e38) do not count, except in a sum of two masks.
    """

    low: float
    high: float
    infinite: bool = False

    def joined(self, other: Bounds) -> Bounds:
        """Elements of the one or the other."""
        return Bounds(min(self.low, other.low), max(self.high, other.high), self.infinite or other.infinite)

    def plus(self, other: Bounds, dtype: ir.DataType) -> Bounds:
        """Their sum, in a type: two masks that both hold its least number add up to minus infinity."""
        least = lowest(dtype)
        low = max(self.low, least) + max(other.low, least)
        overflows = low <= least * (1 + float(np.finfo(dtype.numpy()).eps) / 4)
        return Bounds(max(low, least), self.high + other.high, self.infinite or other.infinite or overflows)

    def times(self, other: Bounds) -> Bounds:
        """Their product."""
        corners = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return Bounds(min(corners), max(corners), self.infinite or other.infinite)

    def negated(self) -> Bounds:
        """The same with the other sign."""
        return Bounds(-self.high, -self.low, self.infinite)


ORDINARY = Bounds(-_ORDINARY, _ORDINARY)
UNKNOWN = Bounds(-np.finfo(np.float64).max, np.finfo(np.float64).max, True)
_BOOLEAN = Bounds(0, 1)
_INTEGER = Bounds(-(2.0**63), 2.0**64)

_MOVERS = frozenset(
    ("Identity", "Expand", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Slice", "Gather", "Split")
) | frozenset(("GatherElements", "GatherND", "Tile", "DepthToSpace", "SpaceToDepth"))
_COMPUTERS = frozenset(
    ("MatMul", "Gemm", "Einsum", "Conv", "Relu", "Sigmoid", "Tanh", "Sin", "Cos", "Erf", "Gelu", "Softmax", "Clip")
) | frozenset(("LayerNormalization", "ReduceSum", "ReduceMean", "Sqrt", "Abs", "Exp", "Softplus"))


def lowest(dtype: ir.DataType) -> float:
    """The least finite number of a floating-point type."""
    return float(np.finfo(dtype.numpy()).min)


def above_lowest(dtype: ir.DataType) -> float:
    """The number next to the least one."""
    kind = dtype.numpy()
    return float(np.nextafter(np.finfo(kind).min, kind.type(0)))


class BoundsReader:
    """Finds the bounds of values; each value is looked at once."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, Bounds] = {}

    def of(self, value: ir.Value | None, depth: int = 0) -> Bounds:
        """The bounds of a value's elements."""
        if value is None or depth > _DEEPEST:
            return UNKNOWN
        found = self._known.get(value)
        if found is None:
            found = self._known[value] = self._look(value, depth)
        return found

    def _look(self, value: ir.Value, depth: int) -> Bounds:
        tensor = gir.constant(value)
        if tensor is not None:
            return _of_constant(tensor)
        if value.dtype is None:
            return UNKNOWN
        if value.dtype == ir.DataType.BOOL:
            return _BOOLEAN
        if value.dtype.is_integer():
            return _INTEGER
        node = value.producer()
        if node is None or node.domain not in gir.STANDARD_DOMAINS or gir.has_reference(node):
            return UNKNOWN

        def operand(index: int) -> Bounds:
            return self.of(node.inputs[index] if index < len(node.inputs) else None, depth + 1)

        if node.op_type in _MOVERS:
            return operand(0)
        if node.op_type in _COMPUTERS:
            return ORDINARY
        rule = _RULES.get(node.op_type)
        return UNKNOWN if rule is None else rule(node, operand)


def _of_constant(tensor: ir.TensorProtocol) -> Bounds:
    if tensor.size > _LARGEST_CONSTANT or tensor.size == 0 or tensor.dtype == ir.DataType.STRING:
        return UNKNOWN
    elements = tensor.numpy().astype(np.float64)
    if np.isnan(elements).any() or np.isposinf(elements).any():
        return UNKNOWN
    finite = elements[np.isfinite(elements)]
    infinite = finite.size < elements.size
    return Bounds(float(finite.min()), float(finite.max()), infinite) if finite.size else Bounds(0, 0, True)


_Operand = Callable[[int], Bounds]


def _all(node: ir.Node, operand: _Operand) -> Sequence[Bounds]:
    return [operand(index) for index in range(len(node.inputs))]


def _joined(node: ir.Node, operand: _Operand) -> Bounds:
    first, *others = _all(node, operand)
    for other in others:
        first = first.joined(other)
    return first


def _max(node: ir.Node, operand: _Operand) -> Bounds:
    found = _all(node, operand)
    return Bounds(
        max(item.low for item in found), max(item.high for item in found), all(item.infinite for item in found)
    )


def _add(node: ir.Node, operand: _Operand) -> Bounds:
    dtype = node.outputs[0].dtype
    return UNKNOWN if dtype is None or dtype not in FLOATING else operand(0).plus(operand(1), dtype)


def _sub(node: ir.Node, operand: _Operand) -> Bounds:
    left, right = operand(0), operand(1)
    if right.infinite:  # x - (-inf) is +inf
        return UNKNOWN
    return _clamped(node, Bounds(left.low - right.high, left.high - right.low, left.infinite))


def _mul(node: ir.Node, operand: _Operand) -> Bounds:
    left, right = operand(0), operand(1)
    return UNKNOWN if left.infinite or right.infinite else _clamped(node, left.times(right))


def _div(node: ir.Node, operand: _Operand) -> Bounds:
    divisor = gir.scalar(node.inputs[1])
    if not divisor or operand(0).infinite:
        return UNKNOWN
    return _clamped(node, operand(0).times(Bounds(1 / divisor, 1 / divisor)))


def _neg(node: ir.Node, operand: _Operand) -> Bounds:
    return UNKNOWN if operand(0).infinite else operand(0).negated()


def _clamped(node: ir.Node, found: Bounds) -> Bounds:
    dtype = node.outputs[0].dtype
    if dtype is None or dtype not in FLOATING:
        return UNKNOWN
    least = lowest(dtype)
    return Bounds(max(found.low, least), min(found.high, -least), found.infinite)


def _cast(node: ir.Node, operand: _Operand) -> Bounds:
    dtype = node.outputs[0].dtype
    if dtype is None or dtype not in FLOATING:
        return UNKNOWN
    found, least = operand(0), lowest(dtype)
    return Bounds(max(found.low, least), min(found.high, -least), found.infinite or found.low < least)


def _where(node: ir.Node, operand: _Operand) -> Bounds:
    return operand(1).joined(operand(2))


def _filled(node: ir.Node, operand: _Operand) -> Bounds:
    value = node.attributes.get("value")
    return Bounds(0, 0) if value is None else _of_constant(value.as_tensor())


def _with_zero(node: ir.Node, operand: _Operand) -> Bounds:
    return operand(0).joined(Bounds(0, 0))


def _scattered(node: ir.Node, operand: _Operand) -> Bounds:
    return operand(0).joined(operand(2))


_RULES: dict[str, Callable[[ir.Node, _Operand], Bounds]] = {
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Div": _div,
    "Neg": _neg,
    "Cast": _cast,
    "Where": _where,
    "Concat": _joined,
    "Min": _joined,
    "Max": _max,
    "ConstantOfShape": _filled,
    "Trilu": _with_zero,
    "ScatterND": _scattered,
    "ScatterElements": _scattered,
}
