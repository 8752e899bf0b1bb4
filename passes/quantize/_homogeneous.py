"""Operators that hand the scale of a channel on: f(x / s) = f(x) / s for s > 0, channel by channel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from . import _joining as joining
from ._channels import Channels, Cut, Reader, Variables, no_reach
from ._layers import Layer, read


def variables_of(graph: ir.Graph, version: int, reach: Callable[[ir.Node], float] = no_reach) -> Variables:
    """The variables of one graph; nodes of subgraphs count as readers that cannot be scaled.

    Args:
        graph: with shapes and types inferred.
        version: of the operator set in force.
        reach: how far a Clip may be scaled that gets an end for each channel; 1 where it may not.
    """
    reader = Reader(graph, version, reach)
    for node in graph:
        layer = read(node, version)
        if isinstance(layer, Layer):
            reader.layer(layer)
        elif layer is not None or not carried(reader, node):
            reader.pin_operands(node, layer or f"{gir.where(node)} gives no result that scales with them")
        for output in node.outputs:
            reader.close(output)
    return reader.variables


def carried(reader: Reader, node: ir.Node) -> bool:
    """Let a node hand on the variables of its operands; False when they have to be 1."""
    if node.domain not in gir.STANDARD_DOMAINS or gir.has_reference(node) or not node.inputs:
        return False
    handler = _HANDLERS.get(node.op_type)
    return handler is not None and handler(reader, node)


def _same(reader: Reader, node: ir.Node, low: np.ndarray | None = None, high: np.ndarray | None = None) -> bool:
    """The first output has the channels of the first operand."""
    found = reader.channels(node.inputs[0])
    if found is None:
        return False
    low, high = found.low if low is None else low, found.high if high is None else high
    reader.note(node.outputs[0], Channels(found.axis, found.ids, low, high))
    return True


def _identity(reader: Reader, node: ir.Node) -> bool:
    return _same(reader, node)


def _dropout(reader: Reader, node: ir.Node) -> bool:
    if reader.version < 7 or (len(node.inputs) > 2 and node.inputs[2] is not None):
        return False
    return _same(reader, node)


def _relu(reader: Reader, node: ir.Node) -> bool:
    found = reader.channels(node.inputs[0])
    return found is not None and _same(reader, node, np.maximum(found.low, 0), np.maximum(found.high, 0))


def _leaky(reader: Reader, node: ir.Node) -> bool:
    """Slopes are numbers of their own: they stay."""
    for slope in node.inputs[1:]:
        reader.pin_value(slope, f"they are slopes of {gir.where(node)}")
    rank = gir.rank(node.inputs[0])
    if any((gir.rank(slope) or 99) > (rank or 0) for slope in node.inputs[1:]):
        return False
    found = reader.channels(node.inputs[0])
    return found is not None and _same(
        reader, node, np.full(found.low.shape, -np.inf), np.full(found.low.shape, np.inf)
    )


def _pool(reader: Reader, node: ir.Node) -> bool:
    found = reader.channels(node.inputs[0])
    if found is None or found.axis != 1:
        return False
    return _same(reader, node, np.minimum(found.low, 0), np.maximum(found.high, 0))  # padding may count


def _clip(reader: Reader, node: ir.Node) -> bool:
    found = reader.channels(node.inputs[0])
    if found is None:
        return False
    if reader.version < 11:
        ends = [gir.attribute(node, "min", -math.inf), gir.attribute(node, "max", math.inf)]
    else:
        ends = [-math.inf, math.inf]
        for index, value in enumerate(node.inputs[1:3]):
            if value is not None:
                number = gir.scalar(value)
                if number is None:
                    return False
                ends[index] = number
    low, high = float(ends[0]), float(ends[1])
    if not low <= 0 <= high:
        return False
    rank = gir.rank(node.inputs[0])
    reach = reader.reach(node)
    if reach > 1 and low == 0 < high < math.inf and reader.version >= 8 and rank is not None:
        reader.variables.cuts.append(Cut(node, high, found.axis, rank, found.ids))
        reader.variables.limits.append((found.ids, np.full(len(found.ids), 1 / reach), reach))
        return _same(reader, node, np.clip(found.low, low, high), np.clip(found.high, low, high))
    why = f"{gir.where(node)} cuts them at {low:g} and {high:g}"
    for end, reached in ((high, found.high), (-low, -found.low)):
        if math.isinf(end) or end == 0:  # a ReLU's end stays where it is
            continue
        outside = ~(reached <= end)
        if outside.any():
            reader.variables.pin(found.ids[outside], why)
        reader.variables.limits.append((found.ids[~outside], reached[~outside] / end, math.inf))
    return _same(reader, node, np.clip(found.low, low, high), np.clip(found.high, low, high))


def _transpose(reader: Reader, node: ir.Node) -> bool:
    found, rank = reader.channels(node.inputs[0]), gir.rank(node.inputs[0])
    if found is None or rank is None:
        return False
    order = gir.attribute(node, "perm") or tuple(reversed(range(rank)))
    reader.note(node.outputs[0], Channels(list(order).index(found.axis), found.ids, found.low, found.high))
    return True


def _reshape(reader: Reader, node: ir.Node) -> bool:
    """Where a channel and what lies behind it become channels, each takes the channel's variable."""
    found = reader.channels(node.inputs[0])
    before, after = gir.dims(node.inputs[0]), gir.dims(node.outputs[0])
    if found is None or before is None or after is None:
        return False
    size = _product(before[found.axis :])
    if not size:
        return False
    for axis in range(len(after)):
        width = after[axis]
        if _product(after[axis:]) == size and isinstance(width, int) and width % len(found.ids) == 0:
            times = width // len(found.ids)
            if size // len(found.ids) % times:
                return False
            repeated = [np.repeat(item, times) for item in (found.ids, found.low, found.high)]
            reader.note(node.outputs[0], Channels(axis, *repeated))
            return True
    return False


