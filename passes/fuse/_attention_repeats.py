"""Repeated heads, as grouped queries need them; proven by shapes.

[.., heads, ..] -> [.., heads, 1, ..] -> Expand or Tile [.., heads, n, ..] -> [.., heads * n, ..]
"""

from __future__ import annotations

import onnx_ir as ir

from graphopt import ir as gir

Dims = tuple[int | str | None, ...]


def before_repeat(expanded: ir.Value, merged: Dims, axis: int) -> tuple[ir.Value, int] | None:
    """What is repeated along an axis, and how often; ``expanded`` has an axis more than what it is merged to."""
    wide = gir.dims(expanded)
    if wide is None or len(wide) != len(merged) + 1 or None in wide:
        return None
    heads, count = wide[axis], wide[axis + 1]
    if not isinstance(heads, int) or not isinstance(count, int):
        return None
    if merged != (*wide[:axis], heads * count, *wide[axis + 2 :]):
        return None
    repeat = producer(expanded, "Expand", "Tile")
    unit = producer(repeat.inputs[0], "Unsqueeze", "Reshape") if repeat is not None else None
    if unit is None:
        return None
    value = unit.inputs[0]
    narrow = (*wide[: axis + 1], *wide[axis + 2 :])
    with_unit = (*wide[: axis + 1], 1, *wide[axis + 2 :])
    if value is None or gir.dims(value) != narrow or gir.dims(unit.outputs[0]) != with_unit:
        return None
    return value, count


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node of one of these operators that gives the value, or None."""
    node = None if value is None else value.producer()
    return node if node is not None and gir.is_op(node, *op_types) and not gir.has_reference(node) else None
