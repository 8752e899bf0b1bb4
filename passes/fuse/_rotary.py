"""The rotation of a rotary embedding by halves, as exporters write it; ``_rotary_pairs`` reads that by pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from graphopt import ir as gir

Dims = tuple[int | str | None, ...]


@dataclass(frozen=True, eq=False)
class Rotation:
    """``x cos + concat(-x2, x1) sin`` or ``concat(x1 cos - x2 sin, x2 cos + x1 sin)`` with x = concat(x1, x2).

    By pairs, x1 and x2 are its even and its odd elements, and ``concat`` puts them back in turn.

    Attributes:
        last: the node that computes the result.
        x: what is rotated.
        cos, sin: of the angles, as the multiplications use them.
        whole: true when these are laid out for both halves.
        between: the nodes that go.
        shape: of x as it is rotated, the head last; None where its rank is not known. x itself may have another,
            with the same elements in the same order.
        pairs: true when it is by pairs.
        behind: true when the angles have one more axis, of size 1, behind.
    """

    last: ir.Node
    x: ir.Value
    cos: ir.Value
    sin: ir.Value
    whole: bool
    between: tuple[ir.Node, ...]
    shape: Dims | None
    pairs: bool = False
    behind: bool = False


def rotation(node: ir.Node) -> Rotation | None:
    """What ends in a node, if it is a rotation by halves."""
    if gir.is_op(node, "Add"):
        return next(_by_halves_swapped(node), None)
    if gir.is_op(node, "Concat") and len(node.inputs) == 2 and is_last(node):
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


def turned(add: ir.Node) -> Iterator[tuple[ir.Value, ir.Value, ir.Value, ir.Value, tuple[ir.Node, ...]]]:
    """``x cos + t sin``, in every order: x, cos, t, sin, and the products; t is the result of a node."""
    for left, right in (add.inputs, reversed(tuple(add.inputs))):
        plain, other = _operands(left, "Mul"), _operands(right, "Mul")
        if plain is None or other is None:
            continue
        for swapped, sin in other[1]:
            if swapped.producer() is not None:
                for x, cos in plain[1]:
                    yield x, cos, swapped, sin, (plain[0], other[0])


def crossed(
    first: ir.Value | None, second: ir.Value | None
) -> Iterator[tuple[ir.Value, ir.Value, ir.Value, ir.Value, tuple[ir.Node, ...]]]:
    """``x1 cos - x2 sin`` and ``x2 cos + x1 sin``, in every order: x1, x2, cos, sin, and the nodes."""
    real, imaginary = _operands(first, "Sub"), _operands(second, "Add")
    if real is None or imaginary is None:
        return
    products = [_operands(value, "Mul") for value in (*real[1][0], *imaginary[1][0])]
    if any(product is None for product in products):
        return
    a, b, c, d = (product for product in products if product is not None)
    for second_cos, first_sin in ((c, d), (d, c)):
        for one, cos in a[1]:
            for two, sin in b[1]:
                if (two, cos) in second_cos[1] and (one, sin) in first_sin[1]:
                    yield one, two, cos, sin, (real[0], imaginary[0], a[0], b[0], c[0], d[0])


def negated_pair(first: ir.Value | None, second: ir.Value | None) -> tuple[ir.Value, ir.Value, ir.Node] | None:
    """x1 and x2 of ``-x2, x1``, and the Neg."""
    neg = None if first is None else first.producer()
    if neg is None or second is None or not gir.is_op(neg, "Neg") or neg.inputs[0] is None:
        return None
    return second, neg.inputs[0], neg


def _by_halves_swapped(add: ir.Node) -> Iterator[Rotation]:
    for x, cos, swapped, sin, products in turned(add):
        concat = swapped.producer()
        if concat is None or not gir.is_op(concat, "Concat") or len(concat.inputs) != 2 or not is_last(concat):
            continue
        found = negated_pair(*concat.inputs)
        halves = None if found is None else _halves(found[0], found[1])
        if found is None or halves is None or halves[0] is not x:
            continue
        yield Rotation(add, x, cos, sin, True, (*products, concat, found[2], *halves[1]), gir.dims(x))


def _half_by_half(concat: ir.Node) -> Iterator[Rotation]:
    for first, second, cos, sin, nodes in crossed(*concat.inputs):
        halves = _halves(first, second)
        if halves is not None:
            x, cutters = halves
            shape = gir.dims(x)
            if shape is not None and len(shape) == 5 and shape[-1] == 2:
                continue  # a part of one by pairs
            yield Rotation(concat, x, cos, sin, False, (*nodes, *cutters), shape)


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
        return (x, (one,)) if split_in_two(one, half) and first is one.outputs[0] and second is one.outputs[1] else None
    if cut(one, len(shape), shape[-1]) == (0, half) and cut(two, len(shape), shape[-1]) == (half, 2 * half):
        return x, (one, two)
    return None


def split_in_two(split: ir.Node, half: int) -> bool:
    """True for a Split of the last axis into two parts of that size, of an axis of twice that size."""
    rank = gir.rank(split.inputs[0])
    sizes = gir.attribute(split, "split") or (gir.known_ints(split.inputs[1]) if len(split.inputs) > 1 else None)
    axis = gir.attribute(split, "axis", 0)
    if gir.has_reference(split) or rank is None or axis not in (-1, rank - 1) or len(split.outputs) != 2:
        return False
    given = len(split.inputs) > 1 and split.inputs[1] is not None
    return not given if sizes is None else tuple(sizes) == (half, half)


def cut(node: ir.Node, rank: int, size: int, step: int = 1) -> tuple[int, int] | None:
    """The start and end of a Slice along the last axis alone."""
    if not gir.is_op(node, "Slice") or not 4 <= len(node.inputs) <= 5:
        return None
    starts, ends, axes = (gir.known_ints(value) for value in node.inputs[1:4])
    steps = gir.known_ints(node.inputs[4]) if len(node.inputs) == 5 and node.inputs[4] is not None else (1,)
    if not starts or not ends or axes not in ((-1,), (rank - 1,)) or steps != (step,):
        return None
    start, end, _ = slice(starts[0], ends[0]).indices(size)
    return start, end
