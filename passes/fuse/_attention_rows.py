"""Proof that a mask leaves each query a key: the first one, as causal masks do.

Of a tensor, the first column is looked at: the elements with index 0 along the last axis, all of them in one interval.

    column(Trilu{upper=0}(x, k >= 0)) = column(x)        column(Range(0, n, 1)) = [0, 0]
    column(Trilu{upper=1}(x, k >= 1)) = 0                column(Slice{0: along the last axis}(x)) = column(x)
    column(a <= b) = true where column(a) <= column(b)
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

Interval = tuple[float, float]

_ANY: Interval = (-inf, inf)
_TRUE: Interval = (1, 1)
_FALSE: Interval = (0, 0)
_LARGEST_CONSTANT = 1 << 22
_DEEPEST = 24


def column(value: ir.Value | None, depth: int = 0) -> Interval:
    """Between which numbers the elements of the first column lie; truth is 1."""
    return _interval(value, depth, whole=False)


def _interval(value: ir.Value | None, depth: int, whole: bool) -> Interval:
    if value is None or depth > _DEEPEST:
        return _ANY
    elements = gir.array(value, _LARGEST_CONSTANT)
    if elements is not None:
        return _of_constant(elements, whole)
    node = value.producer()
    if node is None or node.domain not in gir.STANDARD_DOMAINS or gir.has_reference(node):
        return _ANY

    def operand(index: int, entirely: bool = False) -> Interval:
        return _interval(node.inputs[index], depth + 1, whole or entirely)

    if node.op_type == "Range":
        start, delta = gir.scalar(node.inputs[0]), gir.scalar(node.inputs[2])
        if start is None or delta is None or delta <= 0:
            return _ANY
        return (start, inf if whole else start)
    if node.op_type == "Identity":
        return operand(0)
    if node.op_type == "Cast":
        return _cast(operand(0), node.inputs[0], value)
    if node.op_type == "Expand":
        return operand(0, entirely=gir.rank(node.inputs[0]) == 0)
    if node.op_type == "Unsqueeze":
        return operand(0, entirely=_is_new_axis(node, gir.rank(value)))
    if node.op_type == "ConstantOfShape":
        fill = node.attributes.get("value")
        return (0, 0) if fill is None else _of_constant(fill.as_tensor().numpy(), whole=True)
    if node.op_type == "Slice":
        return operand(0) if whole or _keeps_first_column(node) else _ANY
    if node.op_type == "Trilu" and not whole:
        offset = gir.scalar(node.inputs[1]) if len(node.inputs) > 1 else 0
        if gir.attribute(node, "upper", 1):
            return (0, 0) if offset is not None and offset >= 1 else _ANY
        return operand(0) if offset is not None and offset >= 0 else _ANY
    if node.op_type == "Where":
        condition = operand(0)
        if condition in (_TRUE, _FALSE):
            return operand(1 if condition == _TRUE else 2)
        return _union(operand(1), operand(2))
    rule = _RULES.get(node.op_type)
    return _ANY if rule is None else rule(*(operand(index) for index in range(len(node.inputs))))


def _of_constant(elements: np.ndarray, whole: bool) -> Interval:
    if elements.size == 0 or elements.dtype.kind not in "bifu":
        return _ANY
    seen = (elements if whole or elements.ndim == 0 else elements[..., 0]).astype(np.float64)
    return _ANY if np.isnan(seen).any() else (float(seen.min()), float(seen.max()))


def _is_new_axis(node: ir.Node, rank: int | None) -> bool:
    """The last axis is new, so that each element is in the first column."""
    axes = gir.known_ints(node.inputs[1]) if len(node.inputs) > 1 else gir.attribute(node, "axes")
    return axes is None or rank is None or -1 in axes or rank - 1 in axes


def _keeps_first_column(node: ir.Node) -> bool:
    """What is cut from the last axis begins with its first element."""
    rank, starts = gir.rank(node.inputs[0]), gir.known_ints(node.inputs[1]) if len(node.inputs) > 3 else None
    axes = gir.known_ints(node.inputs[3]) if len(node.inputs) > 3 else None
    steps = gir.known_ints(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else None
    if rank is None or axes is None:
        return False
    for index, axis in enumerate(axes):
        if axis in (-1, rank - 1) and (not starts or starts[index] != 0 or (steps is not None and steps[index] < 1)):
            return False
    return len(node.inputs) < 5 or node.inputs[4] is None or steps is not None


def _cast(found: Interval, before: ir.Value | None, after: ir.Value) -> Interval:
    if before is None or before.dtype is None or after.dtype is None:
        return _ANY
    if after.dtype == ir.DataType.BOOL:
        return _FALSE if found == _FALSE else (_TRUE if found[0] > 0 or found[1] < 0 else (0, 1))
    if after.dtype.is_floating_point():
        return found
    return found if before.dtype.is_integer() or before.dtype == ir.DataType.BOOL else _ANY


def _union(left: Interval, right: Interval) -> Interval:
    return (min(left[0], right[0]), max(left[1], right[1]))


def _less(left: Interval, right: Interval) -> Interval:
    return _TRUE if left[1] < right[0] else (_FALSE if left[0] >= right[1] else (0, 1))


def _less_or_equal(left: Interval, right: Interval) -> Interval:
    return _TRUE if left[1] <= right[0] else (_FALSE if left[0] > right[1] else (0, 1))


def _equal(left: Interval, right: Interval) -> Interval:
    if left == right and left[0] == left[1]:
        return _TRUE
    return _FALSE if left[1] < right[0] or right[1] < left[0] else (0, 1)


def _not(value: Interval) -> Interval:
    return (1 - value[1], 1 - value[0])


_RULES: dict[str, Callable[..., Interval]] = {
    "Less": _less,
    "LessOrEqual": _less_or_equal,
    "Greater": lambda left, right: _less(right, left),
    "GreaterOrEqual": lambda left, right: _less_or_equal(right, left),
    "Equal": _equal,
    "Not": _not,
    "And": lambda left, right: (min(left[0], right[0]), min(left[1], right[1])),
    "Or": lambda left, right: (max(left[0], right[0]), max(left[1], right[1])),
}
