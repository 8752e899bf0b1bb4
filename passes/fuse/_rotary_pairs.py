"""The rotation of a rotary embedding by pairs, as exporters write it: GPT-J's, and the product of complex numbers.

    x cos + reshape(stack(-x[1::2], x[0::2])) sin           cos, sin laid out twice, element by element
    reshape(stack(x1 cos - x2 sin, x1 sin + x2 cos))        x1, x2 = unstack(reshape(x, ... x head / 2 x 2))

A stack is a Concat along a new last axis. What it is made of has that axis already, or gets it by Unsqueeze.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx_ir as ir

from graphopt import ir as gir

from ._rotary import Dims, Rotation, crossed, cut, is_last, negated_pair, split_in_two, turned


@dataclass(frozen=True, eq=False)
class _Part:
    """The even or the odd elements of the last axis of a value.

    Attributes:
        x: that value, or one with the same elements in the same order.
        shape: of the value.
        which: 0 for even, 1 for odd.
        kept: an axis for the elements of a pair is still there, of size 1.
        cutters: the nodes that cut it out.
    """

    x: ir.Value
    shape: Dims
    which: int
    kept: bool
    cutters: tuple[ir.Node, ...]


def rotation_by_pairs(node: ir.Node) -> Rotation | None:
    """What ends in a node, if it is a rotation by pairs."""
    if gir.is_op(node, "Add"):
        return next(_turned(node), None)
    if gir.is_op(node, "Reshape"):
        return next(_crossed(node), None)
    return None


def _turned(add: ir.Node) -> Iterator[Rotation]:
    for x, cos, swapped, sin, products in turned(add):
        reshape = swapped.producer()
        stack = None if reshape is None else _stacked(reshape)
        found = None if stack is None else negated_pair(*stack.values)
        if reshape is None or stack is None or found is None:
            continue
        even, odd, neg = found
        part = _pair(even, odd, stack.added[1], stack.added[0])
        if part is not None and _same(x, part):
            between = (*products, reshape, *stack.nodes, neg, *part.cutters)
            yield Rotation(add, part.x, cos, sin, True, between, part.shape, pairs=True)


def _crossed(reshape: ir.Node) -> Iterator[Rotation]:
    stack = _stacked(reshape)
    if stack is None or stack.added[0] != stack.added[1]:
        return
    added = stack.added[0]
    for even, odd, cos, sin, products in crossed(*stack.values):
        part = _pair(even, odd, added, added)
        if part is not None:
            between = (*stack.nodes, *products, *part.cutters)
            yield Rotation(reshape, part.x, cos, sin, False, between, part.shape, pairs=True, behind=not added)


@dataclass(frozen=True, eq=False)
class _Stack:
    """Two values put in turn along the last axis.

    Attributes:
        values: the two.
        added: whether each of them gets an axis for that.
        nodes: that do it, without the last.
    """

    values: tuple[ir.Value, ir.Value]
    added: tuple[bool, bool]
    nodes: tuple[ir.Node, ...]


def _stacked(reshape: ir.Node) -> _Stack | None:
    value = reshape.inputs[0] if gir.is_op(reshape, "Reshape") else None
    concat = None if value is None else value.producer()
    if concat is None or not gir.is_op(concat, "Concat") or len(concat.inputs) != 2 or not is_last(concat):
        return None
    stack, result = gir.dims(concat.outputs[0]), gir.dims(reshape.outputs[0])
    if not stack or not result or len(stack) < 2 or stack[-1] != 2 or not isinstance(stack[-2], int):
        return None
    if result != (*stack[:-2], 2 * stack[-2]) or None in result:
        return None
    values: list[ir.Value] = []
    added: list[bool] = []
    nodes = [concat]
    for item in concat.inputs:
        if item is None:
            return None
        node = item.producer()
        if node is not None and gir.is_op(node, "Unsqueeze") and node.inputs[0] is not None:
            if _axes(node) not in ((-1,), (len(stack) - 1,)):
                return None
            nodes.append(node)
            item = node.inputs[0]
        values.append(item)
        added.append(len(nodes) > 1 and nodes[-1] is node)
    return _Stack((values[0], values[1]), (added[0], added[1]), tuple(dict.fromkeys(nodes)))


def _axes(node: ir.Node) -> tuple[int, ...] | None:
    found = gir.attribute(node, "axes") or (gir.known_ints(node.inputs[1]) if len(node.inputs) > 1 else None)
    return None if found is None or gir.has_reference(node) else tuple(found)


def _pair(first: ir.Value, second: ir.Value, first_added: bool, second_added: bool) -> _Part | None:
    """The even part, if these are the even and the odd part of one value; its cutters are those of both.

    An axis of size 1 behind is there if and only if none is added.
    """
    even, odd = _part(first), _part(second)
    if even is None or odd is None or (even.which, odd.which) != (0, 1) or even.x is not odd.x:
        return None
    if even.shape != odd.shape or even.kept == first_added or odd.kept == second_added:
        return None
    return replace(even, cutters=tuple(dict.fromkeys((*even.cutters, *odd.cutters))))


def _part(value: ir.Value) -> _Part | None:
    node = value.producer()
    cutters: list[ir.Node] = []
    squeezed = node is not None and gir.is_op(node, "Squeeze")
    if squeezed and node is not None:
        rank = gir.rank(node.inputs[0])
        if rank is None or _axes(node) not in ((-1,), (rank - 1,)):
            return None
        cutters.append(node)
        value_below = node.inputs[0]
        assert value_below is not None
        value, node = value_below, value_below.producer()
    whole = None if node is None or not node.inputs else node.inputs[0]
    shape = None if whole is None else gir.dims(whole)
    if node is None or whole is None or not shape or not isinstance(shape[-1], int) or gir.has_reference(node):
        return None
    cutters.append(node)
    size = shape[-1]
    stepped = None if squeezed or size % 2 else cut(node, len(shape), size, 2)
    if stepped is not None:
        start, end = stepped
        good = start in (0, 1) and end >= size - 1 + start and None not in shape
        return _Part(whole, shape, start, False, tuple(cutters)) if good else None
    found = _one_of_two(node, value, shape) if size == 2 else None
    reshape = whole.producer()
    if found is None or reshape is None or not gir.is_op(reshape, "Reshape") or not isinstance(shape[-2], int):
        return None
    which, dropped = found
    if squeezed and dropped:
        return None
    rotated = (*shape[:-2], 2 * shape[-2])
    source = reshape.inputs[0]
    own = None if source is None else gir.dims(source)
    if source is None or None in rotated:
        return None
    cutters.append(reshape)
    if own != rotated and own != _flat(rotated):
        return None
    return _Part(source, rotated, which, not (squeezed or dropped), tuple(cutters))


def _one_of_two(node: ir.Node, value: ir.Value, shape: Dims) -> tuple[int, bool] | None:
    """Which element of a last axis of two a node takes, and whether the axis is dropped."""
    rank = len(shape)
    if gir.is_op(node, "Slice"):
        return {(0, 1): (0, False), (1, 2): (1, False)}.get(cut(node, rank, 2) or (0, 0))
    if gir.is_op(node, "Split"):
        return (0 if value is node.outputs[0] else 1, False) if split_in_two(node, 1) else None
    if gir.is_op(node, "Gather") and gir.attribute(node, "axis", 0) in (-1, rank - 1):
        index = gir.constant(node.inputs[1])
        if index is not None and index.size == 1 and len(index.shape) <= 1:
            return int(index.numpy().reshape(-1)[0]) % 2, len(index.shape) == 0
    return None


def _flat(shape: Dims) -> Dims | None:
    """Batch, sequence, heads x head for batch, sequence, heads, head."""
    if len(shape) != 4 or not isinstance(shape[2], int) or not isinstance(shape[3], int):
        return None
    return (*shape[:2], shape[2] * shape[3])


def _same(x: ir.Value, part: _Part) -> bool:
    """x is what the part was cut from, in the shape it was cut in."""
    if gir.dims(x) != part.shape:
        return False
    reshape = x.producer()
    return x is part.x or (gir.is_op(reshape, "Reshape") and reshape is not None and reshape.inputs[0] is part.x)
