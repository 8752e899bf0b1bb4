"""Masks that are meant to be minus infinity, brought within the range of a narrow type.

    Softmax(x + m), m = -3.4e38   =   Softmax(x + m), m = -16384        in every row with a place that is not masked

The exponential of either is 0 beside a number 105 larger. In a row that is masked altogether the first gives equal
shares and the second those of x, until float16 rounds x away. What is between the constant and the Softmax must move
numbers only, add to them, or multiply by a whole number (a mask of zeros and ones).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._forms import FLOAT
from ._measure import limits

_LEAST = -1e4  # what is nearer to 0 may be a number
_SHAPING = ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "Expand", "Concat")
_MOVING = (*_SHAPING, "Flatten", "Tile", "Trilu", "Dropout")
_ENDS = {"Softmax": (0,), "Attention": (3,), "MultiHeadAttention": (5,), "GroupQueryAttention": (10,)}
_DEPTH = 8
_MOST = 1000  # values on the way to the Softmax: a mask is near those who use it


def bound(narrow: ir.DataType) -> float:
    """What a mask becomes: three of them still add up to a number of the type."""
    largest, _ = limits(narrow)
    return -(2.0 ** (math.floor(math.log2(largest)) - 1))


def far_masks(graph: ir.Graph, narrow: ir.DataType) -> Iterator[ir.Value]:
    """Constants below the range of a type, and results of ConstantOfShape with such a value, that only mask."""
    largest, _ = limits(narrow)
    sources = [value for value in graph.initializers.values() if not value.is_graph_input()]
    sources += [node.outputs[0] for node in graph if gir.is_op(node, "Constant", "ConstantOfShape")]
    for value in sources:
        elements = fill(value)
        if elements is None or value.dtype != FLOAT or not elements.size:
            continue
        least = float(elements.min())
        if -math.inf < least < min(-largest, _LEAST) and not (elements > largest).any() and _only_masks(value, graph):
            yield value


def fill(value: ir.Value) -> np.ndarray | None:
    """The elements of a constant, or of the value of a ConstantOfShape."""
    node = value.producer()
    if node is None or not gir.is_op(node, "ConstantOfShape"):
        return gir.array(value)
    given = gir.attribute(node, "value")
    return None if given is None or gir.has_reference(node) else given.numpy()


def bring_near(value: ir.Value, graph: ir.Graph, narrow: ir.DataType) -> None:
    """The edit."""
    elements, node = fill(value), value.producer()
    assert elements is not None
    near = np.maximum(elements, np.float32(bound(narrow)))
    if node is not None and gir.is_op(node, "ConstantOfShape"):
        node.attributes.add(ir.AttrTensor("value", ir.tensor(near)))
    else:
        gir.replace(value, gir.new_initializer(graph, near, f"{value.name}_near"))


def _only_masks(start: ir.Value, graph: ir.Graph) -> bool:
    """True when all that comes of a value goes into the exponential of a Softmax."""
    pending, seen = [start], {start}
    while pending:
        value = pending.pop()
        if value.is_graph_output() or not value.uses() or len(seen) > _MOST:
            return False
        for user, index in value.uses():
            if user.graph is not graph:
                return False
            if gir.is_op(user, *_ENDS) or gir.is_op(user, *_ENDS, domain="com.microsoft"):
                if index not in _ENDS[user.op_type]:
                    return False
                continue
            if not _passes_on(user, index):
                return False
            for output in user.outputs:
                if output not in seen:
                    seen.add(output)
                    pending.append(output)
    return True


def _passes_on(user: ir.Node, index: int) -> bool:
    """True for a node that gives out a mask where it gets one."""
    if gir.is_op(user, *_MOVING):
        return index == 0 or gir.is_op(user, "Concat")
    if gir.is_op(user, "Where"):
        return index in (1, 2)
    if gir.is_op(user, "Mul"):
        return _is_whole(user.inputs[1 - index], _DEPTH)
    return gir.is_op(user, "Add")


def _is_whole(value: ir.Value | None, depth: int) -> bool:
    """True for whole numbers of zero or above one in magnitude, by where they come from."""
    elements = gir.array(value, max_elements=1 << 20)
    if elements is not None:
        return elements.dtype.kind in "iub" or bool(np.array_equal(elements, np.round(elements)))
    node = value.producer() if value is not None else None
    if node is None or depth == 0:
        return False
    if gir.is_op(node, "Cast"):
        dtype = node.inputs[0].dtype if node.inputs[0] is not None else None
        return dtype is not None and (dtype.is_integer() or dtype == ir.DataType.BOOL)
    if gir.is_op(node, "Sub", "Add", "Mul"):
        return all(_is_whole(operand, depth - 1) for operand in node.inputs)
    return gir.is_op(node, *_SHAPING) and _is_whole(node.inputs[0], depth - 1)
