"""Queries, keys and values that one product computes side by side.

    [batch, length, n * heads * size] -> Reshape [batch, length, n, heads, size] -> Transpose{2, 0, 3, 1, 4}
    [length, batch, n * width] -> Reshape [length, batch, n, width] -> Transpose{2, 0, 1, 3}
    -> the i-th along the first axis: by Gather, by Slice and Squeeze, or by Split and Squeeze

The i-th is then part i of n of the last axis of what is reshaped. The second is torch.nn.MultiheadAttention's.
"""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from graphopt import ir as gir

_ORDERS = {4: (2, 0, 3, 1, 4), 3: (2, 0, 1, 3)}  # by the rank of the parts


def unpacked(value: ir.Value) -> tuple[ir.Value, int, int] | None:
    """For [batch, heads, length, size], or rows: the tensor it is a part of, which part, and of how many."""
    picked, part = _picked(value), gir.dims(value)
    split = _turned(picked[0], len(part)) if picked is not None and part is not None else None
    if picked is None or part is None or split is None:
        return None
    parts, merge = split
    whole = gir.dims(merge)
    if None in parts[:2] or len(parts) != len(part) + 1 or whole is None or len(whole) != 3:
        return None
    sizes = [size for size in parts[2:] if isinstance(size, int)]
    if len(sizes) != len(parts) - 2 or whole != (*parts[:2], prod(sizes)):
        return None
    batch, length, count = parts[0], parts[1], sizes[0]
    index = picked[1] + count if picked[1] < 0 else picked[1]
    expected = (batch, sizes[1], length, sizes[2]) if len(part) == 4 else (batch, length, sizes[1])
    return (merge, index, count) if part == expected and 0 <= index < count else None


def _turned(value: ir.Value, rank: int) -> tuple[tuple[int | str | None, ...], ir.Value] | None:
    """What a tensor with the parts in front is turned from: its shape, and what is reshaped to it."""
    node = value.producer()
    if node is None:
        return None
    if rank == 3 and _is(node, "Squeeze", "Reshape"):
        return _swapped(value, node)
    split = node.inputs[0] if _is(node, "Transpose") and _perm(node) == _ORDERS.get(rank) else None
    merge, dims = _reshaped(split), gir.dims(split)
    return None if merge is None or dims is None else (dims, merge)


def _swapped(value: ir.Value, squeeze: ir.Node) -> tuple[tuple[int | str | None, ...], ir.Value] | None:
    """[length, batch, n, width] -> Unsqueeze -> Transpose{3, 1, 2, 0, 4} -> Squeeze [n, length, batch, width]."""
    turned = squeeze.inputs[0]
    node = turned.producer() if turned is not None else None
    wide = node.inputs[0] if node is not None and _is(node, "Transpose") and _perm(node) == (3, 1, 2, 0, 4) else None
    dims, after = gir.dims(wide), gir.dims(value)
    if wide is None or dims is None or None in dims or dims[0] != 1 or after != (dims[3], dims[1], dims[2], dims[4]):
        return None
    unsqueeze = wide.producer()
    merge = _reshaped(unsqueeze.inputs[0] if unsqueeze is not None and _is(unsqueeze, "Unsqueeze") else wide)
    return None if merge is None else (dims[1:], merge)


def _reshaped(value: ir.Value | None) -> ir.Value | None:
    node = value.producer() if value is not None else None
    return node.inputs[0] if node is not None and _is(node, "Reshape") else None


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