def _product(sizes: Sequence[int | str | None]) -> int | None:
    """None unless all are known numbers."""
    known = [size for size in sizes if isinstance(size, int)]
    return math.prod(known) if len(known) == len(sizes) else None


def _reduce(reader: Reader, node: ir.Node) -> bool:
    found, rank = reader.channels(node.inputs[0]), gir.rank(node.inputs[0])
    second = node.inputs[1] if len(node.inputs) > 1 else None
    axes = gir.attribute(node, "axes") if second is None else gir.known_ints(second)
    if found is None or not rank or not axes:
        return False
    removed = {axis % rank for axis in axes}
    if found.axis in removed:
        return False
    axis = found.axis if gir.attribute(node, "keepdims", 1) else found.axis - sum(a < found.axis for a in removed)
    unbounded = node.op_type == "ReduceSum"
    low = np.full(found.low.shape, -np.inf) if unbounded else found.low
    high = np.full(found.low.shape, np.inf) if unbounded else found.high
    reader.note(node.outputs[0], Channels(axis, found.ids, low, high))
    return True


def _spatial(reader: Reader, node: ir.Node) -> bool:
    """Pad and Resize along other axes than that of the channels."""
    found = reader.channels(node.inputs[0])
    before, after = gir.dims(node.inputs[0]), gir.dims(node.outputs[0])
    if found is None or before is None or after is None or len(before) != len(after):
        return False
    if not isinstance(before[found.axis], int) or before[found.axis] != after[found.axis] or reader.version < 11:
        return False
    if node.op_type == "Resize":
        if gir.attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
            return False
    else:
        pads = gir.known_ints(node.inputs[1])
        filled = node.inputs[2] if len(node.inputs) > 2 else None
        given = len(node.inputs) > 3 and node.inputs[3] is not None
        if given or pads is None or pads[found.axis] or pads[found.axis + len(before)]:
            return False
        if filled is not None and gir.scalar(filled) != 0:
            return False
    nothing = np.full(len(found.ids), np.inf)
    return _same(reader, node, -nothing, nothing)


_HANDLERS: dict[str, Callable[[Reader, ir.Node], bool]] = {
    **dict.fromkeys(("Identity",), _identity),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"), _pool),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), _reduce),
    **dict.fromkeys(("Add", "Max", "Min", "Sub", "Sum"), joining.add),
    **dict.fromkeys(("Div", "Mul"), joining.gate),
    **dict.fromkeys(("LeakyRelu", "PRelu"), _leaky),
    **dict.fromkeys(("Pad", "Resize"), _spatial),
    "Clip": _clip,
    "Concat": joining.concat,
    "Dropout": _dropout,
    "Relu": _relu,
    "Split": joining.split,
    "Transpose": _transpose,
}
