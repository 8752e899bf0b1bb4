"""What a computed shape or scale is, element by element, as numbers times symbols: ``2*h`` is (2, ("h",))."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import onnx_ir as ir
from onnx_shape_inference import SYM_DATA_KEY

from graphopt import ir as gir

from ._sizes import product

Amount = tuple[Fraction, tuple[str, ...], tuple[str, ...]]
"""A number, the symbols it is multiplied by, and those it is divided by; both sorted, none in both."""

_SAME = ("Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Floor", "Ceil", "Round")
_DEEPEST = 12
_LONGEST = 16


def amount(size: int | str | None) -> Amount | None:
    """A dimension."""
    found = product((size,))
    return None if found is None else (Fraction(found[0]), found[1], ())


def quotient(first: Amount, second: Amount) -> Amount | None:
    """One divided by the other."""
    if not second[0]:
        return None
    above, below = list(first[1] + second[2]), list(first[2] + second[1])
    for symbol in tuple(above):
        if symbol in below:
            above.remove(symbol)
            below.remove(symbol)
    return first[0] / second[0], tuple(sorted(above)), tuple(sorted(below))


def times(first: Amount, second: Amount) -> Amount | None:
    """The product."""
    return None if not second[0] else quotient(first, (1 / second[0], second[2], second[1]))


def amounts(value: ir.Value | None, depth: int = _DEEPEST) -> list[Amount | None] | None:
    """The elements of a tensor of rank 0 or 1; None for one that is not known, and for the whole when none is.

    Floating-point numbers are taken to be exact, which those are that count elements.
    """
    rank = gir.rank(value)
    if value is None or not depth:
        return None
    elements = gir.array(value, max_elements=_LONGEST)
    if elements is not None:
        kinds = elements.ndim <= 1 and elements.dtype.kind in "iuf" and bool(np.isfinite(elements).all())
        return [(Fraction(item.item()), (), ()) for item in elements.reshape(-1)] if kinds else None
    node = value.producer()
    if node is not None and not gir.has_reference(node) and (rank is None or rank <= 1):
        found = _computed(node, depth)
        if found is not None:
            return found
    return _inferred(value)


def _inferred(value: ir.Value) -> list[Amount | None] | None:
    text = value.metadata_props.get(SYM_DATA_KEY)
    if text is None:
        return None
    return [None if item in (None, "None", "") else amount(item) for item in json.loads(text)]


def _computed(node: ir.Node, depth: int) -> list[Amount | None] | None:
    if gir.is_op(node, *_SAME):
        below = amounts(node.inputs[0], depth - 1)
        if below is not None and gir.is_op(node, "Floor", "Ceil", "Round", "Cast"):
            return [item if item is None or _is_whole(item) else None for item in below]
        return below
    if gir.is_op(node, "Concat") and gir.attribute(node, "axis") in (0, -1):
        parts: list[Amount | None] = []
        for operand in node.inputs:
            part = amounts(operand, depth - 1)
            length = gir.static_dims(operand)
            if part is None and (length is None or len(length) != 1 or length[0] > _LONGEST):
                return None
            parts += part if part is not None else [None] * (length or (0,))[0]
        return parts
    if gir.is_op(node, "Slice"):
        return _slice(node, depth)
    if gir.is_op(node, "Shape"):
        shape = gir.dims(node.inputs[0])
        cut = slice(gir.attribute(node, "start", 0), gir.attribute(node, "end"))
        return None if shape is None else [amount(size) for size in shape[cut]]
    if gir.is_op(node, "Mul"):
        return _by_element(node, times, depth)
    if gir.is_op(node, "Div") and node.outputs[0].dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return _by_element(node, quotient, depth)
    return None


def _is_whole(item: Amount) -> bool:
    return item[0].denominator == 1 and not item[2]


def _slice(node: ir.Node, depth: int) -> list[Amount | None] | None:
    below = amounts(node.inputs[0], depth - 1)
    starts, ends, steps = gir.attribute(node, "starts"), gir.attribute(node, "ends"), (1,)
    if starts is None and len(node.inputs) >= 3:
        starts, ends = gir.known_ints(node.inputs[1]), gir.known_ints(node.inputs[2])
        steps = gir.known_ints(node.inputs[4]) if len(node.inputs) == 5 and node.inputs[4] is not None else (1,)
    if below is None or not starts or not ends or steps != (1,):
        return None
    return below[starts[0] : ends[0]]


def _by_element(
    node: ir.Node, compute: Callable[[Amount, Amount], Amount | None], depth: int
) -> list[Amount | None] | None:
    first, second = (amounts(value, depth - 1) for value in node.inputs[:2])
    if first is None or second is None or not first or not second:
        return None
    length = max(len(first), len(second))
    if {len(first), len(second)} - {1, length}:
        return None
    pairs = zip(_spread(first, length), _spread(second, length), strict=True)
    return [None if one is None or two is None else compute(one, two) for one, two in pairs]


def _spread(items: Sequence[Amount | None], length: int) -> list[Amount | None]:
    return list(items) * length if len(items) == 1 else list(items)
