"""What a floating-point type can hold, against what a node touches: its constants, and what was seen of its tensors."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._forms import Form, Kind, Refusal
from ._groups import Choice
from ._measure import Numbers, limits

_SUMMING = frozenset(("ReduceMean", "GlobalAveragePool"))
_SQUARING = frozenset(("ReduceL2", "ReduceSumSquare", "LpNormalization", "InstanceNormalization", "GroupNormalization"))


class Range:
    """The range of one type.

    Args:
        narrow: the type.
    """

    def __init__(self, narrow: ir.DataType) -> None:
        self._narrow = narrow
        self._largest, _ = limits(narrow)

    def check_constants(self, node: ir.Node, found: Form) -> None:
        """Raise a Refusal for constants that the type cannot hold."""
        for index in found.operands:
            value = node.inputs[index]
            elements = gir.array(value)
            if elements is None or not elements.size or value is None:
                continue
            with np.errstate(all="ignore"):
                narrow = elements.astype(self._narrow.numpy()).astype(np.float32)
            if np.isnan(elements).any():
                raise Refusal(f"the constant '{value.name}' holds NaN")
            if np.isinf(narrow[np.isfinite(elements)]).any():
                largest = np.abs(elements[np.isfinite(elements)]).max()
                raise Refusal(f"the constant '{value.name}' reaches {largest:.3g}, {self}")
            if elements.size == 1 and (narrow == 0).all() and (elements != 0).all():
                raise Refusal(f"the constant '{value.name}' of {float(elements.reshape(-1)[0]):.3g} would become 0")
            if found.kind is Kind.READING and not np.array_equal(narrow, elements):
                raise Refusal(f"the constant '{value.name}' would be rounded, and it is compared with")

    def __str__(self) -> str:
        return f"{self._narrow.name.lower()} ends at {self._largest:.6g}"

    def objection(self, choice: Choice, numbers: dict[str, Numbers]) -> str:
        """Why the numbers seen forbid the narrow form; "" when they do not. Fills in what was measured of the node."""
        node, found = choice.node, choice.form
        assert found is not None
        used = [node.inputs[index] for index in found.operands if gir.constant(node.inputs[index]) is None]
        given = [node.outputs[index] for index in found.results]
        seen = {value: numbers.get(value.name or "") for value in (*used, *given) if value is not None and value.name}
        for value, what in seen.items():
            if what is None:
                return f"nothing was seen of '{value.name}'"
            if what.largest > self._largest:
                return f"'{value.name}' reaches {what.largest:.3g}, {self}"
        results = [what for value in given if (what := seen.get(value)) is not None]
        if any(what.breaks for what in results):
            return f"computed in {self._narrow.name.lower()} alone it gives inf or NaN"
        choice.share_small = max((what.share_small for what in results), default=0.0)
        if found.kind is Kind.ARITHMETIC:
            choice.sqnr_db = min((what.sqnr_db for what in results), default=math.inf)
        operands = [what for value in used if value is not None and (what := seen.get(value)) is not None]
        return self._intermediate(node, operands, results)

    def _intermediate(self, node: ir.Node, operands: list[Numbers], results: list[Numbers]) -> str:
        """What a kernel that adds up in the narrow type would run into, though the result fits."""
        if not operands or not results:
            return ""
        reached = 0.0
        if gir.is_op(node, *_SUMMING):
            reached = results[0].largest * max(operands[0].elements / max(results[0].elements, 1), 1.0)
        elif gir.is_op(node, *_SQUARING):
            reached = operands[0].largest ** 2
        return f"its sum reaches {reached:.3g}, {self}" if reached > self._largest else ""

    def holds(self, value: ir.Value | None) -> bool:
        """An omitted operand, or a constant whose numbers the type holds exactly."""
        elements = gir.array(value)
        if elements is None:
            return value is None
        with np.errstate(all="ignore"):
            return bool(np.array_equal(elements.astype(self._narrow.numpy()).astype(np.float32), elements))
