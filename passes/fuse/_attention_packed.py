"""Queries, keys and values that one product computes side by side.

    [batch, length, n * heads * size] -> Reshape [batch, length, n, heads, size] -> Transpose{2, 0, 3, 1, 4}
    -> the i-th along the first axis: by Gather, by Slice and Squeeze, or by Split and Squeeze

The i-th is then part i of n of the last axis of what is reshaped.
"""

from __future__ import annotations

import onnx_ir as ir

from graphopt import ir as gir

_ORDER = (2, 0, 3, 1, 4)


def unpacked(value: ir.Value) -> tuple[ir.Value, int, int] | None:
    """For [batch, heads, length, size]: the tensor it is a part of, which part, and of how many."""
    picked = _picked(value)
    turn = picked[0].producer() if picked is not None else None
    if picked is None or turn is None or not _is(turn, "Transpose") or _perm(turn) != _ORDER:
        return None
    split = turn.inputs[0]
    merge = split.producer() if split is not None else None
    if split is None or merge is None or not _is(merge, "Reshape"):
        return None
    whole, parts, part = gir.dims(merge.inputs[0]), gir.dims(split), gir.dims(value)
    if whole is None or parts is None or part is None or None in parts[:2] or len(parts) != 5:
        return None
    batch, length, count, heads, size = parts
    if not isinstance(count, int) or not isinstance(heads, int) or not isinstance(size, int):
        return None
    index = picked[1] + count if picked[1] < 0 else picked[1]
    if whole != (batch, length, count * heads * size) or part != (batch, heads, length, size):
        return None
    source = merge.inputs[0]
    return (source, index, count) if source is not None and 0 <= index < count else None


def _picked(value: ir.Value) -> tuple[ir.Value, int] | None:
    """A tensor with one axis more in front, and the index along it."""
    node = value.producer()
    if node is None:
        return None
    if _is(node, "Gather"):
        index, source = gir.scalar(node.inputs[1]), node.inputs[0]
        if index is None or source is None or gir.attribute(node, "axis", 0) or gir.rank(node.inputs[1]) != 0:
            return None
        return source, int(index)
    one = node.inputs[0] if _is(node, "Squeeze", "Reshape") else None
    dims, before = gir.dims(value), gir.dims(one)
    if one is None or dims is None or None in dims or before != (1, *dims):
        return None
    return _cut(one)


def _cut(one: ir.Value) -> tuple[ir.Value, int] | None:
    """What a slice of length 1 along the first axis is cut from, and where."""
    node = one.producer()
    source = node.inputs[0] if node is not None and node.inputs else None
    if node is None or source is None:
        return None
    if _is(node, "Split") and not gir.attribute(node, "axis", 0):
        sizes = {(gir.dims(output) or (None,))[0] for output in node.outputs}
        return (source, node.outputs.index(one)) if sizes == {1} else None
    if _is(node, "Slice") and len(node.inputs) > 3:
        start, axes = gir.known_ints(node.inputs[1]), gir.known_ints(node.inputs[3])
        steps = gir.known_ints(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else (1,)
        if start is not None and axes == (0,) and steps == (1,):
            return source, start[0]
    return None


def _is(node: ir.Node, *op_types: str) -> bool:
    return gir.is_op(node, *op_types) and not gir.has_reference(node)


def _perm(node: ir.Node) -> tuple[int, ...]:
    return tuple(gir.attribute(node, "perm", ()))
