"""x + 0 = x, x - 0 = x, x * 1 = x, x / 1 = x, x ** 1 = x, x And true = x, x Or false = x.

Where(true, x, y) = x, Where(false, x, y) = y.

Exact, zeros of either sign counting as equal. A shape that only the broadcast would give is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.events import Site, Sites
from graphopt.ir import array, can_hand_over, is_op, nodes, replace, same_shape, where
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

# operator -> neutral element, and whether it may stand on the left
_NEUTRAL = {
    "Add": (0, True),
    "Sub": (0, False),
    "Mul": (1, True),
    "Div": (1, False),
    "Pow": (1, False),
    "And": (True, True),
    "Or": (False, True),
}
_MAX_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class EliminateNeutral(Pass):
    """Removes arithmetic with the neutral element.

    Kept: where the constant's shape widens the result, or an unknown shape might.
    """

    name: ClassVar[str] = "eliminate-neutral"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per operation with a neutral constant."""
        for node in nodes(model):
            if is_op(node, "Where"):
                source = _chosen(node)
            elif is_op(node, *_NEUTRAL) and len(node.inputs) == 2:
                source = _other_operand(node)
            else:
                continue
            if source is None:
                continue
            result = node.outputs[0]
            if not _keeps_shape(source, node):
                yield Site(where(node), "another operand may widen the shape")
            elif can_hand_over(result, source):
                yield Site(where(node), "the constant is neutral, removed", lambda r=result, s=source: replace(r, s))
            else:
                yield Site(where(node), "it names a graph output")


def _other_operand(node: ir.Node) -> ir.Value | None:
    """The operand that is the result, or None when the other is no neutral constant."""
    neutral, commutes = _NEUTRAL[node.op_type]
    left, right = node.inputs
    if _is_all(right, neutral):
        return left
    return right if commutes and _is_all(left, neutral) else None


def _chosen(node: ir.Node) -> ir.Value | None:
    """What a Where of a constant condition picks everywhere."""
    condition, first, second = node.inputs
    if _is_all(condition, True):
        return first
    return second if _is_all(condition, False) else None


def _is_all(value: ir.Value | None, number: float) -> bool:
    elements = array(value, _MAX_ELEMENTS)
    return elements is not None and elements.size > 0 and bool(np.all(elements == number))


def _keeps_shape(source: ir.Value, node: ir.Node) -> bool:
    if same_shape(source, node.outputs[0]):
        return True
    if is_op(node, "Where"):
        return False
    constant = next(value for value in node.inputs if value is not source or node.inputs[0] is node.inputs[1])
    elements = array(constant, _MAX_ELEMENTS)
    return elements is not None and elements.ndim == 0
