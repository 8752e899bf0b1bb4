"""What a Resize or an Upsample does: by which whole factors, and whether it repeats elements."""

from __future__ import annotations

from math import prod
from typing import Any

import onnx_ir as ir

from graphopt import ir as gir

from ._proportions import amount, amounts, quotient
from ._rotary import Dims

_ROUND = ("round_prefer_floor", "round_prefer_ceil")
_EQUAL = {("asymmetric", "floor"), ("tf_half_pixel_for_nn", "floor")} | {
    (name, mode) for name in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric") for mode in _ROUND
}


def option(node: ir.Node, name: str) -> Any:
    """An attribute, or its default."""
    defaults = {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": _ROUND[0]}
    return gir.attribute(node, name, defaults[name])


def repeats(node: ir.Node) -> bool:
    """True when whole factors make it repeat elements."""
    if option(node, "mode") != "nearest":
        return False
    if node.op_type == "Upsample" or (len(node.inputs) == 2 and "nearest_mode" not in node.attributes):
        return True  # Upsample, and Resize of version 10
    names = ("coordinate_transformation_mode", "nearest_mode")
    return (option(node, names[0]), option(node, names[1])) in _EQUAL and not gir.attribute(node, "antialias", 0)


def scales_of(node: ir.Node) -> ir.Value | None:
    """The operand of the scales, if there is one."""
    place = 1 if node.op_type == "Upsample" or len(node.inputs) == 2 else 2
    value = node.inputs[place] if len(node.inputs) > place else None
    shape = gir.static_dims(value)
    return None if shape is not None and prod(shape) == 0 else value


def sizes_of(node: ir.Node) -> ir.Value | None:
    """The operand of the sizes, if there is one."""
    return node.inputs[3] if node.op_type == "Resize" and len(node.inputs) > 3 else None


def given(node: ir.Node) -> ir.Value | None:
    """The operand that says how large the result is."""
    sizes = sizes_of(node)
    return sizes if sizes is not None else scales_of(node)


def whole_factors(node: ir.Node, shape: Dims) -> tuple[int, ...] | None:
    """The whole factors by which it resizes each axis, 1 or more, or None."""
    if gir.attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    if gir.attribute(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return None
    sizes = sizes_of(node)
    if node.op_type == "Upsample" and len(node.inputs) == 1:
        found = [amount(int(scale)) if scale == int(scale) else None for scale in gir.attribute(node, "scales", ())]
    else:
        found = amounts(sizes if sizes is not None else scales_of(node))
    if found is None or len(found) != len(shape) or not shape:
        return None
    factors: list[int] = []
    for item, size in zip(found, shape, strict=True):
        own = amount(size)
        if item is not None and sizes is not None:
            item = None if own is None else quotient(item, own)
        if item is None or item[1] or item[2] or item[0].denominator != 1 or item[0] < 1:
            return None
        factors.append(int(item[0]))
    return tuple(factors)
