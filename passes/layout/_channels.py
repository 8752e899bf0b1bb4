"""Where a tensor's channels are: found by following it to operators that fix the order of axes."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from graphopt import ir as gir

from ._agnostic import agnostic
from ._ends import reduction
from ._form import Order, View
from ._region import inverted, permutation

CHANNELS_FIRST = frozenset(
    (
        "AveragePool",
        "BatchNormalization",
        "Conv",
        "ConvTranspose",
        "DepthToSpace",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "GridSample",
        "InstanceNormalization",
        "LRN",
        "LpPool",
        "MaxPool",
        "SpaceToDepth",
    )
)
"""Operators whose data have their channels on axis 1."""


def moved_to_last(rank: int) -> Order:
    """NCHW to NHWC, for any number of axes."""
    return (0, *range(2, rank), 1)


def orders_ahead(value: ir.Value, rank: int, version: int) -> set[Order]:
    """What operators with channels first read of a value: its axes, as permutations; empty when there are none."""
    return _orders(value, rank, version, ahead=True)


def orders_behind(value: ir.Value, rank: int, version: int) -> set[Order]:
    """The same for operators with channels first that a value comes from."""
    return _orders(value, rank, version, ahead=False)


def _orders(value: ir.Value, rank: int, version: int, *, ahead: bool) -> set[Order]:
    found: set[Order] = set()
    pending: list[tuple[ir.Value, Order]] = [(value, tuple(range(rank)))]
    seen = {value}
    while pending:
        item, order = pending.pop()
        for node in _neighbours(item, ahead=ahead):
            if gir.is_op(node, *CHANNELS_FIRST):
                if node.inputs[0] is item or not ahead:
                    found.add(order)
                continue
            turn = permutation(node)
            values = _carried(node, item, rank, version, ahead=ahead)
            if turn is not None and len(turn) == rank:
                order_there = tuple(order[axis] for axis in (turn if ahead else inverted(turn)))
                values = [node.outputs[0]] if ahead else [_first_input(node)]
            else:
                order_there = order
            for other in values:
                if other is not None and other not in seen:
                    seen.add(other)
                    pending.append((other, order_there))
    return found


def _first_input(node: ir.Node) -> ir.Value | None:
    """The first operand."""
    return node.inputs[0] if node.inputs else None


def _neighbours(value: ir.Value, *, ahead: bool) -> Iterator[ir.Node]:
    if ahead:
        yield from (node for node, _ in value.uses())
    else:
        node = value.producer()
        if node is not None:
            yield node


def _carried(node: ir.Node, value: ir.Value, rank: int, version: int, *, ahead: bool) -> list[ir.Value | None]:
    """What an operator that works in any order gives of a value, or makes it of."""
    if permutation(node) is not None or (node.domain not in gir.STANDARD_DOMAINS):
        return []
    view = View(node, tuple(reversed(range(rank))), version, rounding=True)
    form = agnostic(node, view) or reduction(node, view)
    if form is None or not form.results:
        return []
    if ahead:
        carried = any(node.inputs[index] is value for index in form.carried)
        return [node.outputs[index] for index in form.results] if carried else []
    return [node.inputs[index] for index in form.carried]
