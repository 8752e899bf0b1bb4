"""When a constant of a graph is the number that a pattern or a condition asks for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.ir import facts

from .schema import BROADCASTING

NEAR = 1e-5
"""Relative tolerance: exporters write the square root of 2 as 1.41421354, 1.4142135 or 1.4142."""

_EPSILON = {
    ir.DataType.FLOAT16: 2.0**-10,
    ir.DataType.BFLOAT16: 2.0**-7,
    ir.DataType.FLOAT: 2.0**-23,
    ir.DataType.DOUBLE: 2.0**-52,
}


def is_near(found: float, wanted: float, dtype: ir.DataType, rtol: float = NEAR) -> bool:
    """True for the wanted number: integers exactly, floats up to ``rtol`` or the rounding of their type."""
    if dtype not in _EPSILON:
        return not isinstance(found, complex) and found == wanted
    if np.isinf(wanted) or wanted == 0:
        return bool(found == wanted)
    return bool(abs(found - wanted) <= max(rtol, _EPSILON[dtype]) * abs(wanted))


def is_vector(value: ir.Value | None, wanted: Sequence[int | float]) -> bool:
    """True for a constant of rank 1 with these elements."""
    tensor = facts.constant(value)
    if tensor is None or tensor.shape.rank() != 1 or tensor.size != len(wanted) or tensor.dtype == ir.DataType.STRING:
        return False
    elements = tensor.numpy().tolist()
    return all(is_near(element, number, tensor.dtype) for element, number in zip(elements, wanted, strict=True))


def shape_objection(value: ir.Value, node: ir.Node, position: int) -> str | None:
    """Why a constant of one element cannot stand for a bare number as an operand of a node; None when it can.

    ``[[0.5]]`` (rank 2) times a vector has rank 2, so leaving the product out changes the shape; times a
    matrix it does not.
    """
    own = facts.rank(value)
    if not own:
        return None
    name = f"the constant {facts.scalar(value):.7g} has rank {own}"
    if node.domain == "" and node.op_type in BROADCASTING:
        ranks = [
            facts.rank(other) for index, other in enumerate(node.inputs) if index != position and other is not None
        ]
        known = [rank for rank in ranks if rank is not None]
        if known and max(known) >= own:
            return None
        return f"{name}, and the other operand " + (
            "has fewer dimensions" if len(known) == len(ranks) else "may have fewer"
        )
    if node.domain == "" and node.op_type == "Clip":
        return None
    return name
