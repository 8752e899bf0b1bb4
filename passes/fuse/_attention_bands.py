"""Patterns of masks: how the elements of a tensor follow from the indices i and j along its last two axes.

Even(x)              every element is x
Ramp(axis, n)        index along an axis + n                      Range(n, limit, 1), Unsqueeze(...) of it
Band(n, x, y)        x where j - i <= n, y elsewhere              Ramp(-1) <= Ramp(-2), Trilu, constants

Trilu{upper=0}(x, k) = Band(k, x, 0)           Trilu{upper=1}(x, k) = Band(k - 1, 0, x)
f(Band(n, x, y), z)  = Band(n, f(x, z), f(y, z)), for each f that works element by element
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

Offset = int | str
"""A number, or a size as shape inference writes it."""


@dataclass(frozen=True, slots=True)
class Even:
    """The same number everywhere; truth is 1."""

    number: float


@dataclass(frozen=True, slots=True)
class Ramp:
    """The index along an axis, counted from the back, plus a number; along no axis, 0, only the number."""

    back: int
    start: Offset


@dataclass(frozen=True, slots=True)
class Band:
    """One number where j - i <= offset, another elsewhere; i and j are the indices along the last two axes."""

    offset: Offset
    near: float
    far: float


Pattern = Even | Ramp | Band
Found = list[Pattern | None]
Rule = Callable[[ir.Node, Found], Pattern | None]


def of_constant(elements: np.ndarray) -> Pattern | None:
    """A constant as a pattern."""
    if elements.dtype.kind not in "bifu" or elements.size == 0:
        return None
    first = elements.reshape(-1)[0]
    if (elements == first).all():
        return Even(float(first))
    shape: tuple[int, ...] = elements.shape
    if len(shape) < 2 or elements.size != math.prod(shape[-2:]):
        return None
    rows, columns = shape[-2:]
    table = elements.reshape(rows, columns)
    last = table[0, -1]
    offset = int((table[0] == first).sum()) - 1
    distance = np.arange(columns)[None] - np.arange(rows)[:, None]
    is_band = first != last and bool((table == np.where(distance <= offset, first, last)).all())
    return Band(offset, float(first), float(last)) if is_band else None


def _as_size(pattern: Pattern | None) -> Offset | None:
    if isinstance(pattern, Even):
        return int(pattern.number) if pattern.number.is_integer() else None
    return pattern.start if isinstance(pattern, Ramp) and pattern.back == 0 else None


def _sum(left: Offset | None, right: Offset | None) -> Offset | None:
    """The sum, where one is 0 or both are numbers."""
    if isinstance(left, int) and isinstance(right, int):
        return left + right
    return right if left == 0 else left if right == 0 else None


def _by_element(function: Callable[..., Any]) -> Rule:
    """Of numbers, and of bands of one offset; computed in the type of the operands."""

    def rule(node: ir.Node, operands: Found) -> Pattern | None:
        given = [item for item in operands if isinstance(item, Even | Band)]
        offsets = {item.offset for item in given if isinstance(item, Band)}
        dtype = node.inputs[-1].dtype if node.inputs[-1] is not None else None
        if len(given) < len(operands) or len(offsets) > 1 or dtype is None:
            return None
        sides = [(item.number,) * 2 if isinstance(item, Even) else (item.near, item.far) for item in given]
        with np.errstate(all="ignore"):
            near, far = (float(function(*(dtype.numpy().type(side[index]) for side in sides))) for index in (0, 1))
        if math.isnan(near) or math.isnan(far):
            return None
        return Band(offsets.pop(), near, far) if offsets else Even(near)

    return rule


def _ramp(node: ir.Node, operands: Found) -> Pattern | None:
    start = _as_size(operands[0])
    return Ramp(1, start) if start is not None and _as_size(operands[2]) == 1 else None


def _widened(node: ir.Node, operands: Found) -> Pattern | None:
    """Unsqueeze."""
    pattern, rank = operands[0], gir.rank(node.outputs[0])
    axes = gir.known_ints(node.inputs[1]) if len(node.inputs) > 1 else gir.attribute(node, "axes")
    if rank is None or axes is None or isinstance(pattern, Even):
        return pattern if isinstance(pattern, Even) else None
    behind = sorted(rank - axis % rank for axis in axes)  # new axes, counted from the back
    if isinstance(pattern, Band):
        return pattern if behind[0] > 2 else None
    if pattern is None or pattern.back == 0:
        return pattern
    back = pattern.back
    for new in behind:
        back += new <= back
    return Ramp(back, pattern.start)


def _converted(node: ir.Node, operands: Found) -> Pattern | None:
    """Cast: indices stay what they are, and truth is 1."""
    pattern, dtype = operands[0], node.outputs[0].dtype
    if pattern is None or dtype is None:
        return None
    if isinstance(pattern, Ramp):
        return pattern if dtype in (ir.DataType.INT64, ir.DataType.INT32) else None
    if dtype == ir.DataType.BOOL:
        return _by_element(bool)(node, operands)
    numbers = {pattern.number} if isinstance(pattern, Even) else {pattern.near, pattern.far}
    return pattern if dtype.is_floating_point() or numbers <= {0.0, 1.0} else None


def _filled(node: ir.Node, operands: Found) -> Pattern | None:
    """ConstantOfShape."""
    value = node.attributes.get("value")
    return Even(0.0 if value is None else float(value.as_tensor().numpy().reshape(-1)[0]))


def _cut(node: ir.Node, operands: Found) -> Pattern | None:
    """Slice, from the first element on."""
    starts, steps = gir.known_ints(node.inputs[1]), node.inputs[4] if len(node.inputs) > 4 else None
    is_head = starts is not None and not any(starts) and (steps is None or set(gir.known_ints(steps) or (0,)) == {1})
    return operands[0] if is_head or isinstance(operands[0], Even) else None


def _triangle(node: ir.Node, operands: Found) -> Pattern | None:
    pattern, upper = operands[0], gir.attribute(node, "upper", 1)
    size = _as_size(operands[1]) if len(operands) > 1 and node.inputs[1] is not None else 0
    offset = None if size is None else _sum(size, -1 if upper else 0)
    if offset is None or not isinstance(pattern, Even | Band):
        return None
    if isinstance(pattern, Band) and pattern.offset != offset:
        return None
    near, far = (pattern.number,) * 2 if isinstance(pattern, Even) else (pattern.near, pattern.far)
    return Band(offset, 0.0, far) if upper else Band(offset, near, 0.0)


def _compared(function: Callable[..., Any], *, strict: bool, swapped: bool = False) -> Rule:
    """Less and its kin: of two ramps, and else element by element."""

    def rule(node: ir.Node, operands: Found) -> Pattern | None:
        left, right = reversed(operands) if swapped else operands  # left < right
        if not isinstance(left, Ramp) or not isinstance(right, Ramp):
            return _by_element(function)(node, operands)
        if (left.back, right.back) == (1, 2):  # j + a < i + b
            return _band(right.start, left.start, -1 if strict else 0, 1.0)
        if (left.back, right.back) == (2, 1):  # i + a < j + b: not j - i <= a - b
            return _band(left.start, right.start, 0 if strict else -1, 0.0)
        return None

    return rule


def _band(left: Offset, right: Offset, more: int, near: float) -> Band | None:
    difference = 0 if left == right else _sum(left, -right if isinstance(right, int) else None)
    offset = _sum(difference, more)
    return None if offset is None else Band(offset, near, 1.0 - near)


def _added(node: ir.Node, operands: Found) -> Pattern | None:
    for left, right in (operands, reversed(operands)):
        size = _as_size(right)
        if isinstance(left, Ramp) and size is not None:
            start = _sum(left.start, size)
            return None if start is None else Ramp(left.back, start)
    return _by_element(operator.add)(node, operands)


RULES: dict[str, Rule] = {
    "Identity": lambda _, operands: operands[0],
    "Expand": lambda _, operands: operands[0],
    "Cast": _converted,
    "Unsqueeze": _widened,
    "Range": _ramp,
    "ConstantOfShape": _filled,
    "Slice": _cut,
    "Trilu": _triangle,
    "Add": _added,
    "Less": _compared(operator.lt, strict=True),
    "LessOrEqual": _compared(operator.le, strict=False),
    "Greater": _compared(operator.gt, strict=True, swapped=True),
    "GreaterOrEqual": _compared(operator.ge, strict=False, swapped=True),
    "Sub": _by_element(operator.sub),
    "Mul": _by_element(operator.mul),
    "Equal": _by_element(operator.eq),
    "Not": _by_element(operator.not_),
    "And": _by_element(lambda x, y: x and y),
    "Or": _by_element(lambda x, y: x or y),
    "Where": _by_element(lambda condition, x, y: x if condition else y),
}
"""By operator: the pattern of the result, from those of the operands."""
