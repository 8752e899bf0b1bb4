"""Element types of calls that are yet to be written, from the operators' type letters."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from .schema import allowed_types, operand_types, result_types
from .syntax import Choice

Types = Sequence[ir.DataType | None]


def result_type(choice: Choice, version: int, operands: Types, index: int = 0) -> ir.DataType | None:
    """The element type of a call's result, None when it does not follow from the operands."""
    domain, op_type = choice
    results = result_types(domain, op_type, version, index + 1)
    letters = operand_types(domain, op_type, version, len(operands))
    if results is None:
        return None
    for letter, known in zip(letters or (), operands, strict=False):
        if letter == results[index] and known is not None:
            return known
    allowed = allowed_types(domain, op_type, version, results[index])
    return next(iter(allowed)) if len(allowed) == 1 else None


def literal_type(choice: Choice, version: int, operands: Types, position: int, whole: bool) -> ir.DataType | None:
    """The element type for a number written as an operand, None when it does not follow from the others.

    Args:
        choice: the operator.
        version: of its domain.
        operands: the types of all operands, None where unknown and at literals.
        position: which operand the number is.
        whole: true for an integer.
    """
    domain, op_type = choice
    known = [kind for kind in operands if kind is not None]
    letters = operand_types(domain, op_type, version, len(operands))
    if letters is None:
        return known[0] if known else None
    letter = letters[position]
    allowed = allowed_types(domain, op_type, version, letter)
    if len(allowed) == 1:
        return next(iter(allowed))
    twins = [index for index, other in enumerate(letters) if other == letter and index != position]
    if twins:
        return next((kind for index in twins if (kind := operands[index]) is not None), None)
    if whole and ir.DataType.FLOAT not in allowed:
        return ir.DataType.INT64 if ir.DataType.INT64 in allowed else None
    return next((kind for kind in known if kind in allowed), None)
