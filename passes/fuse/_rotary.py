"""The rotation of a rotary embedding as exporters write it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from graphopt import ir as gir


@dataclass(frozen=True, eq=False)
class Rotation:
    """``x cos + concat(-x2, x1) sin`` or ``concat(x1 cos - x2 sin, x2 cos + x1 sin)`` with x = concat(x1, x2).

    Attributes:
        last: the node that computes the result.
        x: what is rotated.
        cos, sin: of the angles, as the multiplications use them.
        whole: true when these are laid out for both halves.
        between: the nodes that go.
    """

    last: ir.Node
    x: ir.Value
    cos: ir.Value
    sin: ir.Value
    whole: bool
    between: tuple[ir.Node, ...]


def rotation(node: ir.Node) -> Rotation | None:
    """What ends in a node, if it is a rotation."""
    if gir.is_op(node, "Add"):
        return next(_by_halves_swapped(node), None)
    if gir.is_op(node, "Concat") and len(node.inputs) == 2:
        return next(_half_by_half(node), None)
    return None


def _operands(value: ir.Value | None, *operators: str) -> tuple[ir.Node, list[tuple[ir.Value, ir.Value]]] | None:
    """The node of a value, and its two operands in the orders that do not matter."""
    node = None if value is None else value.producer()
    if node is None or not gir.is_op(node, *operators) or len(node.inputs) != 2:
        return None
    first, second = node.inputs
    if first is None or second is None:
        return None
    orders = [(first, second)] if node.op_type in ("Sub", "Div") else [(first, second), (second, first)]
    return node, orders


def _by_halves_swapped(add: ir.Node) -> Iterator[Rotation]:
    for left, right in (add.inputs, reversed(tuple(add.inputs))):
        plain, turned = _operands(left, "Mul"), _operands(right, "Mul")
        if plain is None or turned is None:
            continue
        for swapped, sin in turned[1]:
            concat = swapped.producer()
            if concat is None or not gir.is_op(concat, "Concat") or len(concat.inputs) != 2 or not is_last(concat):
                continue
            negated, first = concat.inputs
            neg = None if negated is None else negated.producer()
            if neg is None or first is None or not gir.is_op(neg, "Neg") or (second := neg.inputs[0]) is None:
                continue
            halves = _halves(first, second)
            if halves is None:
                continue
            x, cutters = halves
            for factor, cos in plain[1]:
                if factor is x:
                    between = (plain[0], turned[0], concat, neg, *cutters)
                    yield Rotation(add, x, cos, sin, True, between)


def _half_by_half(concat: ir.Node) -> Iterator[Rotation]:
    real, imaginary = _operands(concat.inputs[0], "Sub"), _operands(concat.inputs[1], "Add")
    if real is None or imaginary is None or not is_last(concat):
        return
    products = [_operands(value, "Mul") for value in (*real[1][0], *imaginary[1][0])]
    if any(product is None for product in products):
        return
    a, b, c, d = (product for product in products if product is not None)
    for second_cos, first_sin in ((c, d), (d, c)):
        for first, cos in a[1]:
            for second, sin in b[1]:
                halves = _halves(first, second)
                if halves is not None and (second, cos) in second_cos[1] and (first, sin) in first_sin[1]:
                    x, cutters = halves
                    between = (real[0], imaginary[0], a[0], b[0], c[0], d[0], *cutters)
                    yield Rotation(concat, x, cos, sin, False, between)


def is_last(concat: ir.Node) -> bool:
    """True for a Concat along the last axis."""
    axis, rank = gir.attribute(concat, "axis"), gir.rank(concat.inputs[0])
    return not gir.has_reference(concat) and axis is not None and (axis == -1 or axis + 1 == rank)


def _halves(first: ir.Value, second: ir.Value) -> tuple[ir.Value, tuple[ir.Node, ...]] | None:
    """The value of which these are the first and second half of the last axis, and the nodes that cut it."""
    one, two = first.producer(), second.producer()
    if not gir.is_op(one, "Slice", "Split") or not gir.is_op(two, "Slice", "Split") or one is None or two is None:
        return None
    if one.inputs[0] is None or one.inputs[0] is not two.inputs[0]:
        return None
    x = one.inputs[0]
    shape = gir.dims(x)
    if shape is None or not shape or not isinstance(shape[-1], int) or shape[-1] % 2 or shape[-1] < 2:
        return None
    half = shape[-1] // 2
    if one is two and gir.is_op(one, "Split"):
        sizes = gir.attribute(one, "split") or (gir.known_ints(one.inputs[1]) if len(one.inputs) > 1 else None)
        axis = gir.attribute(one, "axis", 0)
        if gir.has_reference(one) or axis not in (-1, len(shape) - 1) or len(one.outputs) != 2:
            return None
        given = len(one.inputs) > 1 and one.inputs[1] is not None
        if (sizes is None and given) or (sizes is not None and tuple(sizes) != (half, half)):
            return None
        return (x, (one,)) if first is one.outputs[0] and second is one.outputs[1] else None
    if cut(one, len(shape), shape[-1]) == (0, half) and cut(two, len(shape), shape[-1]) == (half, 2 * half):
        return x, (one, two)
    return None


def cut(node: ir.Node, rank: int, size: int) -> tuple[int, int] | None:
    """The start and end of a Slice along the last axis alone."""
    if not gir.is_op(node, "Slice") or not 4 <= len(node.inputs) <= 5:
        return None
    starts, ends, axes = (gir.known_ints(value) for value in node.inputs[1:4])
    steps = gir.known_ints(node.inputs[4]) if len(node.inputs) == 5 and node.inputs[4] is not None else (1,)
    if not starts or not ends or axes not in ((-1,), (rank - 1,)) or steps != (1,):
        return None
    start, end, _ = slice(starts[0], ends[0]).indices(size)
    return start, end
